// What a model takes on a GPU is held against what is free there, before it is loaded.
import { chmodSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import test from 'ava';

import { checkDevice, deviceMemory, devicePlan } from '../src/decode/device-memory.js';
import type { ModelConfig } from '../src/model/types.js';
import { temporaryFolder } from './support/temporary.js';

/** Llama-3.1-8B in 4 bits. */
const llama = { layers: 32, hiddenSize: 4096, intermediateSize: 14_336, heads: 32, kvHeads: 8, headDim: 128 } as unknown as ModelConfig;
const plan = devicePlan({ config: llama, fileBytes: 4.5e9 });

test('a model of 8 billion weights in 4 bits fits on a card of 24 GB, and not on one of 12', (t) => {
  t.notThrows(() => { checkDevice('cuda', plan, { free: 23e9, total: 24e9 }); });
  const error = t.throws(() => { checkDevice('cuda', plan, { free: 11.5e9, total: 12e9 }); }, { code: 'OUT_OF_MEMORY' });
  t.regex(error.message, /11\.50 GB of its 12\.00 GB free.*weights 4\.50 GB.*--device cpu/);
});

test('where nobody tells what is free, nothing is refused', (t) => {
  t.notThrows(() => { checkDevice('webgpu', plan, undefined); });
});

if (process.platform !== 'win32') {
  for (const [said, known] of [
    ['echo "1000, 81559"', { free: 1000 * 2 ** 20, total: 81_559 * 2 ** 20 }],
    ['echo "[N/A], [N/A]"', undefined],
    ['echo "No devices were found"; exit 6', undefined],
  ] as const) {
    test.serial(`NVIDIA's tool is asked: ${said}`, async (t) => {
      const folder = temporaryFolder(t);
      writeFileSync(join(folder, 'nvidia-smi'), `#!/bin/sh\n${said}\n`);
      chmodSync(join(folder, 'nvidia-smi'), 0o755);
      const { PATH } = process.env;
      process.env['PATH'] = `${folder}${delimiter}${PATH}`;
      try {
        t.deepEqual(await deviceMemory('cuda'), known);
        t.is(await deviceMemory('webgpu'), undefined);
      } finally {
        process.env['PATH'] = PATH;
      }
    });
  }
}
