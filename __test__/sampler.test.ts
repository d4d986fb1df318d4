import test from 'ava';

import { samplingFrom } from '../src/decode/options.js';
import type { SamplingOptions } from '../src/decode/options.js';
import { Sampler, uniform } from '../src/decode/sampler.js';

/** Logits of the given probabilities. */
const logits = (...probabilities: number[]) => Float32Array.from(probabilities, (p) => Math.log(p));

function frequencies(scores: Float32Array, options: SamplingOptions, draws = 20_000): number[] {
  const sampler = new Sampler(samplingFrom({ temperature: 1, seed: 7, ...options }));
  const counts = new Array<number>(scores.length).fill(0);
  for (let i = 0; i < draws; i += 1) counts[sampler.next(scores, [])]! += 1;
  return counts.map((count) => count / draws);
}

/** Within four standard errors of a binomial frequency. */
const near = (measured: number, p: number, draws = 20_000) => Math.abs(measured - p) <= 4 * Math.sqrt((p * (1 - p)) / draws);

test('temperature 0 takes the most likely token, the first of equals', (t) => {
  const sampler = new Sampler(samplingFrom({ temperature: 0 }));
  t.is(sampler.next(Float32Array.of(1, 3, 2, 3), []), 1);
});

test('temperature 1 draws from the model’s own distribution', (t) => {
  const wanted = [0.5, 0.3, 0.15, 0.05];
  const measured = frequencies(logits(...wanted), {});
  t.true(measured.every((value, i) => near(value, wanted[i]!)), String(measured));
  // The same bound refuses a distribution that is off by a tenth.
  t.false(near(measured[0]!, 0.55));
});

test('temperature 2 draws from the square roots of the probabilities', (t) => {
  const roots = [0.64, 0.32, 0.04].map(Math.sqrt);
  const sum = roots.reduce((a, b) => a + b);
  const measured = frequencies(logits(0.64, 0.32, 0.04), { temperature: 2 });
  t.true(measured.every((value, i) => near(value, roots[i]! / sum)), String(measured));
});

test('a token far below the others keeps its chance where everything is wanted', (t) => {
  // 20 nats below: out of the range that is sorted first, and with temperature 10 still e^-2 of the top.
  const measured = frequencies(Float32Array.of(0, -20), { temperature: 10 });
  const p = Math.exp(-2) / (1 + Math.exp(-2));
  t.true(near(measured[1]!, p), `${measured[1]!} is not ${p}`);
});

test('the least temperature there is takes the most likely token', (t) => {
  const sampler = new Sampler(samplingFrom({ temperature: 5e-324 }));
  t.deepEqual(Array.from({ length: 100 }, () => sampler.next(Float32Array.of(1, 1.001, -Infinity), [])), new Array<number>(100).fill(1));
});

test('topK, topP and minP leave out what they say', (t) => {
  const scores = logits(0.5, 0.3, 0.15, 0.05);
  const kept = (options: SamplingOptions) => frequencies(scores, options, 2000).map((value) => value > 0);
  t.deepEqual(kept({ topK: 2 }), [true, true, false, false]);
  t.deepEqual(kept({ topP: 0.6 }), [true, true, false, false]);
  t.deepEqual(kept({ topP: 0.01 }), [true, false, false, false]);
  t.deepEqual(kept({ minP: 0.2 }), [true, true, true, false]);
  t.deepEqual(kept({ topK: 3, topP: 0.5 }), [true, false, false, false]);
});

test('topP keeps what is needed of a flat distribution of many tokens', (t) => {
  const flat = new Float32Array(1000);
  const sampler = new Sampler(samplingFrom({ temperature: 1, topP: 0.5 }));
  const drawn = new Set(Array.from({ length: 20_000 }, () => sampler.next(flat, [])));
  t.is(drawn.size, 500);
});

