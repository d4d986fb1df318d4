// What llama.cpp generates greedily, with its two greatest logits at every step, as JSON on stdout.
//
//     npm install --ignore-scripts && node greedy.mjs MODEL.gguf
//
// Prompts go in as raw tokens: no chat template, no beginning-of-text token. The KV cache is f32 and flash attention off,
// which is llama.cpp at its most exact; activations it rounds to 8 bits a block in any setting.
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { getLlama } from 'node-llama-cpp';

const TOKENS = 64;
const prompts = [
  'The lighthouse keeper climbed the stairs every evening, and on the night of the storm he',
  'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
  'Shopping list for a week of dinners:\n1. Rice\n2. Lentils\n3.',
  'Question: Why does ice float on water?\nAnswer:',
  'Water boils at a lower temperature on a mountain because',
];

const path = process.argv[2];
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 2 });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({
  contextSize: 512,
  threads: 2,
  flashAttention: false,
  experimentalKvCacheKeyType: 'F32',
  experimentalKvCacheValueType: 'F32',
});
const sequence = context.getSequence();

const results = [];
for (const prompt of prompts) {
  await sequence.clearHistory();
  const promptTokens = model.tokenize(prompt, false);
  const steps = [];
  let input = promptTokens;
  while (steps.length < TOKENS) {
    const wanted = { generateNext: { logits: { filter: { tokens: [], includeTop: 2 } }, options: { temperature: 0 } } };
    const output = await sequence.controlledEvaluate([...input.slice(0, -1), [input.at(-1), wanted]]);
    const top = [...output.at(-1).next.logits].sort(([, a], [, b]) => b - a);
    steps.push(top.slice(0, 2).map(([token, logit]) => [token, Math.round(logit * 1e5) / 1e5]));
    input = [top[0][0]];
  }
  results.push({ prompt, promptTokens, steps, text: model.detokenize(steps.map(([[token]]) => token)) });
}

const hash = createHash('sha256');
for await (const chunk of createReadStream(path)) hash.update(chunk);
const manifest = createRequire(import.meta.url).resolve('node-llama-cpp').replace(/dist.*/, 'package.json');
const peer = `node-llama-cpp ${JSON.parse(readFileSync(manifest, 'utf8')).version}, llama.cpp ${llama.llamaCppRelease.release}`;
process.stdout.write(`${JSON.stringify({ peer, modelSha256: hash.digest('hex'), tokens: TOKENS, prompts: results })}\n`);
process.exit(0);
