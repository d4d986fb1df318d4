// Steps whose dense layers are elsewhere, with attention between them: as on a device, on ONNX Runtime's CPU provider.
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { type AttendBatch, halved } from '../src/decode/device-halves.js';
import { stepOnDevice } from '../src/decode/device-step.js';
import { MagicpigError, loadModel } from '../src/index.js';
import type { Model, Session, SessionOptions } from '../src/index.js';
import { openGguf } from '../src/model/gguf.js';
import type { NativeSession } from '../src/native.js';
import type { Attend, DenseGraph, Row, Stepped } from '../src/onnx/dense-graph.js';
import { Part, onHost } from '../src/onnx/runtime.js';
import { headParts } from '../src/onnx/transformer.js';
import { writeGguf } from './support/gguf-writer.js';
import { divergence, logSoftmax } from './support/log-probabilities.js';
import { onnxModel } from './support/onnx-model.js';
import { mean } from './support/predictions.js';
import { generated } from './support/session-folder.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

const vocabulary = 264;
const text = Array.from({ length: 1600 }, (_, i) => (i * i * 7 + i + 1) % vocabulary);
const steps = Array.from({ length: 24 }, (_, i) => (i * 31 + 5) % vocabulary);

const tiny = (t: ExecutionContext): string =>
  writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama({ layers: 3, headDim: 64, heads: 2, kvHeads: 1, context: 4096, type: 'Q8_0', feedForward: 128 }));

async function model(t: ExecutionContext, path = tiny(t)): Promise<Model> {
  const loaded = await onnxModel(path);
  t.teardown(() => loaded.dispose());
  return loaded;
}

async function stepped(session: Session, tokens: readonly number[]): Promise<number[][]> {
  const rows: number[][] = [];
  for (const token of tokens) rows.push(logSoftmax(await session.step(token)));
  return rows;
}

const apart = (a: readonly number[][], b: readonly number[][]): number => mean(a.map((row, i) => divergence(row, b[i]!)));

const policies: readonly SessionOptions[] = [
  { policy: 'exact' },
  { policy: 'sketch', budget: 0.1 },
  { policy: 'sketch', budget: 0.1, residual: true, denseLayers: [0] },
  { policy: 'sketch', epsilon: 0.2 },
  { policy: 'sketch', budget: 0.1, rows: 'int8' },
  { policy: 'lsh', lshK: 6, lshL: 40 },
  { policy: 'topk', budget: 0.1 },
  { policy: 'oracle', budget: 0.1 },
  { policy: 'quest', budget: 0.1 },
  { policy: 'static' },
];

test('steps are the CPU’s under every policy', async (t) => {
  const path = tiny(t);
  const elsewhere = await model(t, path);
  await using cpu = await loadModel(path, { threads: 2 });
  const under = async (of: Model, options: SessionOptions) => {
    using session = of.createSession({ seed: 3, tuned: false, ...options });
    await session.prefill(text);
    const rows = await stepped(session, steps);
    return { rows, stats: session.stats() };
  };
  const exact = await under(cpu, { policy: 'exact' });
  for (const options of policies) {
    const name = JSON.stringify(options);
    const [own, reference] = [await under(elsewhere, options), await under(cpu, options)];
    const off = apart(reference.rows, own.rows);
    t.log(`${name}: ${off.toExponential(2)} nats, ${own.stats.keysRead.toFixed(4)} of the keys (${reference.stats.keysRead.toFixed(4)})`);
    t.true(Math.abs(own.stats.keysRead / reference.stats.keysRead - 1) < 0.005, name);
    t.is(own.stats.policy, options.policy!);
    // What draws keys draws one or another elsewhere after any rounding: that is little beside what it leaves out.
    const leftOut = apart(exact.rows, own.rows);
    t.true(off < (options.policy === 'exact' || options.policy === 'static' ? 1e-6 : leftOut / 4), `${name}: ${off} of ${leftOut}`);
  }
});

