import { MagicpigError } from '../errors.js';
import { localWindow } from '../model/local.js';
import type { ModelConfig, ModelFile } from '../model/types.js';
import { DeviceReader } from './device-reader.js';
import { Embedding } from './embedding.js';
import { HostReader } from './host-reader.js';
import type { Precision } from './linear.js';
import type { Angles, Chunk, Reader, Store } from './reading.js';
import { Rope } from './rope.js';
import { type DeviceCounts, type HostTensor, Part, type RunTensor, type RuntimeOptions, onHost, release } from './runtime.js';
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

/** How a graph is loaded. */
export interface DenseGraphOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onPart?: ((loaded: number, total: number) => void) | undefined;
  /** Where texts that are read are attended, and what is between the layers stays: `nowhere` if the host attends. Default: what suits the device and the model. */
  readonly attended?: 'device' | 'through-host' | 'nowhere';
  /** Of products. Default: float16 where a GPU is quick with it and the model is known to stay in its range. */
  readonly precision?: Precision;
}

/** So many rows at most are a step's, whose outputs come to the host as one. */
const STEP_ROWS = 32;

/** The dense layers on a device: one ONNX model a layer boundary, loaded once, run on any number of rows, of one text or of several. */
export class DenseGraph {
  readonly #config: ModelConfig;
  readonly #layers: readonly Part[];
  readonly #tail: Part;
  readonly #heads: readonly Head[];
  readonly #embedding: Embedding;
  readonly #rope: Rope;
  readonly #localRope: Rope | undefined;
  readonly #reader: Reader | undefined;
  /** Whether layers give all of a row as one output too. */
  readonly #joined: boolean;
  /** Of all parts since they were loaded. */
  readonly counts: Readonly<DeviceCounts>;

  private constructor(
    model: ModelFile,
    layers: readonly Part[],
    tail: Part,
    heads: readonly Head[],
    { reader, joined, counts }: { reader: Reader | undefined; joined: boolean; counts: DeviceCounts },
  ) {
    this.#reader = reader;
    this.#joined = joined;
    this.counts = counts;
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
  static async load(model: ModelFile, runtime: RuntimeOptions, { signal, onPart, ...how }: DenseGraphOptions = {}): Promise<DenseGraph> {
    const { attended = attendedOn(runtime.device, model.config), precision = precisionOn(runtime.device, model) } = how;
    const counts = { runs: 0, seconds: 0, bytes: 0 };
    const options = { ...runtime, counts };
    const stay = attended === 'device';
    const loaded: Part[] = [];
    const [builders, heads] = [layerParts(model, { stay, precision }), headParts(model)];
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
      const staying = stay ? ['q_stay', 'k_stay', 'v_stay'] : [];
      for (const build of builders) layers.push(await load(build, stay && layers.length > 0 ? ['x_out', ...staying] : staying));
      const tail = await load(() => tailPart(model, { precision }));
      const head: Head[] = [];
      for (const { build, first, count } of heads) head.push({ part: await load(build), first, count });
      const Readers = { device: DeviceReader, 'through-host': HostReader, nowhere: undefined };
      const reader = await Readers[attended]?.load(model.config, options);
      return new DenseGraph(model, layers, tail, head, { reader, joined: !stay, counts });
    } catch (error) {
      await Promise.all(loaded.map((part) => part.dispose()));
      throw error;
    }
  }

  get layers(): number {
    return this.#layers.length;
  }

  /** How many tokens of a text's beginning the device can attend by itself, and how many of them go through a layer together. */
  get reads(): { readonly most: number; readonly chunk: number } | undefined {
    return this.#reader && { most: this.#reader.most, chunk: this.#reader.chunk };
  }

