import type { ModelConfig, ModelFile } from '../model/types.js';
import { Embedding } from './embedding.js';
import { Rope } from './rope.js';
import { Part, type RuntimeOptions } from './runtime.js';
import { transformerParts } from './transformer.js';

/** Queries, keys (both rotated) and values of the rows of a run: [rows, heads * headDim], [rows, kvHeads * headDim] twice. */
export interface Projections {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** Attends the projections of a layer's rows: returns [rows, heads * headDim]. */
export type Attend = (layer: number, projections: Projections) => Float32Array | Promise<Float32Array>;

/** The dense layers of long texts: one ONNX model a layer boundary, loaded once, run on any number of rows. */
export class DenseGraph {
  readonly #config: ModelConfig;
  readonly #parts: readonly Part[];
  readonly #embedding: Embedding;
  readonly #rope: Rope;
  readonly #localRope: Rope | undefined;

  private constructor(model: ModelFile, parts: readonly Part[]) {
    this.#config = model.config;
    this.#parts = parts;
    const { rope, local, embeddingScale } = model.config;
    this.#embedding = new Embedding(model.embedding, embeddingScale);
    this.#rope = new Rope(rope);
    this.#localRope = local && new Rope(local.rope);
  }

  /** Loads every part. The model file must stay open, since embeddings are read from it. */
  static async load(
    model: ModelFile,
    options: RuntimeOptions,
    { signal, onPart }: { signal?: AbortSignal | undefined; onPart?: ((loaded: number, total: number) => void) | undefined } = {},
  ): Promise<DenseGraph> {
    const parts: Part[] = [];
    try {
      const builders = transformerParts(model);
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

  /** Takes tokens at consecutive positions from `position` on through every layer, up to the last one's attention. */
  async run(tokens: readonly number[], position: number, attend: Attend): Promise<void> {
    const rows = tokens.length;
    const matrix = (data: Float32Array) => ({ data, shape: [rows, data.length / rows] });
    const angles = (rope: Rope) => {
      const { cos, sin } = rope.rows(position, rows);
      return { cos: matrix(cos), sin: matrix(sin) };
    };
    const globalAngles = angles(this.#rope);
    const localAngles = this.#localRope && angles(this.#localRope);
    const { heads, kvHeads, headDim, hiddenSize, local } = this.#config;
    const buffer = (width: number) => new Float32Array(rows * width);
    const [q, k, v] = [buffer(heads * headDim), buffer(kvHeads * headDim), buffer(kvHeads * headDim)];
    const projections = { q: matrix(q), k: matrix(k), v: matrix(v) };
    let x: Float32Array = this.#embedding.rows(tokens);
    let next: Float32Array = buffer(hiddenSize);
    let o: Float32Array | undefined;
    for (const [layer, part] of this.#parts.entries()) {
      const inputs = { x: matrix(x), ...(o && { o: matrix(o) }), ...(local?.layers[layer] ? localAngles : globalAngles) };
      await part.run(inputs, { ...projections, ...(o && { x_out: matrix(next) }) });
      if (o !== undefined) [x, next] = [next, x];
      o = await attend(layer, { q, k, v });
    }
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.dispose()));
  }
}
