// The same predictions with the dense layers of a text on a GPU: WebGPU over Vulkan, on SwiftShader where there is no GPU, which Debian's
// chromium brings. In a process of its own, since the loader of Vulkan's drivers reads its environment once.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import test from 'ava';

import { writeGguf } from './support/gguf-writer.js';
import { decodeLogProbabilities, divergence } from './support/log-probabilities.js';
import { distance } from './support/predictions.js';
import { temporaryFolder } from './support/temporary.js';
import { architectureVocabulary, tinyArchitectures, tinyQuantisations } from './support/tiny-architectures.js';
import { driver, hasDriver, withDriver } from './support/vulkan.js';
import type { WebgpuPredictions } from './support/webgpu-child.js';

const { models, quantisations } = JSON.parse(readFileSync(join(import.meta.dirname, 'reference', 'architectures.json'), 'utf8')) as Record<
  'models' | 'quantisations',
  Record<string, string>
>;

/** Tokens that are read at once before the others are stepped. */
const prefix = 40;

/** Divergence from llama.cpp's predictions that is allowed, in nats: the CPU's tests have the same. */
const BOUND = 1e-4;

const child = join(import.meta.dirname, 'support', 'webgpu-child.ts');
const loader = join(import.meta.dirname, 'support', 'typescript.mjs');

const architectures = Object.entries(tinyArchitectures).map(([name, { spec }]) => ({ name, spec, reference: models[name]! }));
const types = Object.entries(tinyQuantisations).map(([name, typeOf]) => ({
  name: `llama in ${name}`,
  spec: tinyArchitectures.llama!.quantised(typeOf),
  reference: quantisations[name]!,
}));
// Compiling shaders takes seconds a model without a GPU, so that only some are tested by default.
const few = ['llama-3.1', 'gemma3', 'llama in Q4_K_M'];
const cases = [...architectures, ...types].filter(({ name }) => process.env['MAGICPIG_WEBGPU'] === 'all' || few.includes(name));

/** By each of the cases. */
async function predictions(folder: string): Promise<WebgpuPredictions[]> {
  const paths = cases.map(({ name, spec }) => writeGguf(join(folder, `${name}.gguf`), spec));
  const env = { ...process.env, ...withDriver(folder) };
  const { stdout } = await promisify(execFile)(process.execPath, [`--import=${loader}`, child, String(prefix), ...paths], { env, maxBuffer: 64 << 20 });
  return stdout.trim().split('\n').map((line) => JSON.parse(line) as WebgpuPredictions);
}

if (hasDriver) {
  test(`WebGPU predicts what llama.cpp predicts: ${cases.map(({ name }) => name).join(', ')}`, async (t) => {
    const all = await predictions(temporaryFolder(t));
    t.is(all.length, cases.length);
    for (const [i, { name, reference }] of cases.entries()) {
      const rows = decodeLogProbabilities(reference, architectureVocabulary);
      const { whole, read, stepped } = all[i]!;
      const off = distance(rows.slice(prefix), stepped);
      t.log(`${name}: ${off.toExponential(2)} nats after steps, ${divergence(rows[63]!, whole).toExponential(2)} after a text`);
      t.is(stepped.length, 64 - prefix);
      t.true(off <= BOUND, `${name}, steps: ${off}`);
      t.true(divergence(rows[63]!, whole) <= BOUND, `${name}: ${divergence(rows[63]!, whole)}`);
      // However the text is cut into what is read and what is stepped.
      for (const other of [whole, read]) t.true(divergence(stepped.at(-1)!, other) <= BOUND, `${name}, one prefill: ${divergence(stepped.at(-1)!, other)}`);
      // Negative control: what is predicted a token earlier is elsewhere.
      const [control, controls] = [divergence(rows[62]!, whole), distance(rows.slice(prefix - 1, -1), stepped)];
      t.true(control > 5 * BOUND && controls > 5 * BOUND, `${name}, negative control: ${control}, ${controls}`);
    }
  });
} else {
  test(`WebGPU is not tested here: there is no Vulkan driver at ${driver} (Debian's chromium brings one)`, (t) => {
    t.pass();
  });
}
