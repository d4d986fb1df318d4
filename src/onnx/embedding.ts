import type { Tensor } from '../model/types.js';
import { dequantise } from '../native.js';

/**
 * Token embeddings, read row by row from the model file. A token needs a few hundred bytes, so the table is never loaded:
 * where it is tied to lm_head, ONNX Runtime has the only copy.
 */
export class Embedding {
  readonly #table: Tensor;
  readonly #size: number;
  readonly #scale: number;

  /** `scale` is what rows are multiplied with. */
  constructor(table: Tensor, scale: number) {
    this.#scale = scale;
    this.#table = table;
    this.#size = table.shape[1] ?? 0;
  }

  /** [tokens, hidden size] */
  rows(tokens: readonly number[]): Float32Array {
    const rows = new Float32Array(tokens.length * this.#size);
    tokens.forEach((token, index) => {
      const row = dequantise(this.#table.type, this.#table.row(token));
      rows.set(this.#scale === 1 ? row : row.map((x) => x * this.#scale), index * this.#size);
    });
    return rows;
  }
}
