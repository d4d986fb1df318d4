// Folders of the hub say what the same models say as GGUF: what llama.cpp predicts, which is recorded in reference/architectures.json.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { loadModel } from '../src/index.js';
import { openSafetensors } from '../src/model/safetensors.js';
import { f32 } from './support/gguf-writer.js';
import { hubFolder } from './support/hub-architectures.js';
import { decodeLogProbabilities, divergence, logSoftmax } from './support/log-probabilities.js';
import { distance, mean, predictionsOf } from './support/predictions.js';
import { referenceLogits } from './support/reference-llama.js';
import { inDtype, writeHubFolder } from './support/safetensors-writer.js';
import type { HubFolderSpec } from './support/safetensors-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { throughOnnx } from './support/through-onnx.js';
import { architectureText as text, architectureVocabulary, tinyArchitectures } from './support/tiny-architectures.js';
import { tinyDefaults, withMetadata } from './support/tiny-llama.js';

const { models } = JSON.parse(readFileSync(join(import.meta.dirname, 'reference', 'architectures.json'), 'utf8')) as { models: Record<string, string> };

/** Mean Kullback-Leibler divergence from the reference's predictions that is allowed, as for GGUF. */
const BOUND = 1e-4;

const write = (t: ExecutionContext, spec: HubFolderSpec, shards = 1, options: { pad?: number } = {}) => writeHubFolder(join(temporaryFolder(t), 'model'), spec, shards, options);
const withConfig = (spec: HubFolderSpec, changes: Record<string, unknown>): HubFolderSpec => ({ ...spec, config: { ...spec.config, ...changes } });

/** Token by token, and after prefixes at once, the longer ones as a chunk in bf16. */
async function agrees(t: ExecutionContext, path: string, reference: readonly number[][]): Promise<void> {
  const off = distance(reference, await predictionsOf(path));
  t.log(`${off.toExponential(2)} nats`);
  t.true(off <= BOUND, `${off}`);
  await using model = await loadModel(path, { threads: 2 });
  const afterPrefixes = [];
  for (let prefix = 3; prefix < 64; prefix += 10) {
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(text.slice(0, prefix));
    afterPrefixes.push(divergence(reference[prefix]!, logSoftmax(await session.step(text[prefix]!))));
    // On from the prefix to the end: what one whole prefill says.
    if (prefix > 40) {
      for (const token of text.slice(prefix + 1)) afterPrefixes.push(divergence(reference[session.tokens.length]!, logSoftmax(await session.step(token))));
    }
  }
  t.true(mean(afterPrefixes) <= BOUND, `after prefixes at once: ${mean(afterPrefixes)}`);
}

/** What each folder differs in, and what of its config.json makes it say something else: the reader must not pass over it. */
const cases: Readonly<Record<string, { shards?: number; pad?: number; controls: Record<string, unknown> }>> = {
  llama: { shards: 3, controls: { rms_norm_eps: 0.5 } },
  'llama-linear': { pad: 3, controls: { rope_scaling: null } },
  'llama-yarn': { controls: { rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 256 } } },
  qwen2: { pad: 1, controls: { rope_theta: 10_000 } },
  'qwen2-yarn': { shards: 2, controls: { rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32, attention_factor: 2 } } },
  qwen3: { controls: { rope_theta: 10_000 } },
  gemma2: { controls: { query_pre_attn_scalar: 16 } },
  gemma3: { shards: 3, controls: { sliding_window_pattern: 2 } },
};

for (const [name, { shards = 1, pad = 0, controls }] of Object.entries(cases)) {
  test(`${name} as safetensors predicts what llama.cpp predicts`, async (t) => {
    const spec = hubFolder(name, tinyArchitectures[name]!.spec);
    const reference = decodeLogProbabilities(models[name]!, architectureVocabulary);
    await agrees(t, write(t, spec, shards, { pad }), reference);
    const control = distance(reference, await predictionsOf(write(t, withConfig(spec, controls))));
    t.true(control > 5 * BOUND, `negative control: ${control}`);
  });
}

test('gemma3 through ONNX Runtime, whose norms lack 1', async (t) => {
  const reference = decodeLogProbabilities(models.gemma3!, architectureVocabulary);
  await using file = await openSafetensors(write(t, hubFolder('gemma3', tinyArchitectures.gemma3!.spec), 3));
  const off = divergence(reference[63]!, logSoftmax(await throughOnnx(file, text)));
  t.true(off <= BOUND, `${off}`);
});

const llamaShape = { ...tinyDefaults, headDim: 64, tied: false };

