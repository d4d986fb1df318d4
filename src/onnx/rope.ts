import type { RopeConfig } from '../model/types.js';

/** Cosines and sines of rotary angles, each [positions, dimensions / 2]. */
export interface RopeRows {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** Makes the rows for any positions. Angles are computed in float64: at position 100,000 a float32 angle is off by 0.004. */
export class Rope {
  readonly #frequencies: Float64Array;
  readonly #magnitude: number;

  constructor(config: RopeConfig) {
    const { theta, dimensions, factors, magnitude = 1 } = config;
    this.#magnitude = magnitude;
    this.#frequencies = Float64Array.from(
      { length: dimensions / 2 },
      (_, pair) => theta ** ((-2 * pair) / dimensions) / (factors?.[pair] ?? 1),
    );
  }

  rows(positions: readonly number[]): RopeRows {
    const pairs = this.#frequencies.length;
    const rows = { cos: new Float32Array(positions.length * pairs), sin: new Float32Array(positions.length * pairs) };
    for (const [row, position] of positions.entries()) {
      this.#frequencies.forEach((frequency, pair) => {
        const angle = position * frequency;
        rows.cos[row * pairs + pair] = this.#magnitude * Math.cos(angle);
        rows.sin[row * pairs + pair] = this.#magnitude * Math.sin(angle);
      });
    }
    return rows;
  }
}
