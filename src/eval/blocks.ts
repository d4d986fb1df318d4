import type { Random } from './random.js';

/**
 * Neighbouring positions that stay together in a resample of `count`: 1.5 count^(1/3), 8 of 128. What a policy leaves out matters
 * to several tokens in a row, so positions are not independent, and resamples of single ones would make intervals too narrow. The
 * cube root is the rate at which the variance of a mean is estimated best (Künsch 1989; Hall, Horowitz and Jing 1995).
 */
export function blockLength(count: number): number {
  return Math.max(1, Math.min(count, Math.round(1.5 * Math.cbrt(count))));
}

/**
 * How often each of `count` positions is in a resample of as many: whole blocks from anywhere, the first position following on the
 * last (circular blocks, Politis and Romano 1992), the last block cut short.
 */
export function resampledPositions(random: Random, count: number): Float64Array {
  const counts = new Float64Array(count);
  const length = blockLength(count);
  for (let taken = 0; taken < count; taken += length) {
    const first = random.below(count);
    for (let i = 0; i < Math.min(length, count - taken); i += 1) {
      const position = (first + i) % count;
      counts[position] = (counts[position] ?? 0) + 1;
    }
  }
  return counts;
}
