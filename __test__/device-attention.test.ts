// Attention on a device, of texts that are read there: exact sums over what each token sees, block by block.
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import test from 'ava';

import { loadModel } from '../src/index.js';
import type { Model } from '../src/index.js';
import type { ModelConfig } from '../src/model/types.js';
import { NativeSession } from '../src/native.js';
import { DeviceAttention } from '../src/onnx/device-attention.js';
import type { KeyBlock } from '../src/onnx/device-attention.js';
import { onHost } from '../src/onnx/runtime.js';
import { writeGguf } from './support/gguf-writer.js';
import { divergence, logSoftmax } from './support/log-probabilities.js';
import { onnxModel } from './support/onnx-model.js';
import { temporaryFolder } from './support/temporary.js';
import { architectureText, tinyArchitectures } from './support/tiny-architectures.js';

interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly scoreCap?: number;
  readonly window?: number;
}

/** Numbers that are the same in every run, about normal, of scores that differ by much. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  const uniform = () => (state = (state * 1_103_515_245 + 12_345) % 2_147_483_648) / 2_147_483_648;
  return Float32Array.from({ length: count }, () => 1.5 * (uniform() + uniform() + uniform() + uniform() - 2));
}

/** In f64, token by token. */
function reference({ heads, kvHeads, headDim, scoreCap, window = Infinity }: Shape, rows: number, q: Float32Array, k: Float32Array, v: Float32Array): number[] {
  const out: number[] = [];
  for (let row = 0; row < rows; row += 1) {
    for (let head = 0; head < heads; head += 1) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const at = (data: Float32Array, token: number, i: number) => data[(token * kvHeads + kvHead) * headDim + i]!;
      const seen = Array.from({ length: row + 1 }, (_, token) => token).filter((token) => row - token < window);
      const weights = seen.map((token) => {
        let score = 0;
        for (let i = 0; i < headDim; i += 1) score += q[(row * heads + head) * headDim + i]! * at(k, token, i);
        score /= Math.sqrt(headDim);
        return Math.exp(scoreCap === undefined ? score : scoreCap * Math.tanh(score / scoreCap));
      });
      const sum = weights.reduce((a, b) => a + b);
      for (let i = 0; i < headDim; i += 1) out.push(seen.reduce((all, token, n) => all + weights[n]! * at(v, token, i), 0) / sum);
    }
  }
  return out;
}

const farthest = (a: readonly number[], b: ArrayLike<number>): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

async function onDevice(shape: Shape, chunk: number, rows: number, q: Float32Array, k: Float32Array, v: Float32Array): Promise<number[]> {
  const attention = await DeviceAttention.load(shape as unknown as ModelConfig, { device: 'cpu', threads: 2 });
  const blocks: KeyBlock[] = [];
  const out: number[] = [];
  for (let first = 0; first < rows; first += chunk) {
    const count = Math.min(chunk, rows - first);
    const part = (data: Float32Array) => {
      const width = data.length / rows;
      return { data: data.slice(first * width, (first + count) * width), shape: [count, width] };
    };
    blocks.push({ k: part(k), v: part(v), first, rows: count });
    out.push(...onHost(await attention.attend(part(q), blocks, shape.window ?? Infinity)));
  }
  await attention.dispose();
  return out;
}

const shapes: readonly Shape[] = [
  { heads: 2, kvHeads: 2, headDim: 64 },
  { heads: 6, kvHeads: 2, headDim: 64 },
  { heads: 4, kvHeads: 1, headDim: 80, window: 37 },
  { heads: 4, kvHeads: 2, headDim: 64, scoreCap: 5, window: 64 },
];
const rows = 150;
for (const [i, shape] of shapes.entries()) {
  test(`blocks are merged to what one sum gives, and what the host attends: ${JSON.stringify(shape)}`, async (t) => {
    const { heads, kvHeads, headDim, window = 0, scoreCap } = shape;
    const [q, k, v] = [numbers(rows * heads * headDim, i + 1), numbers(rows * kvHeads * headDim, i + 11), numbers(rows * kvHeads * headDim, i + 21)];
    const whole = reference(shape, rows, q, k, v);
    for (const chunk of [rows, 64, 50, 7]) {
      const off = farthest(whole, await onDevice(shape, chunk, rows, q, k, v));
      t.true(off < 1e-5, `chunks of ${chunk}: ${off}`);
    }
    // Negative control: a token more or less than each sees.
    const other = { ...shape, window: (shape.window ?? rows) - 1 };
    t.true(farthest(whole, await onDevice(other, 50, rows, q, k, v)) > 1e-2);

    const session = NativeSession.create({ layers: 1, heads, kvHeads, headDim, windows: [window], ...(scoreCap !== undefined && { scoreCap }), threads: 2, seed: 0, directory: tmpdir() });
    const host = await session.attendPrefill(0, rows, q, k, v);
    session.dispose();
    // bf16 has 8 bits, and the host rounds keys, values and queries to it.
    const [spread, off] = [Math.max(...whole.map(Math.abs)), farthest(whole, host)];
    t.true(off < 2 ** -6 * spread, `host: ${off} of ${spread}`);
  });
}

