// Prefill and decoding steps of magicpig and of llama.cpp (node-llama-cpp), alternating in one run, as JSON on stdout.
//
//     npm install --ignore-scripts && node decode.mjs MODEL.gguf 512,8192 [POLICY] [ROUNDS]
//
// Both take the same number of threads (THREADS, 2 by default) and the same kind of text: tokens at random. llama.cpp runs in
// each of its settings (flash attention on and off, f16 and q8_0 cache), and its fastest step counts. A step of either side is
// the median over STEPS; of ROUNDS rounds, in which the two take turns, ratios are reported each. Beyond READ_WHOLE tokens llama.cpp's
// cache is made by repeating a part's cells (long-cache.mjs), and there is no ratio of prefill.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { getLlama } from 'node-llama-cpp';

import { repeatCells } from './long-cache.mjs';

const STEPS = 48;
const READ_WHOLE = 8192;
const PART = 2048;
const [path, lengths, policy = 'sketch', rounds = '2'] = process.argv.slice(2);
const threads = Number(process.env.THREADS ?? 2);
const contexts = lengths.split(',').map(Number);
const settings = [
  { flashAttention: true, type: 'F16' },
  { flashAttention: false, type: 'F16' },
  { flashAttention: true, type: 'Q8_0' },
];

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** The command of this checkout, in a process of its own. */
function ours(context) {
  const command = join(import.meta.dirname, '..', '..', 'dist', 'cli', 'main.js');
  const args = ['bench', 'decode', '--json', '--model', path, '--contexts', `${context}`, '--policies', policy, '--threads', `${threads}`];
  return JSON.parse(execFileSync(process.execPath, [command, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })).rows[0];
}

async function theirs(model, contextSize, { flashAttention, type }) {
  const context = await model.createContext({
    contextSize: contextSize + STEPS + 8,
    batchSize: 512,
    threads,
    flashAttention,
    experimentalKvCacheKeyType: type,
    experimentalKvCacheValueType: type,
  });
  const sequence = context.getSequence();
  const token = () => Math.floor(Math.random() * 40_000) + 100;
  const read = contextSize > READ_WHOLE ? PART : contextSize;
  const started = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(Array.from({ length: read }, token));
  const prefillSeconds = read === contextSize ? (performance.now() - started) / 1000 : undefined;
  if (read !== contextSize) await repeat(sequence, contextSize / read);
  const steps = [];
  for (let i = 0; i < STEPS; i += 1) {
    const before = performance.now();
    for await (const _ of sequence.evaluate([token()], { temperature: 0 })) break;
    steps.push(performance.now() - before);
  }
  await context.dispose();
  return { flashAttention, type, prefillSeconds, stepMs: median(steps) };
}

/** Makes the cache of a sequence so many times as long. */
async function repeat(sequence, times) {
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-peers-'));
  try {
    const [part, whole] = ['part', 'whole'].map((name) => join(folder, name));
    await sequence.saveStateToFile(part);
    repeatCells(part, whole, times);
    await sequence.loadStateFromFile(whole, { acceptRisk: true });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads });
const model = await llama.loadModel({ modelPath: path });
const rows = [];
for (const context of contexts) {
  for (let round = 0; round < Number(rounds); round += 1) {
    const own = ours(context);
    const tried = [];
    for (const setting of settings) tried.push(await theirs(model, context, setting));
    const best = tried.reduce((a, b) => (b.stepMs < a.stepMs ? b : a));
    const fastest = context > READ_WHOLE ? undefined : Math.min(...tried.map(({ prefillSeconds }) => prefillSeconds));
    const row = {
      context,
      round,
      ours: { stepMs: own.decodeMsPerToken, prefillSeconds: own.prefillSeconds },
      llama: { stepMs: best.stepMs, prefillSeconds: fastest, setting: `${best.type}${best.flashAttention ? ', flash attention' : ''}`, tried },
      stepRatio: best.stepMs / own.decodeMsPerToken,
      ...(fastest !== undefined && { prefillRatio: fastest / own.prefillSeconds }),
    };
    const prefill = fastest === undefined ? '' : `, llama.cpp ${fastest.toFixed(1)} s (x${row.prefillRatio.toFixed(2)})`;
    console.error(`${context}: step ${row.ours.stepMs.toFixed(1)} ms, llama.cpp ${best.stepMs.toFixed(1)} ms (x${row.stepRatio.toFixed(2)}); prefill ${own.prefillSeconds.toFixed(1)} s${prefill}`);
    rows.push(row);
  }
}
console.log(JSON.stringify({ policy, threads, rows }));
process.exit(0);
