// Sessions that step together: each gets what it would get alone, and nobody's failure is another's.
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { Batcher } from '../src/decode/batch.js';
import { MagicpigError, loadModel } from '../src/index.js';
import type { LoadOptions, Model, Session, SessionOptions } from '../src/index.js';
import type { NativeModel, NativeSession } from '../src/native.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';
import type { TinyShape } from './support/tiny-llama.js';

const vocabulary = 264;

async function tinyModel(t: ExecutionContext, shape: Partial<TinyShape> = {}, options: LoadOptions = {}): Promise<Model> {
  const spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096, ...shape });
  const model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec), { threads: 2, ...options });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

const textOf = (seed: number, length: number) => Array.from({ length }, (_, i) => (i * i * 7 + seed * i + seed) % vocabulary);

/**
 * Texts of several lengths under policies that draw, hash, verify and read everything; so many that groups of every size come up, and that two
 * threads take them through the model in two parts.
 */
const members: readonly { length: number; options: SessionOptions }[] = [
  { length: 900, options: { policy: 'sketch', seed: 1 } },
  { length: 1500, options: { policy: 'lsh', seed: 2 } },
  { length: 40, options: { policy: 'exact' } },
  { length: 700, options: { policy: 'sketch', epsilon: 0.2, seed: 3 } },
  { length: 1, options: { policy: 'sketch', rows: 'int8' } },
  { length: 1200, options: { policy: 'sketch', residual: true, denseLayers: [0] } },
  { length: 650, options: { policy: 'oracle', seed: 4 } },
  { length: 800, options: { policy: 'sketch', seed: 5 } },
  { length: 300, options: { policy: 'lsh', rows: 'int8', seed: 6 } },
];

async function sessionsOf(t: ExecutionContext, model: Model, of: readonly { length: number; options: SessionOptions }[]): Promise<Session[]> {
  return await Promise.all(of.map(async ({ length, options }, number) => {
    const session = model.createSession({ tuned: false, ...options });
    t.teardown(() => { session.dispose(); });
    await session.prefill(textOf(number + 1, length));
    return session;
  }));
}

const tokenAt = (step: number, number: number) => (step * 31 + number * 17) % vocabulary;

async function together(model: Model, sessions: readonly Session[], steps: number): Promise<Float32Array[][]> {
  const logits: Float32Array[][] = [];
  for (let step = 0; step < steps; step += 1) {
    const outcomes = await model.stepBatch(sessions, sessions.map((_, number) => tokenAt(step, number)));
    logits.push(outcomes.map((outcome) => {
      if (outcome.status === 'rejected') throw outcome.reason;
      return outcome.value;
    }));
  }
  return logits;
}

for (const [name, shape] of [['floats', {}], ['blocks of 4 bits', { type: 'Q4_1', feedForward: 128 }], ['blocks of 8 bits', { type: 'Q8_0', feedForward: 128 }]] as const) {
  test(`a batch gets to the bit what each session gets alone: ${name}`, async (t) => {
    const model = await tinyModel(t, shape);
    const steps = 20;
    const alone = await sessionsOf(t, model, members);
    const expected: Float32Array[][] = Array.from({ length: steps }, () => []);
    for (const [number, session] of alone.entries()) {
      for (let step = 0; step < steps; step += 1) expected[step]!.push(await session.step(tokenAt(step, number)));
    }
    const batch = await sessionsOf(t, model, members);
    const logits = await together(model, batch, steps);
    t.deepEqual(logits, expected);
    t.deepEqual(batch.map(({ tokens }) => tokens), alone.map(({ tokens }) => tokens));
    t.deepEqual(batch.map((session) => session.stats().keysRead), alone.map((session) => session.stats().keysRead));
    // Three of them, and on one thread, are no other.
    const one = await tinyModel(t, shape, { threads: 1 });
    const few = await together(one, await sessionsOf(t, one, members.slice(0, 3)), steps);
    t.deepEqual(few, expected.map((row) => row.slice(0, 3)));
    // Negative control: a row that is another's is noticed.
    t.notDeepEqual(logits.map(([first, second, ...rest]) => [second, first, ...rest]), expected);
  });
}

