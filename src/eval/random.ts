import { MagicpigError } from '../errors.js';
import { uniform } from '../decode/sampler.js';

/** Draws that follow from a seed: the same seed gives the same sample on any machine. */
export class Random {
  readonly #seed: number;
  #draws = 0;

  /** @param seed An unsigned 32-bit number. */
  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Uniform in [0, 1). */
  next(): number {
    return uniform(this.#seed, this.#draws++);
  }

  /** A whole number from 0 up to but not including `end`. */
  below(end: number): number {
    return Math.floor(this.next() * end);
  }

  pick<T>(values: readonly T[]): T {
    const value = values[this.below(values.length)];
    if (value === undefined) throw new MagicpigError('INTERNAL', 'there is nothing to pick from');
    return value;
  }

  /** The same values in another order (Fisher and Yates). */
  shuffled<T>(values: readonly T[]): T[] {
    const out = [...values];
    for (let last = out.length - 1; last > 0; last -= 1) {
      const other = this.below(last + 1);
      [out[last], out[other]] = [out[other] as T, out[last] as T];
    }
    return out;
  }

  /** `count` results of `make` of which no two are equal. */
  distinct(count: number, make: () => string): string[] {
    const made = new Set<string>();
    for (let attempts = 0; made.size < count; attempts += 1) {
      if (attempts > 1000 + 100 * count) throw new MagicpigError('INTERNAL', `cannot make ${count} different values`);
      made.add(make());
    }
    return [...made];
  }

  /** `count` different whole numbers from 0 up to but not including `end`, ascending. */
  places(count: number, end: number): number[] {
    return this.shuffled(Array.from({ length: end }, (_, i) => i)).slice(0, count).sort((a, b) => a - b);
  }
}

/** A seed that follows from others: independent for different parts. */
export function seedOf(...parts: readonly number[]): number {
  return parts.reduce((seed, part) => Math.floor(uniform(seed, part) * 2 ** 32), 0x6d70);
}
