import type { ModelConfig, ModelFile } from '../model/types.js';
import { Embedding } from './embedding.js';
import { Refinement } from './linear.js';
import { llamaParts } from './llama.js';
import { Rope } from './rope.js';
import { Part, type RuntimeOptions, type Tensors } from './runtime.js';

/**
 * So many rows at the end of a run have their activations refined: every decoding step, short prompts, and all logits.
 * In the rows of a long text the error of 8 bits averages out in attention, and refining them would double their time.
 */
const REFINED_ROWS = 64;

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
    const matrix = (data: Float32Array) => ({ data, shape: [rows, data.length / rows] });
    const { cos, sin } = this.#rope.rows(position, rows);
    const shared = { cos: matrix(cos), sin: matrix(sin), ...Refinement.inputs(rows, rows <= REFINED_ROWS ? rows : 1) };
    let x = this.#embedding.rows(tokens);
    let o: Float32Array | undefined;
    for (let layer = 0; layer < layers; layer += 1) {
      const { q, k, v, x_out: next } = await this.#run(layer, { x: matrix(x), ...(o && { o: matrix(o) }), ...shared });
      x = next ?? x;
      o = await attend(layer, { q, k, v } as Projections);
    }
    if (select.length === 0 || o === undefined) return undefined;
    const { logits } = await this.#run(layers, {
      x: matrix(x),
      o: matrix(o),
      select: { data: BigInt64Array.from(select, BigInt), shape: [select.length] },
      ...Refinement.inputs(select.length, select.length),
    });
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
}