/** What is left when everything is sorted: top-k, top-p among those, min-p. */
function left(scores: Float32Array, { topK = 0, topP = 1, minP = 0 }: SamplingOptions): number[] {
  const at = (id: number) => scores[id]!;
  let ids = Array.from(scores.keys()).sort((a, b) => at(b) - at(a) || a - b);
  const top = at(ids[0]!);
  if (topK > 0) ids = ids.slice(0, topK);
  const weights = ids.map((id) => Math.exp(at(id) - top));
  const wanted = topP * weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  if (topP < 1) ids = ids.slice(0, 1 + weights.findIndex((weight) => (sum += weight) >= wanted));
  return ids.filter((id) => at(id) >= top + Math.log(minP) && at(id) > -Infinity).sort((a, b) => a - b);
}

test('what is left is what sorting everything would leave, with equals, far ranges and masked tokens', (t) => {
  let narrowed = 0;
  for (let trial = 0; trial < 200; trial += 1) {
    const random = (what: number) => uniform(1000 + what, trial);
    const range = [1, 4, 20, 80][trial % 4]!;
    const scores = Float32Array.from({ length: 1 + Math.floor(random(0) * 12) }, (_, id) => {
      const score = (uniform(trial, id) - 0.5) * range;
      if (trial % 7 === 0 && id % 3 > 0) return -Infinity;
      return trial % 3 === 0 ? score : Math.round(score * 2) / 2;
    });
    const options: SamplingOptions = {
      topK: trial % 2 === 0 ? 0 : 1 + Math.floor(random(1) * 14),
      topP: trial % 5 === 0 ? 1 : Math.max(random(2), 0.01),
      minP: trial % 3 === 0 ? random(3) * 0.2 : 0,
    };
    // Nearly evenly, so that every token that is left is drawn: one of 12 is not with 1e-7.
    const sampler = new Sampler(samplingFrom({ ...options, temperature: 100, seed: trial }));
    const drawn = new Set(Array.from({ length: 400 }, () => sampler.next(scores, [])));
    const wanted = left(scores, options);
    t.deepEqual([...drawn].sort((a, b) => a - b), wanted, JSON.stringify({ scores: [...scores], options }));
    if (wanted.length < scores.length) narrowed += 1;
  }
  t.true(narrowed > 100, `${narrowed} trials left something out`);
});

test('the repetition penalty makes recent tokens less likely, and forgets those 64 tokens back', (t) => {
  const choose = (scores: number[], tokens: number[]) => new Sampler(samplingFrom({ repetitionPenalty: 2 })).next(Float32Array.from(scores), tokens);
  t.is(choose([3, 2], []), 0);
  t.is(choose([3, 2], [0]), 1);
  t.is(choose([-1, -1.5], [0]), 1, 'a negative logit is multiplied');
  t.is(choose([3, 2], [0, ...new Array<number>(64).fill(5)]), 0);
});

test('the same seed draws the same tokens, another seed others; logits stay as they were', (t) => {
  const scores = logits(0.3, 0.3, 0.2, 0.2);
  const before = scores.slice();
  const draw = (seed: number) => {
    const sampler = new Sampler(samplingFrom({ temperature: 1, repetitionPenalty: 1.1, seed }));
    return Array.from({ length: 50 }, () => sampler.next(scores, [1]));
  };
  t.deepEqual(draw(3), draw(3));
  t.notDeepEqual(draw(3), draw(4));
  t.deepEqual(scores, before);
});

test('uniforms fill [0, 1) evenly and do not repeat from seed to seed', (t) => {
  const n = 100_000;
  const values = Array.from({ length: n }, (_, i) => uniform(1, i));
  t.true(values.every((value) => value >= 0 && value < 1));
  const bins = new Array<number>(20).fill(0);
  for (const value of values) bins[Math.floor(value * 20)]! += 1;
  const chiSquare = bins.reduce((sum, count) => sum + (count - n / 20) ** 2 / (n / 20), 0);
  // 99.99% of such sums with 19 degrees of freedom are below 52.
  t.true(chiSquare < 52, `chi-square ${chiSquare}`);
  t.is(values.filter((value, i) => value === uniform(2, i)).length, 0);
});
