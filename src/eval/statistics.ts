import { resampledPositions } from './blocks.js';
import { Random } from './random.js';

/** Resamples of a bootstrap: the ends of a 95% interval then move by a few per cent of its width from seed to seed. */
const RESAMPLES = 2000;
/** Intervals are the same each time they are computed from the same values. */
const SEED = 95;

export interface Interval {
  readonly low: number;
  readonly high: number;
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * The `q`-th quantile, 0 to 1, linear between neighbours. `values` are ascending and not empty.
 */
export function quantile(values: readonly number[], q: number): number {
  const at = q * (values.length - 1);
  const below = values[Math.floor(at)] ?? Number.NaN;
  const above = values[Math.ceil(at)] ?? Number.NaN;
  return below + (at - Math.floor(at)) * (above - below);
}

/**
 * A 95% interval of the mean of `values`, whose rows are seeds and whose columns are positions: percentiles of the means of
 * resamples in which rows, and blocks of neighbouring columns, are drawn with replacement, since what holds for one text and seed
 * should hold for others (Efron 1979; for two ways, Owen 2007).
 */
export function meanInterval(values: readonly (readonly number[])[]): Interval {
  return resampled((random) => resampledMean(random, values));
}

/** A 95% interval of mean(values) / mean(reference), of which neither has anything to do with the other; each as in {@link meanInterval}. */
export function ratioInterval(values: readonly (readonly number[])[], reference: readonly (readonly number[])[]): Interval {
  return resampled((random) => resampledMean(random, values) / resampledMean(random, reference));
}

function resampledMean(random: Random, values: readonly (readonly number[])[]): number {
  const columns = values[0]?.length ?? 0;
  const counts = resampledPositions(random, columns);
  const sums = values.map(() => random.pick(values).reduce((sum, value, column) => sum + value * (counts[column] ?? 0), 0) / columns);
  return mean(sums);
}

/**
 * A 95% interval of the mean of paired differences: percentiles of the means of resamples of pairs. It has no width where all
 * are alike, which `n` pairs can only say of all but 3/n of others.
 */
export function differenceInterval(differences: readonly number[]): Interval {
  return resampled((random) => mean(differences.map(() => random.pick(differences))));
}

function resampled(statistic: (random: Random) => number): Interval {
  const random = new Random(SEED);
  const means = Array.from({ length: RESAMPLES }, () => statistic(random)).sort((a, b) => a - b);
  return { low: quantile(means, 0.025), high: quantile(means, 0.975) };
}