for (const name of ['llama-3.1', 'qwen2', 'gemma2', 'gemma3']) {
  test(`a text attended on the device predicts what one attended on the host does: ${name}`, async (t) => {
    const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyArchitectures[name]!.spec);
    const text = Array.from({ length: 1100 }, (_, i) => architectureText[(i * i + 3 * i) % 64]!);
    const after = async (model: Model, tokens: readonly number[]) => {
      using session = model.createSession({ policy: 'exact' });
      await session.prefill(tokens);
      // What follows rows that the host has is the host's.
      await session.prefill(text.slice(0, 40));
      t.is(session.tokens.length, tokens.length + 40);
      return logSoftmax(await session.step(7));
    };
    await using device = await onnxModel(path);
    await using host = await onnxModel(path, { attended: 'nowhere' });
    await using cpu = await loadModel(path, { threads: 2, context: 4096 });
    const own = await after(device, text);
    const [off, fromCpu] = [divergence(await after(host, text), own), divergence(await after(cpu, text), own)];
    t.log(`${off.toExponential(2)} nats from the host's, ${fromCpu.toExponential(2)} from the CPU's`);
    t.true(off < 1e-5, String(off));
    t.true(fromCpu < 1e-4, String(fromCpu));
    const control = divergence(await after(device, [...text.slice(1, 700), ...text.slice(0, 401)]), own);
    t.true(control > 20 * off, `negative control: ${control}`);
  });
}

for (const [name, precision, most] of [['llama-3.1', 'float32', 2e-5], ['qwen2', 'float16', 2e-4]] as const) {
  test(`a text whose tensors all go through the host is attended in float16, in chunks: ${name}, products in ${precision}`, async (t) => {
    const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyArchitectures[name]!.spec);
    // Two chunks of 1,024 tokens, and a part of one.
    const text = Array.from({ length: 2400 }, (_, i) => architectureText[(i * i + 3 * i) % 64]!);
    const after = async (model: Model, tokens: readonly number[]) => {
      using session = model.createSession({ policy: 'exact' });
      await session.prefill(tokens);
      t.is(session.tokens.length, tokens.length);
      return logSoftmax(await session.step(7));
    };
    await using through = await onnxModel(path, { attended: 'through-host', precision });
    await using host = await onnxModel(path, { attended: 'nowhere' });
    const own = await after(through, text);
    const off = divergence(await after(host, text), own);
    t.log(`${off.toExponential(2)} nats from the host's`);
    t.true(off < most, String(off));
    // Negative control: without the second chunk's first half.
    const control = divergence(await after(through, [...text.slice(0, 1024), ...text.slice(1536)]), own);
    t.true(control > 5 * most, `negative control: ${control}`);
  });
}

for (const [attended, chunk] of [['device', 512], ['through-host', 1024]] as const) {
  test(`reading on the device tells how far it is, and leaves nothing when it is aborted: ${attended}`, async (t) => {
    const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyArchitectures['llama-3.1']!.spec);
    await using model = await onnxModel(path, { attended });
    const text = Array.from({ length: 2 * chunk + 276 }, (_, i) => architectureText[i % 64]!);
    using session = model.createSession({ policy: 'exact' });
    const controller = new AbortController();
    const seen: number[] = [];
    await t.throwsAsync(session.prefill(text, {
      signal: controller.signal,
      onProgress: ({ done }) => { if (seen.push(done) === 4) controller.abort(); },
    }), { code: 'ABORTED' });
    t.is(session.tokens.length, 0);
    t.is(seen.length, 4);
    seen.length = 0;
    await session.prefill(text, { onProgress: ({ done, total }) => { seen.push(done / total); } });
    t.is(session.tokens.length, 2 * chunk + 276);
    t.true(seen.length > 3 && seen.every((share, i) => share >= (seen[i - 1] ?? 0)), seen.join(' '));
    t.is(seen.at(-1), 1);
  });
}
