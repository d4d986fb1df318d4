// The policy `exact` is the model itself: what others compute from the same weights, recorded under reference/, is what comes
// out. docs/evaluation.md says how the records were made.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { loadModel } from '../src/index.js';

interface Greedy {
  readonly peer: string;
  readonly tokens: number;
  readonly prompts: readonly { prompt: string; promptTokens: number[]; steps: [[number, number], [number, number]][] }[];
}

interface Dense {
  readonly tokensSha256: string;
  readonly prefix: number;
  readonly steps: number;
  readonly perplexity: number;
  readonly nll: readonly number[];
}

const root = join(import.meta.dirname, '..');
const record = (name: string): unknown => JSON.parse(readFileSync(join(root, '__test__', 'reference', name), 'utf8'));

/** -ln softmax(logits)[token], the sum in f64. */
function negativeLogLikelihood(logits: Float32Array, token: number): number {
  const greatest = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((a, b) => a + Math.exp(b - greatest), 0);
  return greatest + Math.log(sum) - (logits[token] as number);
}

const argmax = (logits: Float32Array) => logits.reduce((best, value, i) => (value > (logits[best] as number) ? i : best), 0);

test('chooses the tokens that llama.cpp chooses, save where its own first two are within 0.05', async (t) => {
  t.timeout(300_000);
  const { prompts, tokens } = record('llama-cpp-greedy.json') as Greedy;
  t.is(prompts.length, 5);
  await using model = await loadModel('smollm2-135m');
  let compared = 0;
  for (const { prompt, promptTokens, steps } of prompts) {
    t.deepEqual(model.tokenizer.encode(prompt), promptTokens);
    t.is(steps.length, tokens);
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(promptTokens.slice(0, -1));
    let token = promptTokens.at(-1) as number;
    for (const [[first, logit], [, second]] of steps) {
      const own = argmax(await session.step(token));
      if (logit - second >= 0.05) {
        t.is(own, first, `${prompt} at ${session.tokens.length}`);
        compared += 1;
      }
      // Theirs goes on from its own choice, so that the next step is about the same text.
      token = first;
    }
  }
  t.true(compared > 0.95 * 5 * tokens, `only ${compared} steps were clear`);
});

for (const [rows, bound] of [['bf16', 0.005], ['int8', 0.01]] as const) {
  test(`has the perplexity of a float32 run after 8,064 tokens, within ${100 * bound}%, with rows of ${rows}`, async (t) => {
    t.timeout(600_000);
    const { tokensSha256, prefix, steps, perplexity, nll } = record('smollm2-float32.json') as Dense;
    await using model = await loadModel('smollm2-135m');
    const text = readFileSync(join(root, 'docs', 'sampled-attention.md'), 'utf8');
    const tokens = model.tokenizer.encode(text).slice(0, prefix + steps + 1);
    t.is(createHash('sha256').update(JSON.stringify(tokens)).digest('hex'), tokensSha256, 'the reference is of another text');
    using session = model.createSession({ policy: 'exact', rows });
    await session.prefill(tokens.slice(0, prefix));
    let total = 0;
    let worst = 0;
    for (let i = 0; i < steps; i += 1) {
      const logits = await session.step(tokens[prefix + i] as number);
      const own = negativeLogLikelihood(logits, tokens[prefix + i + 1] as number);
      total += own;
      worst = Math.max(worst, Math.abs(own - (nll[i] as number)));
    }
    const ratio = Math.exp(total / steps) / perplexity;
    t.log(`${rows}: perplexity ${(ratio * perplexity).toFixed(4)}, of the float32 run ${perplexity}; ratio ${ratio.toFixed(5)}; furthest token ${worst.toFixed(3)} nats`);
    t.true(Math.abs(ratio - 1) < bound, `ratio ${ratio}`);
  });
}