  /**
   * Takes the beginning of a text, of `reads.most` tokens at most, through every layer up to the last one's keys and values, and attends it on the device:
   * layer by layer, and in each chunk by chunk, of which `store` takes keys and values.
   */
  async read(tokens: readonly number[], store: Store): Promise<void> {
    const reader = this.#reader;
    if (reader === undefined) throw new MagicpigError('INTERNAL', 'the device does not attend');
    const chunks: Chunk[] = [];
    for (let first = 0; first < tokens.length; first += reader.chunk) {
      const some = tokens.slice(first, first + reader.chunk);
      chunks.push({ tokens: some, first, angles: this.#angles(some.map((_, row) => first + row)), x: this.#embedded(some) });
    }
    try {
      for (const [layer, part] of this.#layers.entries()) {
        await reader.readLayer({ layer, part, chunks, last: layer === this.#layers.length - 1, store });
      }
    } finally {
      for (const { x, o } of chunks) release(x, o);
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
        const inputs = { x, ...(o && { o }), ...angles[localWindow(local, layer) === undefined ? 0 : 1] };
        const joined = this.#joined && rows.length <= STEP_ROWS;
        const { x_out: next, ...projections } = joined ? await this.#joinedRun(part, inputs, rows.length) : await apartRun(part, inputs);
        if (next !== undefined) {
          release(x);
          x = next;
        }
        o = matrix(await attend(layer, projections), rows.length);
      }
    } catch (error) {
      release(x);
      throw error;
    }
    if (o === undefined) throw new RangeError('a model has layers');
    return { x, o };
  }

  /** A layer's outputs as one of a step's few rows. */
  async #joinedRun(part: Part, inputs: Readonly<Record<string, RunTensor>>, rows: number): Promise<Projections & { x_out?: RunTensor }> {
    const { heads, kvHeads, headDim, hiddenSize } = this.#config;
    const joined = onHost((await part.run(inputs, { wanted: { joined: null } })).joined);
    const [wide, narrow] = [heads * headDim, kvHeads * headDim];
    const [q, k, v, x] = columns(joined, rows, [wide, narrow, narrow, hiddenSize]);
    return { q, k, v, ...('o' in inputs && { x_out: matrix(x, rows) }) };
  }

  async dispose(): Promise<void> {
    await Promise.all([...this.#layers, this.#tail, ...this.#heads.map(({ part }) => part)].map((part) => part.dispose()));
    await this.#reader?.dispose();
  }
}

/** A layer's outputs as they are, but for those that are on the device for attention there. */
async function apartRun(part: Part, inputs: Readonly<Record<string, RunTensor>>): Promise<Projections & { x_out?: RunTensor }> {
  const { q, k, v, x_out, ...stayed } = await part.run(inputs);
  release(...Object.values(stayed));
  return { q: onHost(q), k: onHost(k), v: onHost(v), ...(x_out && { x_out }) };
}

/** Columns of a matrix [rows, sum of widths], each part [rows, width] by itself. Widths beyond the matrix's give nothing. */
function columns<const Widths extends readonly number[]>(data: Float32Array, rows: number, widths: Widths): { -readonly [I in keyof Widths]: Float32Array } {
  const whole = data.length / rows;
  let from = 0;
  return widths.map((width) => {
    const first = from;
    from += width;
    if (rows === 1) return data.subarray(first, from);
    const part = new Float32Array(from <= whole ? rows * width : 0);
    for (let row = 0; row * width < part.length; row += 1) part.set(data.subarray(row * whole + first, row * whole + from), row * width);
    return part;
  }) as { -readonly [I in keyof Widths]: Float32Array };
}

/** Tensors stay on WebGPU's devices alone. Elsewhere chunks go through the host, which pays where attention is flash attention. */
function attendedOn(device: RuntimeOptions['device'], config: ModelConfig): 'device' | 'through-host' | 'nowhere' {
  if (device === 'webgpu') return 'device';
  return device === 'cuda' && HostReader.takes(config) ? 'through-host' : 'nowhere';
}

/** Models with norms behind their projections, Gemma's, have activations beyond float16's range. */
function precisionOn(device: RuntimeOptions['device'], model: ModelFile): Precision {
  return device === 'cuda' && model.extraTensor(0, 'mlpPostNorm') === undefined ? 'float16' : 'float32';
}

const matrix = (data: Float32Array, rows: number): HostTensor<Float32Array> => ({ data, shape: [rows, data.length / rows] });
