// Every architecture says what llama.cpp says of the same file: small random models, whose ln of probabilities llama.cpp gave are
// recorded in reference/architectures.json (`npm run test:peers` holds the record to llama.cpp itself).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { loadModel } from '../src/index.js';
import { openGguf } from '../src/model/gguf.js';
import { u32, writeGguf } from './support/gguf-writer.js';
import type { GgufSpec } from './support/gguf-writer.js';
import { decodeLogProbabilities, divergence, logSoftmax } from './support/log-probabilities.js';
import { distance, mean, predictionsOf } from './support/predictions.js';
import { referenceLogits } from './support/reference-llama.js';
import { temporaryFolder } from './support/temporary.js';
import { throughOnnx } from './support/through-onnx.js';
import { architectureText as text, architectureVocabulary, tinyArchitectures, tinyQuantisations } from './support/tiny-architectures.js';
import { tinyDefaults, tinyLlama, withMetadata } from './support/tiny-llama.js';

const { models, quantisations } = JSON.parse(readFileSync(join(import.meta.dirname, 'reference', 'architectures.json'), 'utf8')) as Record<
  'models' | 'quantisations',
  Record<string, string>
>;

/** Mean Kullback-Leibler divergence from llama.cpp's predictions that is allowed. */
const BOUND = 1e-4;

const write = (t: ExecutionContext, spec: GgufSpec) => writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec);

/** ln of probabilities after the text, its long part through ONNX Runtime on the CPU. */
async function afterOnnx(path: string): Promise<number[]> {
  await using file = await openGguf(path);
  return logSoftmax(await throughOnnx(file, text));
}

for (const [name, { spec, matters }] of Object.entries(tinyArchitectures)) {
  test(`${name} predicts what llama.cpp predicts`, async (t) => {
    const path = write(t, spec);
    const reference = decodeLogProbabilities(models[name]!, architectureVocabulary);
    t.is(reference.length, 64);
    const rows = await predictionsOf(path);
    const off = distance(reference, rows);
    t.log(`${off.toExponential(2)} nats`);
    t.true(off <= BOUND, `${off}`);

    // A prefix at once, the longer ones as a chunk in bf16, and then a token.
    await using model = await loadModel(path, { threads: 2 });
    const afterPrefixes = [];
    for (let prefix = 3; prefix < 64; prefix += 5) {
      using session = model.createSession({ policy: 'exact' });
      await session.prefill(text.slice(0, prefix));
      const next = logSoftmax(await session.step(text[prefix]!));
      afterPrefixes.push(divergence(reference[prefix]!, next));
    }
    t.true(mean(afterPrefixes) <= BOUND, `after prefixes at once: ${mean(afterPrefixes)}`);

    // Negative controls: what the file says besides its shape is not passed over.
    for (const key of matters) {
      const without = distance(reference, await predictionsOf(write(t, withMetadata(spec, { [key]: undefined }))));
      t.true(without > 5 * BOUND, `without ${key}: ${without}`);
    }
  });

  test(`${name} through ONNX Runtime`, async (t) => {
    const reference = decodeLogProbabilities(models[name]!, architectureVocabulary);
    const off = divergence(reference[63]!, await afterOnnx(write(t, spec)));
    t.true(off <= BOUND, `${off}`);
  });
}

for (const [name, types] of Object.entries(tinyQuantisations)) {
  test(`weights of ${name} predict what llama.cpp predicts from them`, async (t) => {
    const path = write(t, tinyArchitectures.llama!.quantised(types));
    const reference = decodeLogProbabilities(quantisations[name]!, architectureVocabulary);
    const off = distance(reference, await predictionsOf(path));
    t.log(`${off.toExponential(2)} nats`);
    t.true(off <= BOUND, `${off}`);

    // Its chunks in bf16.
    await using model = await loadModel(path, { threads: 2 });
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(text.slice(0, -1));
    const after = divergence(reference[63]!, logSoftmax(await session.step(text[63]!)));
    t.true(after <= BOUND, `at once: ${after}`);
    const onnx = divergence(reference[63]!, await afterOnnx(path));
    t.true(onnx <= BOUND, `through ONNX Runtime: ${onnx}`);
  });
}

test('a mistral attends its window', async (t) => {
  const shape = { ...tinyDefaults, headDim: 64 };
  const llama = tinyLlama(shape, 3);
  const windowed = withMetadata(llama, { 'llama.attention.sliding_window': u32(24) });
  const reference = (window?: number) => referenceLogits(llama, shape, text, { window }).map(logSoftmax);
  const rows = await predictionsOf(write(t, windowed));
  const off = distance(reference(24), rows);
  t.true(off <= BOUND, `${off}`);
  const control = distance(reference(), rows);
  t.true(control > 2 * off && control > 1e-5, `against all tokens: ${control}, of ${off}`);
});

test('layers with a window have no index, and the others one', async (t) => {
  const { spec } = tinyArchitectures.gemma3!;
  await using model = await loadModel(write(t, withMetadata(spec, { 'gemma3.context_length': u32(4096) })), { threads: 2 });
  const long = Array.from({ length: 1500 }, (_, i) => text[i % 64]!);
  for (const policy of ['sketch', 'lsh'] as const) {
    using session = model.createSession({ policy, ...(policy === 'sketch' && { budget: 0.1 }) });
    await session.prefill(long);
    session.resetStats();
    const sampled = logSoftmax(await session.step(text[0]!));
    const stats = session.stats();
    // One layer of seven is global; the others read 16 rows of 1,500.
    t.true(stats.indexBytes > 0 && stats.indexBytesPerKey > 100 && stats.keysRead > 0 && stats.keysRead < 1, JSON.stringify(stats));
    session.rewind(1500);
    session.setPolicy({ policy: 'exact' });
    session.resetStats();
    const off = divergence(logSoftmax(await session.step(text[0]!)), sampled);
    t.is(session.stats().keysRead, 1);
    t.true(off < 0.05, `${policy}: ${off}`);
  }
});
