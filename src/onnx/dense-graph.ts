import { MagicpigError } from '../errors.js';
import type { ModelConfig, ModelFile } from '../model/types.js';
import { DeviceAttention, type KeyBlock } from './device-attention.js';
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

/** Takes keys and values of the rows of a layer, which come in the order of their positions. */
export type Store = (layer: number, rows: { readonly k: Float32Array; readonly v: Float32Array }) => unknown;

/** Bytes that a text may take on the device while it is read there, beside a chunk's activations. */
const TEXT_BYTES = 2 ** 31;

/** Consecutive tokens of a text that is read layer by layer. */
interface Chunk {
  readonly first: number;
  readonly rows: number;
  readonly angles: readonly [Angles, Angles];
  x: RunTensor;
  o?: RunTensor;
}

type Angles = Readonly<Record<'cos' | 'sin', RunTensor>>;

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
  /** Where tensors can stay on the device: without that, every block of keys would go there once for every block after it. */
  readonly #attention: DeviceAttention | undefined;

  private constructor(model: ModelFile, layers: readonly Part[], tail: Part, heads: readonly Head[], attention: DeviceAttention | undefined) {
    this.#attention = attention;
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
    { signal, onPart, attends = options.device === 'webgpu' }: { signal?: AbortSignal | undefined; onPart?: ((loaded: number, total: number) => void) | undefined; attends?: boolean } = {},
  ): Promise<DenseGraph> {
    const loaded: Part[] = [];
    const [builders, heads] = [layerParts(model, { attended: attends }), headParts(model)];
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
      const stay = attends ? ['q_stay', 'k_stay', 'v_stay'] : [];
      for (const build of builders) layers.push(await load(build, layers.length === 0 ? stay : ['x_out', ...stay]));
      const tail = await load(() => tailPart(model));
      const head: Head[] = [];
      for (const { build, first, count } of heads) head.push({ part: await load(build), first, count });
      const attention = attends ? await DeviceAttention.load(model.config, options) : undefined;
      return new DenseGraph(model, layers, tail, head, attention);
    } catch (error) {
      await Promise.all(loaded.map((part) => part.dispose()));
      throw error;
    }
  }

  get layers(): number {
    return this.#layers.length;
  }

  /** How many tokens of a text's beginning the device can attend by itself. */
  get attendable(): number {
    if (this.#attention === undefined) return 0;
    const { hiddenSize, heads, kvHeads, headDim } = this.#config;
    return Math.floor(TEXT_BYTES / (4 * (hiddenSize + heads * headDim + 2 * kvHeads * headDim)));
  }

  /**
   * Takes the beginning of a text, of {@link DenseGraph.attendable} tokens at most, through every layer up to the last one's keys and values, and attends it on the device:
   * layer by layer, and in each chunk by chunk, of which `store` takes keys and values.
   */
  async read(tokens: readonly number[], chunkRows: number, store: Store): Promise<void> {
    const attention = this.#attention;
    if (attention === undefined) throw new MagicpigError('INTERNAL', 'the device does not attend');
    const chunks: Chunk[] = [];
    for (let first = 0; first < tokens.length; first += chunkRows) {
      const some = tokens.slice(first, first + chunkRows);
      chunks.push({ first, rows: some.length, angles: this.#angles(some.map((_, row) => first + row)), x: this.#embedded(some) });
    }
    try {
      for (const [layer, part] of this.#layers.entries()) await this.#readLayer(attention, { layer, part, chunks, store });
    } finally {
      for (const { x, o } of chunks) release(x, o);
    }
  }

  async #readLayer(attention: DeviceAttention, { layer, part, chunks, store }: { layer: number; part: Part; chunks: readonly Chunk[]; store: Store }): Promise<void> {
    const { local } = this.#config;
    const isLocal = local?.layers[layer] === true;
    const blocks: KeyBlock[] = [];
    try {
      for (const chunk of chunks) {
        const { x, o, first, rows, angles } = chunk;
        const { q_stay: q, k_stay: keys, v_stay: values, k, v, x_out: next } = await part.run({ x, ...(o && { o }), ...angles[isLocal ? 1 : 0] });
        if (q === undefined || keys === undefined || values === undefined) throw new MagicpigError('INTERNAL', 'a part of the model left an output out');
        blocks.push({ k: keys, v: values, first, rows });
        release(o);
        if (next !== undefined) {
          release(x);
          chunk.x = next;
        }
        delete chunk.o;
        try {
          // What the last layer's attention gives is only wanted after the last token, which goes by itself.
          if (layer < this.#layers.length - 1) chunk.o = await attention.attend(q, blocks, isLocal ? local.window : Infinity);
        } finally {
          release(q);
        }
        await store(layer, { k: onHost(k), v: onHost(v) });
      }
    } finally {
      for (const { k, v } of blocks) release(k, v);
    }
  }

  #embedded(tokens: readonly number[]): RunTensor {
    return matrix(this.#embedding.rows(tokens), tokens.length);
  }

  /** Of layers that are not local, and of those that are. */
  #angles(positions: readonly number[]): readonly [Angles, Angles] {
    const of = (rope: Rope): Angles => {
      const { cos, sin } = rope.rows(positions);
      return { cos: matrix(cos, positions.length), sin: matrix(sin, positions.length) };
    };
    const everywhere = of(this.#rope);
    return [everywhere, this.#localRope ? of(this.#localRope) : everywhere];
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
    const angles = this.#angles(rows.map(({ position }) => position));
    const { local } = this.#config;
    let x = this.#embedded(rows.map(({ token }) => token));
    let o: RunTensor | undefined;
    try {
      for (const [layer, part] of this.#layers.entries()) {
        const { q, k, v, x_out: next, ...stayed } = await part.run({ x, ...(o && { o }), ...angles[local?.layers[layer] ? 1 : 0] });
        release(...Object.values(stayed));
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
    await this.#attention?.dispose();
  }
}

const matrix = (data: Float32Array, rows: number) => ({ data, shape: [rows, data.length / rows] });