test('a text read at once, in pieces or token by token predicts the same', async (t) => {
  const elsewhere = await model(t);
  const after = async (read: (session: Session) => Promise<unknown>) => {
    using session = elsewhere.createSession({ policy: 'exact' });
    await read(session);
    t.is(session.tokens.length, 600);
    const row = new Array<number>(vocabulary).fill(-Infinity);
    for await (const { top = [] } of session.generate({ maxTokens: 1, logprobs: vocabulary })) {
      for (const { token, logprob } of top) row[token] = logprob;
    }
    return row;
  };
  const whole = await after(async (session) => { await session.prefill(text.slice(0, 600)); });
  const pieces = await after(async (session) => {
    await session.prefill(text.slice(0, 530));
    await session.prefill(text.slice(530, 531));
    await session.prefill(text.slice(531, 590));
    await stepped(session, text.slice(590, 600));
  });
  t.true(divergence(whole, pieces) < 1e-6, String(divergence(whole, pieces)));
  // Control: with a token fewer in front of it the same end predicts something else.
  const shifted = await after(async (session) => { await session.prefill(text.slice(1, 601)); });
  t.true(divergence(whole, shifted) > 1e-4, String(divergence(whole, shifted)));
});

test('what was rewound is stepped again to the bit', async (t) => {
  const elsewhere = await model(t);
  using session = elsewhere.createSession({ policy: 'exact' });
  await session.prefill(text);
  const first = await stepped(session, steps);
  session.rewind(text.length);
  t.deepEqual(await stepped(session, steps), first);
});

test('a session opened again goes on to the bit, without reading a token again', async (t) => {
  const elsewhere = await model(t);
  const folder = join(temporaryFolder(t), 'session');
  const options = { policy: 'sketch', budget: 0.05, seed: 1, tuned: false } as const;
  const drawn = { maxTokens: 16, temperature: 1, seed: 4 };
  using never = elsewhere.createSession(options);
  await never.prefill(text);
  const first = await generated(never, drawn);
  {
    using session = await elsewhere.openSession(folder, options);
    await session.prefill(text);
    t.deepEqual(await generated(session, drawn), first);
  }
  using again = await elsewhere.openSession(folder, options);
  t.deepEqual(again.tokens, never.tokens);
  const before = again.stats().decodeMsPerToken;
  t.is(before, 0);
  t.deepEqual(await generated(again, drawn), await generated(never, drawn));
  t.deepEqual(await stepped(again, steps), await stepped(never, steps));
});

/** What begins or ends, and of which tokens in which layer. */
type Mark = readonly ['part' | 'attend' | 'attended', of: string];

const markOf = (tokens: readonly number[], layer: number) => `${tokens.join(' and ')} in layer ${layer}`;

/** Attends in the place of the addon, and takes a few turns of events for it: each session's output is its first v. They fail in layers of their own. */
function host(failing: ReadonlyMap<NativeSession, number>, marks: Mark[] = []): AttendBatch {
  return async (sessions, layer, { q, v }) => {
    const width = q.length / sessions.length;
    const first = (i: number) => v[(i * v.length) / sessions.length]!;
    const of = markOf(sessions.map((_, i) => (first(i) - layer) / 10), layer);
    marks.push(['attend', of]);
    for (let turn = 0; turn < 3; turn += 1) await nextTurn();
    marks.push(['attended', of]);
    const out = new Float32Array(q.length);
    const failures = sessions.map((session, i) => {
      if (session !== undefined && failing.get(session) === layer) return new MagicpigError('DISK_FULL', 'full');
      if (session !== undefined) out.fill(first(i), i * width, (i + 1) * width);
      return undefined;
    });
    return { out, failures };
  };
}

/** The tokens of a run, and what their attention gave. */
type Out = readonly [tokens: number[], out: number[]];

/** Three layers whose k and v are 10 times the token and the layer; a part begins in a turn of its own, as ONNX Runtime's do. */
function parts({ onPart, marks = [], outs = [] }: { onPart?: (layer: number) => void; marks?: Mark[]; outs?: Out[] }): DenseGraph {
  const step = async (rows: readonly Row[], attend: Attend): Promise<Stepped[]> => {
    const tokens = rows.map(({ token }) => token);
    for (let layer = 0; layer < 3; layer += 1) {
      await nextTurn();
      onPart?.(layer);
      marks.push(['part', markOf(tokens, layer)]);
      const v = Float32Array.from(tokens, (token) => 10 * token + layer);
      outs.push([tokens, [...await attend(layer, { q: new Float32Array(2 * rows.length), k: v, v })]]);
    }
    return rows.map(({ token, position }) => ({ logits: Float32Array.of(token), residual: Float32Array.of(position) }));
  };
  return { step } as unknown as DenseGraph;
}

/** A session that notes what is pushed; attended alone it writes its first v. */
function noting(): { native: NativeSession; pushed: number[]; layers: number[] } {
  const pushed: number[] = [];
  const layers: number[] = [];
  const native = {
    attendDecode: (layer: number, _q: Float32Array, _k: Float32Array, v: Float32Array, out: Float32Array) => {
      layers.push(layer);
      out.fill(v[0]!);
    },
    pushStep: (token: number, residual: Float32Array) => { pushed.push(token, ...residual); },
  };
  return { native: native as unknown as NativeSession, pushed, layers };
}

