// Means, intervals and divergences against values that follow from their definitions.
import test from 'ava';

import { blockLength, resampledPositions } from '../src/eval/blocks.js';
import { divergence, logProbabilities } from '../src/eval/predictions.js';
import { Random, seedOf } from '../src/eval/random.js';
import { differenceInterval, mean, meanInterval, quantile, ratioInterval } from '../src/eval/statistics.js';

/** Roughly normal: the sum of twelve uniforms. */
function normals(seed: number, count: number): number[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => Array.from({ length: 12 }, () => random.next()).reduce((a, b) => a + b, -6));
}

test('quantiles are linear between neighbours', (t) => {
  t.is(quantile([1, 2, 3, 4], 0), 1);
  t.is(quantile([1, 2, 3, 4], 0.5), 2.5);
  t.is(quantile([1, 2, 3, 4], 1), 4);
  t.is(quantile([7], 0.3), 7);
});

test('an interval of a mean is 1.96 standard errors to either side', (t) => {
  const values = normals(1, 400);
  const centre = mean(values);
  const error = Math.sqrt(mean(values.map((value) => (value - centre) ** 2)) / values.length);
  const { low, high } = differenceInterval(values);
  t.true(Math.abs((centre - low) / (1.96 * error) - 1) < 0.1, `${low}`);
  t.true(Math.abs((high - centre) / (1.96 * error) - 1) < 0.1, `${high}`);
  t.deepEqual(differenceInterval(values), { low, high }, 'the same every time');
});

test('an interval holds the true mean as often as it says', (t) => {
  const covered = Array.from({ length: 60 }, (_, seed) => differenceInterval(normals(100 + seed, 40)))
    .filter(({ low, high }) => low <= 0 && high >= 0).length;
  // 57 are expected.
  t.true(covered >= 51, `${covered} of 60`);
});

test('seeds that differ make an interval wider, and positions counted three times do not make it narrower', (t) => {
  const row = normals(2, 200);
  const width = (values: readonly (readonly number[])[]) => {
    const { low, high } = meanInterval(values);
    return high - low;
  };
  const one = width([row]);
  t.true(Math.abs(width([row, row, row]) / one - 1) < 0.1, 'the same seed three times says no more');
  t.true(width([row.map((x) => x - 1), row, row.map((x) => x + 1)]) > 2 * one);
  // The control: differences of independent values would be narrower by the root of three.
  const pooled = differenceInterval([...row, ...row, ...row]);
  t.true((pooled.high - pooled.low) / one < 0.7);
});

/** Each value half of the one before, and noise. */
function alikeNeighbours(seed: number, count: number): number[] {
  let value = 0;
  return normals(seed, count + 20).map((noise) => (value = 0.5 * value + noise)).slice(20);
}

test('neighbours that are alike make an interval wider', (t) => {
  const covers = ({ low, high }: { low: number; high: number }) => low <= 0 && high >= 0;
  const series = Array.from({ length: 60 }, (_, seed) => alikeNeighbours(300 + seed, 128));
  const blocks = series.filter((values) => covers(meanInterval([values]))).length;
  const single = series.filter((values) => covers(differenceInterval(values))).length;
  // Of 60, 57 should be: blocks of 8 see nine tenths of the standard error, single positions less than six.
  t.true(blocks >= 51, `${blocks} of 60`);
  t.true(single <= 47, `the control: ${single} of 60`);
});

test('resamples are whole blocks, of all positions alike', (t) => {
  t.is(blockLength(128), 8);
  t.is(blockLength(1), 1);
  const sums = new Float64Array(50);
  const random = new Random(3);
  for (let i = 0; i < 4000; i += 1) {
    const counts = resampledPositions(random, 50);
    t.true(counts.reduce((a, b) => a + b, 0) === 50);
    counts.forEach((count, position) => { sums[position] = (sums[position] ?? 0) + count; });
  }
  t.true(sums.every((sum) => Math.abs(sum / 4000 - 1) < 0.15), 'the first and the last too');
});

test('an interval of a ratio holds what two means are to each other', (t) => {
  const around = (centre: number, seed: number) => [0, 1, 2].map((row) => normals(seed + row, 128).map((x) => centre + x));
  const { low, high } = ratioInterval(around(12, 40), around(10, 50));
  t.true(low < 1.2 && high > 1.2 && high - low < 0.1, `${low} to ${high}`);
  t.true(low > 1, 'and 1 is outside');
});

test('where all are alike, an interval has no width', (t) => {
  t.deepEqual(differenceInterval([0.25, 0.25, 0.25]), { low: 0.25, high: 0.25 });
});

test('divergence is what its definition says, and no distance', (t) => {
  const logs = (...values: number[]) => Float64Array.from(values, Math.log);
  const [p, q] = [logs(0.5, 0.5), logs(0.9, 0.1)];
  t.true(Math.abs(divergence(p, q) - 0.5 * Math.log(0.5 / 0.9) - 0.5 * Math.log(0.5 / 0.1)) < 1e-12);
  t.true(divergence(p, q) !== divergence(q, p));
  t.is(divergence(p, p), 0);
  const own = logProbabilities(Float32Array.of(1000, 1000 + Math.fround(Math.log(3)), -1000));
  t.true(Math.abs(Math.exp(own[1] ?? 0) - 0.75) < 1e-4);
  t.true(Math.abs(own.reduce((sum, log) => sum + Math.exp(log), 0) - 1) < 1e-12);
});

test('draws are the same for a seed, different for others, and even', (t) => {
  const draws = (seed: number) => { const random = new Random(seed); return Array.from({ length: 4000 }, () => random.below(10)); };
  t.deepEqual(draws(5), draws(5));
  t.notDeepEqual(draws(5), draws(6));
  for (let digit = 0; digit < 10; digit += 1) {
    const count = draws(5).filter((draw) => draw === digit).length;
    t.true(Math.abs(count - 400) < 80, `${digit}: ${count}`);
  }
  t.deepEqual(new Random(1).shuffled([1, 2, 3, 4, 5]).sort(), [1, 2, 3, 4, 5]);
  t.is(new Set(Array.from({ length: 100 }, (_, i) => seedOf(0, 4096, i, 1))).size, 100);
});
