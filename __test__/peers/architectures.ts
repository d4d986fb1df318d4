// Whether magicpig and llama.cpp predict the same on the tests' small random models, and whether the tests' record of what
// llama.cpp predicts is still what it predicts: `npm run test:peers`, which installs it into benches/peers. With --record the record is made anew.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { loadModel } from '../../src/index.js';
import { writeGguf } from '../support/gguf-writer.js';
import { decodeLogProbabilities, divergence, encodeLogProbabilities, logSoftmax } from '../support/log-probabilities.js';
import { architectureText as text, architectureVocabulary, tinyArchitectures } from '../support/tiny-architectures.js';

/** What is allowed between the two, and between llama.cpp and its record, on the mean. */
const BOUND = 1e-4;
const RECORD_BOUND = 1e-6;

const root = join(import.meta.dirname, '..', '..');
const peers = join(root, 'benches', 'peers');
const reference = join(root, '__test__', 'reference', 'architectures.json');
const record = process.argv.includes('--record');
const read = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));
const { version } = read(join(peers, 'node_modules', 'node-llama-cpp', 'package.json')) as { version: string };
const recorded = record ? {} : (read(reference) as { models: Record<string, string> }).models;
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;

function theirs(path: string): number[][] {
  const command = [join(peers, 'log-probabilities.mjs'), path, text.join(',')];
  return JSON.parse(execFileSync(process.execPath, command, { encoding: 'utf8', maxBuffer: 1 << 26, stdio: ['ignore', 'pipe', 'inherit'] })) as number[][];
}

async function ours(path: string): Promise<number[][]> {
  await using model = await loadModel(path, { threads: 2 });
  using session = model.createSession({ policy: 'exact' });
  const rows = [];
  for (const token of text) rows.push(logSoftmax(await session.step(token)));
  return rows;
}

const models: Record<string, string> = {};
const folder = mkdtempSync(join(tmpdir(), 'magicpig-peers-'));
try {
  for (const [name, { spec }] of Object.entries(tinyArchitectures)) {
    const path = writeGguf(join(folder, `${name}.gguf`), spec);
    const peer = theirs(path);
    const encoded = encodeLogProbabilities(peer);
    models[name] = encoded;
    const own = await ours(path);
    const distances = peer.map((row, i) => divergence(row, own[i] ?? []));
    const kept = record ? encoded : (recorded[name] ?? '');
    const drift = mean(decodeLogProbabilities(kept, architectureVocabulary).map((row, i) => divergence(peer[i] ?? [], row)));
    const good = mean(distances) <= BOUND && drift <= RECORD_BOUND;
    if (!good) process.exitCode = 1;
    console.log(
      `${good ? 'ok' : 'FAILED'} ${name}: KL ${mean(distances).toExponential(2)} over ${text.length} positions, ${Math.max(...distances).toExponential(2)} at most; the record is off by ${drift.toExponential(1)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
if (record) writeFileSync(reference, `${JSON.stringify({ peer: `node-llama-cpp ${version}`, models }, undefined, 1)}\n`);