const stepOf = (native: NativeSession, token: number, position: number, signal?: AbortSignal) => ({ native, token, position, logits: new Float32Array(), signal });

test('a step that fails or is aborted between layers stays behind, and the others go on', async (t) => {
  const controller = new AbortController();
  const outs: Out[] = [];
  const dense = parts({ outs, onPart: (layer) => { if (layer === 2) controller.abort(new MagicpigError('ABORTED', 'enough')); } });
  const [fine, full, aborted, other] = [noting(), noting(), noting(), noting()];
  // In halves of tokens 4 and 1, and 3 and 2.
  const steps = [stepOf(fine.native, 1, 0), stepOf(full.native, 2, 100), stepOf(aborted.native, 3, 200, controller.signal), stepOf(other.native, 4, 300)];
  const outcomes = await stepOnDevice(dense, steps, host(new Map([[full.native, 1]])));
  t.deepEqual([outcomes[0], outcomes[3]], [Float32Array.of(1), Float32Array.of(4)]);
  t.like(outcomes[1], { code: 'DISK_FULL' });
  t.is(outcomes[2], controller.signal.reason);
  t.deepEqual([fine, full, aborted, other].map(({ pushed }) => pushed), [[1, 0], [], [], [4, 300]]);
  // Each has its own row, and who is gone has zeros; a half of which nobody is left ends.
  const of = (first: number) => outs.filter(([[token]]) => token === first).map(([, out]) => out);
  t.deepEqual(of(4), [[40, 40, 10, 10], [41, 41, 11, 11], [42, 42, 12, 12]]);
  t.deepEqual(of(3), [[30, 30, 20, 20], [31, 31, 0, 0]]);
});

test('while one half is attended the device has the other, and one attention runs at a time', async (t) => {
  const marks: Mark[] = [];
  const members = [noting(), noting(), noting()];
  const steps = members.map(({ native }, i) => stepOf(native, i + 1, 100 * i));
  await stepOnDevice(parts({ marks }), steps, host(new Map(), marks));
  const during = (tokens: number[], layer: number) => {
    const at = (what: Mark[0]) => marks.findIndex(([name, of]) => name === what && of === markOf(tokens, layer));
    t.true(at('attend') >= 0);
    return marks.slice(at('attend') + 1, at('attended')).map((mark) => mark.join(' '));
  };
  const [one, other] = [[3], [2, 1]];
  for (const layer of [0, 1, 2]) t.deepEqual(during(one, layer), [`part ${markOf(other, layer)}`]);
  for (const layer of [0, 1]) t.deepEqual(during(other, layer), [`part ${markOf(one, layer + 1)}`]);
  // By then the first half has been through all of its parts.
  t.deepEqual(during(other, 2), []);
  t.deepEqual(members.map(({ pushed }) => pushed), [[1, 0], [2, 100], [3, 200]]);
});

test('a step by itself is attended at once, on this thread', async (t) => {
  const alone = noting();
  const outs: Out[] = [];
  const nobody: AttendBatch = async () => Promise.reject(new Error('attended on other threads'));
  t.deepEqual(await stepOnDevice(parts({ outs }), [stepOf(alone.native, 1, 7)], nobody), [Float32Array.of(1)]);
  t.deepEqual(alone.layers, [0, 1, 2]);
  t.deepEqual(alone.pushed, [1, 7]);
  t.deepEqual(outs.map(([, out]) => out), [[10, 10], [11, 11], [12, 12]]);
  const aborted = AbortSignal.abort(new MagicpigError('ABORTED', 'enough'));
  const [outcome] = await stepOnDevice(parts({}), [stepOf(noting().native, 1, 7, aborted)], nobody);
  t.is(outcome, aborted.reason);
});

test('halves have about as much to attend each', (t) => {
  const lengths = (positions: readonly number[]) => halved(positions.map((position) => stepOf(noting().native, 0, position))).map((half) => half.map(({ position }) => position));
  t.deepEqual(lengths([10, 20]), [[20], [10]]);
  t.deepEqual(lengths([100, 90_000, 200, 300]), [[90_000], [300, 200, 100]]);
  t.deepEqual(lengths([8000, 8000, 8000, 8000]), [[8000, 8000], [8000, 8000]]);
  t.deepEqual(lengths([0, 0, 0]), [[0, 0], [0]]);
});