test('texts that are written at the same time are those that are written one after the other', async (t) => {
  const model = await tinyModel(t);
  const write = async (session: Session, number: number) => {
    const tokens: number[] = [];
    for await (const { token } of session.generate({ maxTokens: 10 + 5 * number, temperature: 1, seed: number })) tokens.push(token);
    return tokens;
  };
  const expected: number[][] = [];
  for (const [number, session] of (await sessionsOf(t, model, members)).entries()) expected.push(await write(session, number));
  const sessions = await sessionsOf(t, model, members);
  t.deepEqual(await Promise.all(sessions.map(write)), expected);
});

test('a session that fails stays as it was, and the others go on', async (t) => {
  const model = await tinyModel(t);
  const [a, b, c, d] = await sessionsOf(t, model, members.slice(0, 4)) as [Session, Session, Session, Session];
  const [x, , , y] = await sessionsOf(t, model, members.slice(0, 4)) as [Session, Session, Session, Session];
  const before = b.tokens;
  const aborted = new AbortController();
  const steps = [a.step(1), b.step(2, { signal: aborted.signal }), c.step(3), d.step(4)];
  // The batch has begun when events had their turn: one is told to stop, another is disposed of.
  setImmediate(() => {
    aborted.abort();
    c.dispose();
  });
  const [first, second, third, fourth] = await Promise.allSettled(steps);
  t.deepEqual(first, { status: 'fulfilled', value: await x.step(1) });
  t.deepEqual(fourth, { status: 'fulfilled', value: await y.step(4) });
  if (second?.status === 'rejected') {
    t.like(second.reason, { code: 'ABORTED' });
    t.deepEqual(b.tokens, before);
  } else {
    t.deepEqual(b.tokens, [...before, 2]);
  }
  t.true(third?.status === 'fulfilled' || (third?.reason as { code: string }).code === 'DISPOSED', JSON.stringify(third));
  const gone = await model.stepBatch([a, c, d], [5, 5, 5]);
  t.deepEqual(gone.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled']);
  t.like(gone[1], { reason: { code: 'DISPOSED' } });
  const busy = a.step(6);
  const outcomes = await model.stepBatch([a, b], [7, 7]);
  await busy;
  t.like(outcomes, [{ status: 'rejected', reason: { code: 'SESSION_BUSY' } }, { status: 'fulfilled' }]);
});

test('a part of a batch of which every session stops leaves the other part as it is', async (t) => {
  const model = await tinyModel(t);
  const eight = members.slice(0, 8);
  const [batch, alone] = [await sessionsOf(t, model, eight), await sessionsOf(t, model, eight)];
  const before = batch.map(({ tokens }) => tokens);
  const aborted = new AbortController();
  const steps = batch.map((session, number) => session.step(number, number < 4 ? { signal: aborted.signal } : {}));
  setImmediate(() => { aborted.abort(); });
  for (const [number, outcome] of (await Promise.allSettled(steps)).entries()) {
    if (outcome.status === 'rejected') {
      t.true(number < 4);
      t.like(outcome.reason, { code: 'ABORTED' });
      t.deepEqual(batch[number]!.tokens, before[number]);
    } else {
      t.deepEqual(outcome.value, await alone[number]!.step(number));
    }
  }
});

test('logits are written to arrays that are given', async (t) => {
  const model = await tinyModel(t);
  const two = members.slice(0, 2);
  const [[a, b], [x, y]] = [await sessionsOf(t, model, two), await sessionsOf(t, model, two)] as [[Session, Session], [Session, Session]];
  const [first, second] = [new Float32Array(vocabulary), new Float32Array(vocabulary)];
  t.is(await a.step(1, { out: first }), first);
  t.deepEqual(first, await x.step(1));
  const outcomes = await model.stepBatch([a, b], [2, 3], { out: [first, second] });
  t.true(outcomes.every((outcome, i) => outcome.status === 'fulfilled' && outcome.value === [first, second][i]));
  t.deepEqual(first, await x.step(2));
  t.deepEqual(second, await y.step(3));
  // What the caller does to its array is not done to the session's own logits.
  const expected = await x.step(4);
  await a.step(4, { out: first });
  first.fill(0);
  for await (const { token } of a.generate({ maxTokens: 1, temperature: 0 })) t.is(token, expected.indexOf(Math.max(...expected)));
  // Nor does one that is taken away while the step is made lose its logits.
  const taken = new Float32Array(vocabulary);
  const stepping = b.step(9, { out: taken });
  structuredClone(taken.buffer, { transfer: [taken.buffer] });
  t.deepEqual(await stepping, await y.step(9));
  const kept = first.slice();
  const tokens = a.tokens;
  const refused = async (step: Promise<unknown>, message: RegExp) => {
    await t.throwsAsync(step, { code: 'INVALID_OPTION', message });
    t.deepEqual(a.tokens, tokens);
    t.deepEqual(first, kept);
  };
  await refused(a.step(1, { out: new Float32Array(3) }), /a Float32Array of 3 elements; it must be a Float32Array of 264/);
  await refused(a.step(1, { out: new Float64Array(vocabulary) as never }), /out is a Float64Array/);
  await refused(model.stepBatch([a, b], [1, 1], { out: [first] }), /2 sessions and 1 different arrays/);
  await refused(model.stepBatch([a, b], [1, 1], { out: [first, first] }), /2 sessions and 1 different arrays/);
  await refused(model.stepBatch([a, b], [1, 1], { out: [first, null as never] }), /an array in out is null/);
  await refused(model.stepBatch([a, b], [1, 1], { out: first as never }), /takes lists/);
});

test('who is ready while a step is made joins the next, and who is ready alone waits for nobody', async (t) => {
  const log: string[][] = [];
  const session = (name: string) => ({ name, decodeToken: () => log.push([name]) }) as unknown as NativeSession;
  const weights = {
    decodeBatch: async (steps: { native: { name: string } }[]) => {
      log.push(steps.map(({ native }) => native.name));
      await new Promise((resolve) => setTimeout(resolve, 5));
      return steps.map(({ native }) => (native.name === 'x' ? new MagicpigError('DISK_FULL', 'full') : new Float32Array(1)));
    },
  } as unknown as NativeModel;
  const batcher = new Batcher(weights);
  const step = async (name: string) => batcher.step({ native: session(name), token: 0, position: 0, logits: new Float32Array(1), signal: undefined });
  const write = async (name: string, steps: number) => {
    for (let i = 0; i < steps; i += 1) await step(name);
  };
  await write('a', 2);
  t.deepEqual(log.splice(0), [['a'], ['a']]);
  const both = Promise.all([write('a', 4), write('b', 2)]);
  const failing = t.throwsAsync(step('x'), { code: 'DISK_FULL' });
  while (log.length === 0) await new Promise((resolve) => setImmediate(resolve));
  await Promise.all([both, failing, write('c', 3)]);
  t.deepEqual(log.map((names) => names.toSorted().join('')), ['abx', 'abc', 'ac', 'ac']);
});

test('an aborted batch takes back every token', async (t) => {
  const model = await tinyModel(t);
  const sessions = await sessionsOf(t, model, members.slice(0, 3));
  const before = sessions.map(({ tokens }) => tokens);
  const outcomes = await model.stepBatch(sessions, [1, 2, 3], { signal: AbortSignal.abort() });
  for (const outcome of outcomes) t.like(outcome, { status: 'rejected', reason: { code: 'ABORTED' } });
  t.deepEqual(sessions.map(({ tokens }) => tokens), before);
});

test('what is no batch is refused before anything is done', async (t) => {
  const model = await tinyModel(t);
  const [a, b] = await sessionsOf(t, model, members.slice(0, 2)) as [Session, Session];
  const [stranger] = await sessionsOf(t, await tinyModel(t), members.slice(0, 1)) as [Session];
  const refused = async (sessions: unknown, tokens: unknown, message: RegExp) => {
    await t.throwsAsync(model.stepBatch(sessions as Session[], tokens as number[]), { code: 'INVALID_OPTION', message });
  };
  await refused([a, a], [1, 2], /twice/);
  await refused([a, stranger], [1, 2], /another model/);
  await refused([a, b], [1], /2 sessions and 1 tokens/);
  await refused([a, b], [1, vocabulary], /token/);
  await refused(undefined, undefined, /takes lists: sessions, tokens/);
  await refused([a, undefined], [1, 2], /another model/);
  t.is(a.tokens.length, 900);
  t.deepEqual(await model.stepBatch([], []), []);
});
