import type { ModelConfig, ModelFile } from '../model/types.js';
import { Embedding } from './embedding.js';
import { Rope } from './rope.js';
import { Part, type RunTensor, type RuntimeOptions, onHost, release } from './runtime.js';
import { headParts, layerParts, tailPart } from './transformer.js';

/** Queries, keys (both rotated) and values of the rows of a run: [rows, heads * headDim], [rows, kvHeads * headDim] twice. */
export interface Projections {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** Attends the projections of a layer's rows: returns [rows, heads * headDim]. */
export type Attend = (layer: number, projections: Projections) => Float32Array | Promise<Float32Array>;

/** A token of a text that is at `position` there. */
export interface Row {
  readonly token: number;
  readonly position: number;
}

/** What came of each row of a step: logits [vocabulary] of the token after it, and its residual stream [hidden] after all layers. */
export interface Stepped {
  readonly logits: Float32Array;
  readonly residual: Float32Array;
}

/** A part of the output head: the logits of so many tokens from `first` on. */
interface Head {
  readonly part: Part;
  readonly first: number;
  readonly count: number;
}

/** The dense layers on a device: one ONNX model a layer boundary, loaded once, run on any number of rows, of one text or of several. */
export class DenseGraph {
  readonly #config: ModelConfig;
  readonly #layers: readonly Part[];
  readonly #tail: Part;
  readonly #heads: readonly Head[];
  readonly #embedding: Embedding;
  readonly #rope: Rope;
  readonly #localRope: Rope | undefined;

  private constructor(model: ModelFile, layers: readonly Part[], tail: Part, heads: readonly Head[]) {
    this.#config = model.config;
    this.#layers = layers;
    this.#tail = tail;
    this.#heads = heads;
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
    const loaded: Part[] = [];
    const [builders, heads] = [layerParts(model), headParts(model)];
    const load = async (build: () => Uint8Array, stay: string[] = []): Promise<Part> => {
      signal?.throwIfAborted();
      const part = await Part.load(build(), options, stay);
      loaded.push(part);
      onPart?.(loaded.length, builders.length + 1 + heads.length);
      return part;
    };
    try {
      const layers: Part[] = [];
      // The residual stream is nobody's but the next part's.
      for (const build of builders) layers.push(await load(build, layers.length === 0 ? [] : ['x_out']));
      const tail = await load(() => tailPart(model));
      const head: Head[] = [];
      for (const { build, first, count } of heads) head.push({ part: await load(build), first, count });
      return new DenseGraph(model, layers, tail, head);
    } catch (error) {
      await Promise.all(loaded.map((part) => part.dispose()));
      throw error;
    }
  }

  /** Takes tokens at consecutive positions from `position` on through every layer, up to the last one's attention. */
  async prefill(tokens: readonly number[], position: number, attend: Attend): Promise<void> {
    const rows = tokens.map((token, row) => ({ token, position: position + row }));
    release((await this.#through(rows, attend)).x);
  }

  /** Takes tokens through the whole model, each of its own text or at its own position, in the order of `rows`. */
  async step(rows: readonly Row[], attend: Attend): Promise<Stepped[]> {
    const { x, o } = await this.#through(rows, attend);
    let residuals: Float32Array;
    try {
      residuals = onHost((await this.#tail.run({ x, o })).x_out);
    } finally {
      release(x);
    }
    const { hiddenSize, vocabSize } = this.#config;
    const logits = await this.logits(residuals, rows.length);
    return rows.map((_, row) => ({
      logits: logits.subarray(row * vocabSize, (row + 1) * vocabSize),
      residual: residuals.subarray(row * hiddenSize, (row + 1) * hiddenSize),
    }));
  }

  /** Logits [rows, vocabulary] of residual streams [rows, hidden]. */
  async logits(residuals: Float32Array, rows = 1): Promise<Float32Array> {
    const { vocabSize } = this.#config;
    const logits = new Float32Array(rows * vocabSize);
    const x = matrix(residuals, rows);
    for (const { part, first, count } of this.#heads) {
      const some = onHost((await part.run({ x })).logits);
      for (let row = 0; row < rows; row += 1) logits.set(some.subarray(row * count, (row + 1) * count), row * vocabSize + first);
    }
    return logits;
  }

  /** The residual stream before the last layer's attention is added, which may be on the device, and what that attention gave. */
  async #through(rows: readonly Row[], attend: Attend): Promise<{ x: RunTensor; o: RunTensor }> {
    const angles = (rope: Rope) => {
      const { cos, sin } = rope.rows(rows.map(({ position }) => position));
      return { cos: matrix(cos, rows.length), sin: matrix(sin, rows.length) };
    };
    const globalAngles = angles(this.#rope);
    const localAngles = this.#localRope && angles(this.#localRope);
    const { local } = this.#config;
    let x: RunTensor = matrix(this.#embedding.rows(rows.map(({ token }) => token)), rows.length);
    let o: RunTensor | undefined;
    try {
      for (const [layer, part] of this.#layers.entries()) {
        const { q, k, v, x_out: next } = await part.run({ x, ...(o && { o }), ...(local?.layers[layer] ? localAngles : globalAngles) });
        if (next !== undefined) {
          release(x);
          x = next;
        }
        o = matrix(await attend(layer, { q: onHost(q), k: onHost(k), v: onHost(v) }), rows.length);
      }
    } catch (error) {
      release(x);
      throw error;
    }
    if (o === undefined) throw new RangeError('a model has layers');
    return { x, o };
  }

  async dispose(): Promise<void> {
    await Promise.all([...this.#layers, this.#tail, ...this.#heads.map(({ part }) => part)].map((part) => part.dispose()));
  }
}

const matrix = (data: Float32Array, rows: number) => ({ data, shape: [rows, data.length / rows] });
