// What a model and a session take is known before they are made, and what does not fit is refused with what would.
import { join } from 'node:path';

import test from 'ava';

import { loadModel } from '../src/index.js';
import { memoryPlan } from '../src/decode/memory.js';
import { policyFrom } from '../src/decode/options.js';
import { openGguf } from '../src/model/gguf.js';
import { magicpig } from './support/command-line.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

const shape = { headDim: 64, layers: 2, kvHeads: 2 };
const context = 100_000;
const tiny = (folder: string) => writeGguf(join(folder, 'tiny.gguf'), tinyLlama(shape));

test('rows and index are what a session says they take', async (t) => {
  const path = tiny(temporaryFolder(t));
  await using file = await openGguf(path);
  await using model = await loadModel(path, { threads: 2, context: 4096 });
  for (const rows of ['bf16', 'int8'] as const) {
    const planned = memoryPlan(file, { tokens: 2000, rows, policy: policyFrom({}) });
    using session = model.createSession({ rows });
    await session.prefill(Array.from({ length: 2000 }, (_, i) => (i * 37 + 11) % 264));
    const { indexBytes } = session.stats();
    t.true(Math.abs(indexBytes / planned.index - 1) < 0.1, `${rows}: ${indexBytes} of ${planned.index}`);
    t.is(planned.rows, 2000 * 4 * (rows === 'bf16' ? 256 : 132));
  }
});

test('weights beyond the limit are refused when the model is loaded', async (t) => {
  const path = tiny(temporaryFolder(t));
  const error = await t.throwsAsync(loadModel(path, { memoryLimit: 100_000 }), { code: 'OUT_OF_MEMORY' });
  t.regex(error.message, /weights take .* smaller quantisation/);
});

test('a session beyond the limit is refused with what would fit, which does', async (t) => {
  const path = tiny(temporaryFolder(t));
  await using file = await openGguf(path);
  const plan = (rows: 'bf16' | 'int8', sketchBits: 1 | 4 = 4) => memoryPlan(file, { tokens: context, rows, policy: policyFrom({ sketchBits }) });
  const memoryLimit = plan('int8').total;
  t.true(plan('bf16', 1).total > memoryLimit);
  await using model = await loadModel(path, { threads: 2, context, memoryLimit });
  const error = t.throws(() => model.createSession(), { code: 'OUT_OF_MEMORY' });
  t.regex(error.message, /0\.10 GB of rows/);
  t.regex(error.message, /--rows int8/);
  t.notRegex(error.message, /--sketch-bits/);
  model.createSession({ rows: 'int8' }).dispose();
  const shorter = Number(/context of (\d+) tokens/.exec(error.message)?.[1]);
  await using short = await loadModel(path, { threads: 2, context: shorter, memoryLimit });
  short.createSession().dispose();
  await using longer = await loadModel(path, { threads: 2, context: shorter + 1, memoryLimit });
  t.throws(() => longer.createSession(), { code: 'OUT_OF_MEMORY' });
  // In a folder, rows may be left on disk.
  const session = await model.openSession(join(temporaryFolder(t), 'kept'));
  session.dispose();
});

test('inspect shows the plan for a full context', async (t) => {
  const path = tiny(temporaryFolder(t));
  await using file = await openGguf(path);
  const { code, stdout } = await magicpig(['inspect', path, '--json']);
  t.is(code, 0);
  const { memory, weightBytes } = JSON.parse(stdout) as { memory: Record<string, number>; weightBytes: Record<string, number> };
  t.like(memory, memoryPlan(file, { tokens: 256, rows: 'bf16', policy: policyFrom({}) }));
  t.true(memory.available! > 0);
  t.deepEqual(Object.keys(weightBytes), ['F32']);
});
