// Mutated GGUF files, and headers, indexes and config.json files of safetensors folders, each for a time: `npm run fuzz:parsers -- [SECONDS] [SEED]`, 60 by default.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { mutated, parsers } from '../support/mutation.js';

const [seconds = 60, seed = 1] = process.argv.slice(2).map(Number);
const folder = mkdtempSync(join(tmpdir(), 'magicpig-fuzz-'));
try {
  for (const parser of parsers) {
    const { inputs, taken, slowestMs } = await mutated(parser, { milliseconds: 1000 * seconds }, seed, folder);
    console.log(`${parser}: ${inputs} inputs in ${seconds} s, ${taken} of them taken, the slowest in ${slowestMs.toFixed(0)} ms; all others end in typed errors`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
