// Queries, keys and values of a small shape, in the place of a model's.
export const shape = { layers: 2, heads: 4, kvHeads: 2, headDim: 64 };
export const qLength = shape.heads * shape.headDim;
export const kvLength = shape.kvHeads * shape.headDim;

/** Uniform numbers in [-1, 1), the same for the same seed (mulberry32). */
function numbers(length: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length }, () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 31 - 1;
  });
}

export interface Chunk {
  rows: number;
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

export const chunk = (rows: number, seed: number): Chunk => ({
  rows,
  q: numbers(rows * qLength, seed),
  k: numbers(rows * kvLength, seed + 1),
  v: numbers(rows * kvLength, seed + 2),
});

/** One token of a chunk. */
export const token = ({ q, k, v }: Chunk, row: number): [Float32Array, Float32Array, Float32Array] => [
  q.subarray(row * qLength, (row + 1) * qLength),
  k.subarray(row * kvLength, (row + 1) * kvLength),
  v.subarray(row * kvLength, (row + 1) * kvLength),
];