test("Llama 3.1's scaling, of which GGUF has only the divisors", async (t) => {
  const { spec } = tinyArchitectures.llama!;
  const scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
  // By wavelengths, as transformers writes it: of those between, the smooth part keeps its frequency.
  const divisors = Array.from({ length: 32 }, (_, pair) => {
    const wavelength = 2 * Math.PI * 500_000 ** (pair / 32);
    if (wavelength < 64 / 4) return 1;
    if (wavelength > 64 / 1) return 8;
    const smooth = (64 / wavelength - 1) / (4 - 1);
    return 1 / ((1 - smooth) / 8 + smooth);
  });
  t.true(divisors.some((divisor) => divisor > 1 && divisor < 8), 'some are between');
  const reference = referenceLogits(spec, llamaShape, text, { theta: 500_000, divisors }).map(logSoftmax);
  const folder = withConfig(hubFolder('llama', spec), { rope_theta: 500_000, rope_scaling: scaling });
  await agrees(t, write(t, folder), reference);
  // transformers 5 says the same otherwise.
  const newer = withConfig(folder, { rope_theta: undefined, rope_scaling: undefined, rope_parameters: { ...scaling, rope_theta: 500_000 } });
  t.true(distance(reference, await predictionsOf(write(t, newer))) <= BOUND);
  const control = distance(reference, await predictionsOf(write(t, withConfig(folder, { rope_scaling: { ...scaling, factor: 2 } }))));
  t.true(control > 5 * BOUND, `negative control: ${control}`);
});

test('a mistral attends its window', async (t) => {
  const { spec } = tinyArchitectures.llama!;
  const reference = (window?: number) => referenceLogits(spec, llamaShape, text, { window }).map(logSoftmax);
  const rows = await predictionsOf(write(t, withConfig(hubFolder('llama', spec), { model_type: 'mistral', sliding_window: 24 })));
  const off = distance(reference(24), rows);
  t.true(off <= BOUND, `${off}`);
  t.true(distance(reference(), rows) > 5 * BOUND, 'against all tokens');
  const all = await predictionsOf(write(t, withConfig(hubFolder('llama', spec), { model_type: 'mistral', sliding_window: null })));
  t.true(distance(reference(), all) <= BOUND);
});

for (const dtype of ['BF16', 'F16'] as const) {
  test(`weights of ${dtype} are read where they lie, also at odd offsets`, async (t) => {
    const { spec } = tinyArchitectures.llama!;
    const folder = hubFolder('llama', spec);
    const rounded = { ...folder, tensors: folder.tensors.map((tensor) => inDtype(tensor, dtype)) };
    // Rounding does not mind in which order heads lie: the reference has GGUF's.
    const narrow = { ...spec, tensors: spec.tensors.map((tensor) => ({ ...tensor, ...inDtype({ ...tensor, dtype: 'F32' }, dtype), type: dtype })) };
    const reference = referenceLogits(narrow, llamaShape, text).map(logSoftmax);
    await agrees(t, write(t, rounded, dtype === 'F16' ? 3 : 1, { pad: 1 }), reference);
    const wide = referenceLogits(spec, llamaShape, text).map(logSoftmax);
    t.true(distance(wide, await predictionsOf(write(t, rounded))) > distance(reference, await predictionsOf(write(t, rounded))), 'and are not the wide ones');
  });
}

test('the language model inside one that sees', async (t) => {
  const folder = hubFolder('gemma3', tinyArchitectures.gemma3!.spec);
  const { model_type: inner, eos_token_id: end, ...config } = folder.config;
  const eye = { name: 'vision_tower.patch.weight', dtype: 'BF16' as const, shape: [2, 2], data: Buffer.alloc(8) };
  const seeing = {
    ...folder,
    config: { model_type: 'gemma3', text_config: { ...config, tie_word_embeddings: undefined, model_type: inner }, vision_config: {}, eos_token_id: [end] },
    tensors: [eye, ...folder.tensors.map((tensor) => ({ ...tensor, name: `language_model.${tensor.name}` }))],
  };
  const reference = decodeLogProbabilities(models.gemma3!, architectureVocabulary);
  t.true(distance(reference, await predictionsOf(write(t, seeing))) <= BOUND);
});

test('a GGUF file and the folder of the same model have one configuration', async (t) => {
  const { spec } = tinyArchitectures.gemma2!;
  await using file = await openSafetensors(write(t, withConfig(hubFolder('gemma2', withMetadata(spec, { 'gemma2.attn_logit_softcapping': f32(2) })), { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'] })));
  t.like(file.config, { architecture: 'gemma2', scoreCap: 2, logitCap: 3, normOffset: 1, activation: 'gelu', scoreScale: 1 / 16 });
  t.deepEqual(file.config.local?.layers, [true, false, true, false]);
  t.is(file.format, 'safetensors');
  t.is(file.quantisation, 'F32');
  await using uncapped = await openSafetensors(write(t, withConfig(hubFolder('gemma2', spec), { attn_logit_softcapping: null })));
  t.is(uncapped.config.scoreCap, undefined);
});
