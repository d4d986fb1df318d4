// The same predictions with the dense layers of a text on a GPU: WebGPU over Vulkan, on SwiftShader where there is no GPU, which Debian's
// chromium brings. In a process of its own, since the loader of Vulkan's drivers reads its environment once.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import test from 'ava';

import { loadModel } from '../src/index.js';
import { writeGguf } from './support/gguf-writer.js';
import { decodeLogProbabilities, divergence, logSoftmax } from './support/log-probabilities.js';
import { distance } from './support/predictions.js';
import { temporaryFolder } from './support/temporary.js';
import { architectureText, architectureVocabulary, tinyArchitectures, tinyQuantisations } from './support/tiny-architectures.js';
import { driver, hasDriver, withDriver } from './support/vulkan.js';

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

/** After the tokens that follow each of `prefixes`, which are read at once, or after the whole text. */
async function predictions(folder: string, path: string, text: readonly number[], prefixes: readonly number[]): Promise<number[][][]> {
  const env = { ...process.env, ...withDriver(folder) };
  const args = [`--import=${loader}`, child, path, JSON.stringify(text), JSON.stringify(prefixes)];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env, maxBuffer: 64 << 20 });
  return JSON.parse(stdout) as number[][][];
}

if (hasDriver) {
  for (const { name, spec, reference } of cases) {
    test.serial(`WebGPU predicts what llama.cpp predicts: ${name}`, async (t) => {
      const rows = decodeLogProbabilities(reference, architectureVocabulary);
      const folder = temporaryFolder(t);
      const all = await predictions(folder, writeGguf(join(folder, 'tiny.gguf'), spec), architectureText, [prefix, 63, 64]);
      const [stepped, [whole], [read]] = all as [number[][], number[][], number[][]];
      const off = distance(rows.slice(prefix), stepped);
      t.log(`${off.toExponential(2)} nats after steps, ${divergence(rows[63]!, whole!).toExponential(2)} after a text`);
      t.is(stepped.length, 64 - prefix);
      t.true(off <= BOUND, `steps: ${off}`);
      // However the text is cut into what is read and what is stepped.
      for (const row of [stepped.at(-1), whole, read]) t.true(divergence(rows[63]!, row!) <= BOUND, `the whole text: ${divergence(rows[63]!, row!)}`);
      // Negative control: what is predicted a token earlier is elsewhere.
      const [control, controls] = [divergence(rows[62]!, whole!), distance(rows.slice(prefix - 1, -1), stepped)];
      t.true(control > 5 * BOUND && controls > 5 * BOUND, `negative control: ${control}, ${controls}`);
    });
  }

  test.serial('WebGPU attends a text of several chunks as the CPU does', async (t) => {
    const folder = temporaryFolder(t);
    const path = writeGguf(join(folder, 'tiny.gguf'), tinyArchitectures['llama-3.1']!.spec);
    const text = Array.from({ length: 540 }, (_, i) => architectureText[(i * i + 3 * i) % 64]!);
    const [stepped] = (await predictions(folder, path, text, [536])) as [number[][]];
    await using model = await loadModel(path, { threads: 2, context: text.length });
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(text.slice(0, 536));
    const rows: number[][] = [];
    for (const token of text.slice(536)) rows.push(logSoftmax(await session.step(token)));
    const off = distance(rows, stepped);
    t.log(`${off.toExponential(2)} nats`);
    t.true(off <= BOUND, String(off));
    const control = distance(rows.slice(0, -1), stepped.slice(1));
    t.true(control > 5 * BOUND, `negative control: ${control}`);
  });
} else {
  test(`WebGPU is not tested here: there is no Vulkan driver at ${driver} (Debian's chromium brings one)`, (t) => {
    t.pass();
  });
}