test('an aborted step leaves the session as it was', async (t) => {
  const elsewhere = await model(t);
  using session = elsewhere.createSession({ policy: 'exact' });
  await session.prefill(text.slice(0, 50));
  const controller = new AbortController();
  const running = session.step(5, { signal: controller.signal });
  // The runs of the parts leave the thread between layers.
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  controller.abort();
  await t.throwsAsync(running, { code: 'ABORTED' });
  t.is(session.tokens.length, 50);
  using fresh = elsewhere.createSession({ policy: 'exact' });
  await fresh.prefill(text.slice(0, 50));
  t.deepEqual(await session.step(7), await fresh.step(7));
});

async function sessionsOf(t: ExecutionContext, of: Model, count: number): Promise<Session[]> {
  return await Promise.all(policies.slice(0, count).map(async (options, i) => {
    const session = of.createSession({ tuned: false, ...options });
    t.teardown(() => { session.dispose(); });
    await session.prefill(text.slice(i, 40 + 300 * i));
    return session;
  }));
}

for (const count of [2, 3, 5]) {
  test(`${count} sessions of any lengths and policies step together as alone`, async (t) => {
    const elsewhere = await model(t);
    const [alone, together] = [await sessionsOf(t, elsewhere, count), await sessionsOf(t, elsewhere, count)];
    for (let step = 0; step < 6; step += 1) {
      const rows: number[][] = [];
      for (const outcome of await elsewhere.stepBatch(together, together.map((_, i) => steps[step + i]!))) {
        if (outcome.status === 'rejected') throw outcome.reason;
        rows.push(logSoftmax(outcome.value));
      }
      for (const [i, row] of rows.entries()) {
        const own = logSoftmax(await alone[i]!.step(steps[step + i]!));
        t.true(divergence(own, row) < 1e-6, `step ${step}, session ${i}: ${divergence(own, row)}`);
        // Control: nobody's is another's.
        t.true(divergence(own, rows[(i + 1) % count]!) > 1e-4, `step ${step}, session ${i}`);
      }
    }
    for (const session of together) t.true(session.stats().attendMsPerToken > 0);
    together[1]!.dispose();
    const outcomes = await elsewhere.stepBatch(together, steps.slice(0, count));
    t.deepEqual(outcomes.map(({ status }) => status), together.map((_, i) => (i === 1 ? 'rejected' : 'fulfilled')));
  });
}

test('of sessions that step together one is aborted between layers, and is as it was', async (t) => {
  const elsewhere = await model(t);
  const [alone, together] = [await sessionsOf(t, elsewhere, 3), await sessionsOf(t, elsewhere, 3)];
  const controller = new AbortController();
  const running = Promise.allSettled(together.map((session, i) => session.step(5 + i, i === 1 ? { signal: controller.signal } : {})));
  for (let turn = 0; turn < 3; turn += 1) await nextTurn();
  controller.abort();
  const outcomes = await running;
  t.like(outcomes[1], { status: 'rejected', reason: { code: 'ABORTED' } });
  t.is(together[1]!.tokens.length, alone[1]!.tokens.length);
  for (const [i, outcome] of outcomes.entries()) {
    const own = logSoftmax(await alone[i]!.step(5 + i));
    const value = outcome.status === 'fulfilled' ? outcome.value : await together[i]!.step(5 + i);
    t.true(divergence(own, logSoftmax(value)) < 1e-6, `session ${i}`);
  }
});

test('an output head too large for one ONNX model is several', async (t) => {
  await using file = await openGguf(tiny(t));
  const x = { data: Float32Array.from({ length: 2 * 64 }, (_, i) => Math.sin(i)), shape: [2, 64] };
  const logits = async (most?: number) => {
    const parts = headParts(file, most);
    const rows: number[][] = [[], []];
    for (const { build, first, count } of parts) {
      const part = await Part.load(build(), { device: 'cpu', threads: 1 });
      const some = [...onHost((await part.run({ x })).logits)];
      await part.dispose();
      for (const [i, row] of rows.entries()) {
        t.is(row.length, first);
        row.push(...some.slice(i * count, (i + 1) * count));
      }
    }
    return { parts: parts.length, rows };
  };
  const [one, several] = [await logits(), await logits(4 * 64 * 100)];
  t.deepEqual([one.parts, several.parts], [1, 3]);
  for (const [i, row] of one.rows.entries()) t.true(row.every((logit, token) => Math.abs(logit - several.rows[i]![token]!) < 1e-5));
});
