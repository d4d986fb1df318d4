// The policy `exact` is the model itself: what others compute from the same weights, recorded under reference/, is what comes
// out. docs/evaluation.md says how the records were made.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { type Model, loadModel } from '../src/index.js';

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

const text = readFileSync(join(root, 'docs', 'sampled-attention.md'), 'utf8');

/** -ln of the probability that each of `steps` tokens had, stepped one by one after `prefix`. */
async function stepped(model: Model, tokens: readonly number[], { prefix, steps, rows }: { prefix: number; steps: number; rows: 'bf16' | 'int8' }): Promise<number[]> {
  using session = model.createSession({ policy: 'exact', rows });
  await session.prefill(tokens.slice(0, prefix));
  const nll: number[] = [];
  for (let i = prefix; i < prefix + steps; i += 1) nll.push(negativeLogLikelihood(await session.step(tokens[i] as number), tokens[i + 1] as number));
  return nll;
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

test('has the perplexity of a float32 run after 8,064 tokens, within 0.5%', async (t) => {
  t.timeout(600_000);
  const { tokensSha256, prefix, steps, perplexity, nll } = record('smollm2-float32.json') as Dense;
  await using model = await loadModel('smollm2-135m');
  const tokens = model.tokenizer.encode(text).slice(0, prefix + steps + 1);
  t.is(createHash('sha256').update(JSON.stringify(tokens)).digest('hex'), tokensSha256, 'the reference is of another text');
  const own = await stepped(model, tokens, { prefix, steps, rows: 'bf16' });
  const ratio = Math.exp(mean(own)) / perplexity;
  const worst = Math.max(...own.map((value, i) => Math.abs(value - (nll[i] as number))));
  t.log(`perplexity ${(ratio * perplexity).toFixed(4)}, of the float32 run ${perplexity}; ratio ${ratio.toFixed(5)}; furthest token ${worst.toFixed(3)} nats`);
  t.true(Math.abs(ratio - 1) < 0.005, `ratio ${ratio}`);
});

// Of single tokens the rounding of rows moves the likelihood by 0.05 nats this way and that, so that it takes many to tell 1% from noise.
test('rows of int8 have the perplexity of rows of bf16 over 1,024 tokens after 7,000, within 1%', async (t) => {
  t.timeout(600_000);
  await using model = await loadModel('smollm2-135m');
  const tokens = model.tokenizer.encode(text);
  const [bf16, int8] = [
    await stepped(model, tokens, { prefix: 7000, steps: 1024, rows: 'bf16' }),
    await stepped(model, tokens, { prefix: 7000, steps: 1024, rows: 'int8' }),
  ];
  const differences = int8.map((value, i) => value - (bf16[i] as number));
  const off = mean(differences);
  const error = Math.sqrt(mean(differences.map((difference) => (difference - off) ** 2)) / differences.length);
  t.log(`ratio ${Math.exp(off).toFixed(5)}, standard error ${error.toFixed(5)}`);
  t.true(error < 0.0025, `a standard error of ${error} tells too little`);
  t.true(Math.abs(Math.exp(off) - 1) < 0.01, `ratio ${Math.exp(off)}`);
  t.true(differences.some((difference) => Math.abs(difference) > 1e-3), 'rows were not rounded');
});
