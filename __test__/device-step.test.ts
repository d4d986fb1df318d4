// Steps whose dense layers are elsewhere, with attention between them: as on a device, on ONNX Runtime's CPU provider.
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

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

/** A session that notes which layers it attends, and fails in one of them if asked to. */
function noting(failsIn?: number): { native: NativeSession; layers: number[]; pushed: number[] } {
  const layers: number[] = [];
  const pushed: number[] = [];
  const native = {
    attendDecode: (layer: number, _q: Float32Array, _k: Float32Array, v: Float32Array, out: Float32Array) => {
      if (layer === failsIn) throw new MagicpigError('DISK_FULL', 'full');
      layers.push(layer);
      out.fill(v[0]!);
    },
    pushStep: (token: number, residual: Float32Array) => { pushed.push(token, ...residual); },
  };
  return { native: native as unknown as NativeSession, layers, pushed };
}

test('a step that fails or is aborted between layers stays behind, and the others go on', async (t) => {
  const controller = new AbortController();
  const outs: number[][] = [];
  const dense = {
    step: async (rows: readonly Row[], attend: Attend): Promise<Stepped[]> => {
      for (let layer = 0; layer < 3; layer += 1) {
        if (layer === 2) controller.abort(new MagicpigError('ABORTED', 'enough'));
        const v = Float32Array.from(rows, ({ token }) => 10 * token + layer);
        outs.push([...await attend(layer, { q: new Float32Array(2 * rows.length), k: v, v })]);
      }
      return rows.map(({ token, position }) => ({ logits: Float32Array.of(token), residual: Float32Array.of(position) }));
    },
  } as unknown as DenseGraph;
  const [fine, full, aborted] = [noting(), noting(1), noting()];
  const steps = [fine, full, aborted].map(({ native }, i) => ({
    native, token: i + 1, position: 100 * i, logits: new Float32Array(), signal: i === 2 ? controller.signal : undefined,
  }));
  const outcomes = await stepOnDevice(dense, steps);
  t.deepEqual(outcomes[0], Float32Array.of(1));
  t.like(outcomes[1], { code: 'DISK_FULL' });
  t.like(outcomes[2], { code: 'ABORTED' });
  t.deepEqual([fine.layers, full.layers, aborted.layers], [[0, 1, 2], [0], [0, 1]]);
  t.deepEqual([fine.pushed, full.pushed, aborted.pushed], [[1, 0], [], []]);
  // Each has its own row, and who is gone has zeros.
  t.deepEqual(outs, [[10, 10, 20, 20, 30, 30], [11, 11, 0, 0, 31, 31], [12, 12, 0, 0, 0, 0]]);
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

test('sessions of any lengths and policies step together as alone', async (t) => {
  const elsewhere = await model(t);
  const of = async () => Promise.all(policies.slice(0, 5).map(async (options, i) => {
    const session = elsewhere.createSession({ tuned: false, ...options });
    t.teardown(() => { session.dispose(); });
    await session.prefill(text.slice(i, 40 + 300 * i));
    return session;
  }));
  const [alone, together] = [await of(), await of()];
  for (let step = 0; step < 6; step += 1) {
    const outcomes = await elsewhere.stepBatch(together, together.map((_, i) => steps[step + i]!));
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.status === 'rejected') throw outcome.reason;
      const own = logSoftmax(await alone[i]!.step(steps[step + i]!));
      const off = divergence(own, logSoftmax(outcome.value));
      t.true(off < 1e-6, `step ${step}, session ${i}: ${off}`);
    }
  }
  together[1]!.dispose();
  const outcomes = await elsewhere.stepBatch(together.slice(0, 3), [1, 2, 3]);
  t.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled']);
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
