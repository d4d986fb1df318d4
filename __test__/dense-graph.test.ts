// The dense graph and the attention between its parts are the model's equations, for every type of weights.
import { join } from 'node:path';

import test from 'ava';

import { loadModel } from '../src/index.js';
import type { Model } from '../src/index.js';
import { openGguf } from '../src/model/gguf.js';
import { Rope } from '../src/onnx/rope.js';
import { writeGguf } from './support/gguf-writer.js';
import { referenceLogits } from './support/reference-llama.js';
import { temporaryFolder } from './support/temporary.js';
import { throughOnnx } from './support/through-onnx.js';
import { tinyDefaults, tinyLlama } from './support/tiny-llama.js';
import type { TinyShape } from './support/tiny-llama.js';

const attendable = { headDim: 64, heads: 4, kvHeads: 2 };
const text = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 264);

/** Greatest difference from the reference's logits, relative to their spread. */
function distance(own: Float32Array, reference: readonly number[]): number {
  const mean = reference.reduce((a, b) => a + b) / reference.length;
  const deviation = Math.sqrt(reference.reduce((sum, value) => sum + (value - mean) ** 2, 0) / reference.length);
  return Math.max(...reference.map((value, i) => Math.abs(own[i]! - value))) / deviation;
}

async function everyStep(model: Model): Promise<Float32Array[]> {
  using session = model.createSession({ policy: 'exact' });
  const logits = [];
  for (const token of text) logits.push((await session.step(token)).slice());
  return logits;
}

/**
 * Rows are stored as bf16, which leaves 0.005 to 0.009. Of what else is rounded, the weights and activations of long prompts
 * to bf16 count most.
 */
const tolerance = 0.012;

async function afterOnnx(path: string): Promise<Float32Array> {
  await using file = await openGguf(path);
  return await throughOnnx(file, text);
}

for (const shape of [
  { type: 'F32' }, { type: 'F16' }, { type: 'BF16' }, { type: 'Q8_0' }, { type: 'Q4_0' }, { type: 'Q4_1' },
  { type: 'Q4_1', tied: false }, { type: 'F32', headDim: 80, hidden: 96 }, { type: 'Q8_0', kvHeads: 4 }, { type: 'F32', layers: 1 },
] satisfies Partial<TinyShape>[]) {
  test(`logits are those of the equations: ${JSON.stringify(shape)}`, async (t) => {
    const whole = { ...tinyDefaults, ...attendable, ...shape };
    const spec = tinyLlama(whole, 3);
    const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec);
    await using model = await loadModel(path, { threads: 2 });
    const reference = referenceLogits(spec, whole, text);
    const stepped = await everyStep(model);
    const worst = Math.max(...stepped.map((logits, i) => distance(logits, reference[i]!)));
    t.true(worst < tolerance, `step by step: ${worst}`);
    // The tokens before the last in another order: a text that differs by positions alone is told apart.
    const reordered = referenceLogits(spec, whole, [...text.slice(0, -1).reverse(), text.at(-1)!]).at(-1)!;
    const control = distance(stepped.at(-1)!, reordered);
    t.true(control > 3 * tolerance, `reordered: ${control}`);

    for (const tokens of [25, 39]) {
      using session = model.createSession({ policy: 'exact' });
      await session.prefill(text.slice(0, tokens));
      const next = await session.step(text[tokens]!);
      const off = distance(next, reference[tokens]!);
      t.true(off < tolerance, `after ${tokens} tokens at once: ${off}`);
    }
    const off = distance(await afterOnnx(path), reference.at(-1)!);
    t.true(off < tolerance, `through ONNX Runtime: ${off}`);
  });
}

test('rotary rows are exact far out, where angles in float32 are not', (t) => {
  const rope = new Rope({ theta: 10_000, dimensions: 64, interleaved: true });
  const position = 1_000_003;
  const { cos, sin } = rope.rows([position]);
  const angle = position * 10_000 ** (-2 / 64);
  t.true(Math.abs(cos[1]! - Math.cos(angle)) < 1e-6);
  t.true(Math.abs(sin[1]! - Math.sin(angle)) < 1e-6);
  const rounded = Math.fround(Math.fround(position) * Math.fround(10_000 ** (-2 / 64)));
  t.true(Math.abs(Math.cos(rounded) - Math.cos(angle)) > 1e-4);
});

test('rotary factors divide the frequencies', (t) => {
  const factors = Float64Array.of(1, 8);
  const { cos } = new Rope({ theta: 100, dimensions: 4, interleaved: true, factors }).rows([5, 6]);
  t.deepEqual([...cos], [5, 0.5 / 8 , 6, 0.6 / 8].map((angle) => Math.fround(Math.cos(angle))));
});
