import type { ModelConfig, ModelFile } from '../model/types.js';
import { Embedding } from './embedding.js';
import { llamaParts } from './llama.js';
import { Rope, type RopeRows } from './rope.js';
import { Part, type RuntimeOptions, type Tensors } from './runtime.js';

/** Queries, keys (both rotated) and values of the rows of a run: [rows, heads * headDim], [rows, kvHeads * headDim] twice. */
export interface Projections {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** Attends the projections of a layer's rows: returns [rows, heads * headDim]. */
export type Attend = (layer: number, projections: Projections) => Float32Array | Promise<Float32Array>;

/** The part of a model without attention: one ONNX model a layer boundary, loaded once, run on any number of rows. */
export class DenseGraph {
  readonly #config: ModelConfig;
  readonly #parts: readonly Part[];
  readonly #embedding: Embedding;
  readonly #rope: Rope;

  private constructor(model: ModelFile, parts: readonly Part[]) {
    this.#config = model.config;
    this.#parts = parts;
    this.#embedding = new Embedding(model.embedding);
    this.#rope = new Rope(model.config.rope);
  }

  /** Loads every part. The model file must stay open, since embeddings are read from it. */
  static async load(
    model: ModelFile,
    options: RuntimeOptions,
    { signal, onPart }: { signal?: AbortSignal | undefined; onPart?: ((loaded: number, total: number) => void) | undefined } = {},
  ): Promise<DenseGraph> {
    const parts: Part[] = [];
    try {
      const builders = llamaParts(model);
      for (const build of builders) {
        signal?.throwIfAborted();
        parts.push(await Part.load(build(), options));
        onPart?.(parts.length, builders.length);
      }
    } catch (error) {
      await Promise.all(parts.map((part) => part.dispose()));
      throw error;
    }
    return new DenseGraph(model, parts);
  }

  /**
   * Takes tokens at consecutive positions from `position` on through every layer. Returns the logits [select.length,
   * vocabulary] of the rows that `select` names, or undefined where it names none (the last MLP and lm_head are skipped).
   */
  async run(
    tokens: readonly number[],
    position: number,
    select: readonly number[],
    attend: Attend,
  ): Promise<Float32Array | undefined> {
    const { layers } = this.#config;
    const rows = tokens.length;
    const rope = this.#rope.rows(position, rows);
    let x = this.#embedding.rows(tokens);
    let o: Float32Array | undefined;
    for (let layer = 0; layer < layers; layer += 1) {
      const { q, k, v, x_out: next } = await this.#run(layer, this.#inputs(rows, x, o, rope));
      x = next ?? x;
      o = await attend(layer, { q, k, v } as Projections);
    }
    if (select.length === 0) return undefined;
    const rowNumbers = { data: BigInt64Array.from(select, BigInt), shape: [select.length] };
    const { logits } = await this.#run(layers, { ...this.#inputs(rows, x, o), select: rowNumbers });
    return logits;
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.dispose()));
  }

  #run(number: number, inputs: Tensors): Promise<Record<string, Float32Array>> {
    const part = this.#parts[number];
    if (part === undefined) throw new RangeError(`part ${number} of ${this.#parts.length}`);
    return part.run(inputs);
  }

  #inputs(rows: number, x: Float32Array, o: Float32Array | undefined, rope?: RopeRows): Tensors {
    const matrix = (data: Float32Array) => ({ data, shape: [rows, data.length / rows] });
    return {
      x: matrix(x),
      ...(o && { o: matrix(o) }),
      ...(rope && { cos: matrix(rope.cos), sin: matrix(rope.sin) }),
    };
  }
}
