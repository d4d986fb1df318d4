// Whether magicpig and llama.cpp predict the same on the tests' small random models, of every architecture with every type of
// weights, and whether the tests' record of what llama.cpp predicts is still what it predicts: `npm run test:peers`, which installs
// it into benches/peers. With --record the record is made anew.
//
// llama.cpp rounds activations to 8 bits before quantised weights, so that it is compared on two files: one with the same numbers as
// F32 weights, before which it rounds nothing and where the bound holds; and the quantised one, where it holds for what is left
// beyond llama.cpp's own distance between the two.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { writeGguf } from '../support/gguf-writer.js';
import type { GgufSpec } from '../support/gguf-writer.js';
import { decodeLogProbabilities, divergence, encodeLogProbabilities } from '../support/log-probabilities.js';
import { distance, predictionsOf } from '../support/predictions.js';
import { elements } from '../support/reference-llama.js';
import { architectureText as text, architectureVocabulary, tinyArchitectures, tinyQuantisations } from '../support/tiny-architectures.js';

/** What is allowed between the two, and between llama.cpp and its record, on the mean. */
const BOUND = 1e-4;
const RECORD_BOUND = 1e-6;

const root = join(import.meta.dirname, '..', '..');
const peers = join(root, 'benches', 'peers');
const reference = join(root, '__test__', 'reference', 'architectures.json');
const record = process.argv.includes('--record');
const read = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));
const { version } = read(join(peers, 'node_modules', 'node-llama-cpp', 'package.json')) as { version: string };
type Predictions = Record<string, string>;
const recorded = record ? { models: {}, quantisations: {} } : (read(reference) as { models: Predictions; quantisations: Predictions });

function theirs(paths: readonly string[]): number[][][] {
  const command = [join(peers, 'log-probabilities.mjs'), text.join(','), ...paths];
  return JSON.parse(execFileSync(process.execPath, command, { encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'inherit'] })) as number[][][];
}

/** The same numbers as F32 weights. */
function widened(spec: GgufSpec): GgufSpec {
  const tensors = spec.tensors.map((tensor) => ({ ...tensor, type: 'F32' as const, data: Buffer.from(Float32Array.from(elements(tensor)).buffer) }));
  return { ...spec, tensors };
}

/** The divergence from a peer, in words; beyond the bound the run has failed. */
function verdict(name: string, off: number, bound = BOUND): string {
  if (!(off <= bound)) process.exitCode = 1;
  return `${name} ${off.toExponential(1)}${off <= bound ? '' : ' FAILED'}`;
}

/** The record of what llama.cpp predicts, taken or held to it. */
function held(kept: Predictions, made: Predictions, name: string, peer: number[][]): string {
  made[name] = encodeLogProbabilities(peer);
  const own = decodeLogProbabilities((record ? made : kept)[name] ?? '', architectureVocabulary);
  return verdict('its record', distance(peer, own), RECORD_BOUND);
}

const made = { peer: `node-llama-cpp ${version}`, models: {}, quantisations: {} };
const folder = mkdtempSync(join(tmpdir(), 'magicpig-peers-'));
try {
  for (const [name, { spec, quantised }] of Object.entries(tinyArchitectures)) {
    const files = Object.entries(tinyQuantisations).map(([type, types]) => {
      const own = quantised(types);
      return { type, path: writeGguf(join(folder, `${name}-${type}.gguf`), own), wide: writeGguf(join(folder, `${name}-${type}-f32.gguf`), widened(own)) };
    });
    const path = writeGguf(join(folder, `${name}.gguf`), spec);
    const [plain = [], ...peer] = theirs([path, ...files.flatMap((file) => [file.path, file.wide])]);
    const own = await predictionsOf(path);
    const greatest = Math.max(...plain.map((row, position) => divergence(row, own[position] ?? [])));
    console.log(`${name}: ${verdict('KL', distance(plain, own))}, ${greatest.toExponential(1)} at most, ${held(recorded.models, made.models, name, plain)}`);
    for (const [i, file] of files.entries()) {
      const [rounding = [], exact = []] = peer.slice(2 * i);
      const own = await predictionsOf(file.path);
      const [off, between] = [distance(rounding, own), distance(rounding, exact)];
      const kept = name === 'llama' ? `, ${held(recorded.quantisations, made.quantisations, file.type, rounding)}` : '';
      console.log(`${name} ${file.type}: ${verdict('KL', distance(exact, own))}; rounded, ${verdict(`${off.toExponential(1)} of which beyond its own ${between.toExponential(1)}`, Math.max(0, off - between))}${kept}`);
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
if (record) writeFileSync(reference, `${JSON.stringify(made, undefined, 1)}\n`);
