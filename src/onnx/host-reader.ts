import type { ModelConfig } from '../model/types.js';
import { flashGraph } from './flash-graph.js';
import { type Chunk, HOST_CHUNK, type LayerReading, type Reader } from './reading.js';
import { type HostTensor, Part, type RunTensor, type RuntimeOptions, onHost } from './runtime.js';

/** Bytes of the host's memory that a text may take while it is read, beside a chunk's. */
const TEXT_BYTES = 2 ** 32;

/**
 * Reads where every tensor of a run comes from the host and goes back there (CUDA): the keys and values before a chunk go to the device with it, so
 * that chunks are large. Large outputs are written into arrays that have been written to before, since new ones cost a fault a page.
 */
export class HostReader implements Reader {
  readonly chunk = HOST_CHUNK;
  readonly most: number;
  readonly #config: ModelConfig;
  readonly #first: Part;
  readonly #next: Part;

  private constructor(config: ModelConfig, first: Part, next: Part) {
    const { hiddenSize, heads, kvHeads, headDim } = config;
    this.most = Math.floor(TEXT_BYTES / (4 * (hiddenSize + heads * headDim + kvHeads * headDim)));
    this.#config = config;
    this.#first = first;
    this.#next = next;
  }

  /** Whether all layers attend all tokens, which is what the graph does. */
  static takes({ local, scoreCap }: ModelConfig): boolean {
    return local === undefined && scoreCap === undefined;
  }

  static async load(config: ModelConfig, options: RuntimeOptions): Promise<HostReader> {
    const first = await Part.load(flashGraph(config, { first: true }), options);
    try {
      return new HostReader(config, first, await Part.load(flashGraph(config, { first: false }), options));
    } catch (error) {
      await first.dispose();
      throw error;
    }
  }

  async readLayer({ layer, part, chunks, last, store }: LayerReading): Promise<void> {
    const { hiddenSize, heads, kvHeads, headDim } = this.#config;
    const [wide, narrow] = [heads * headDim, kvHeads * headDim];
    const tokens = chunks.reduce((sum, chunk) => sum + chunk.tokens.length, 0);
    const past = { k: new Uint16Array(tokens * narrow), v: new Uint16Array(tokens * narrow) };
    const scratch = { q: new Scratch(wide), k: new Scratch(narrow), v: new Scratch(narrow), x_out: new Scratch(hiddenSize) };
    for (const chunk of chunks) {
      const { x, o, first, angles } = chunk;
      const rows = chunk.tokens.length;
      const { x_out: residual, ...projections } = scratch;
      const wanted = { ...of(projections, rows), ...(o && { x_out: residual.rows(rows) }) };
      const { q, k, v, x_out } = await part.run({ x, ...(o && { o }), ...angles[0] }, { wanted });
      if (x_out !== undefined) chunk.x = residual.swap(x_out, x);
      const kv = { k: onHost(k), v: onHost(v) };
      // The host stores meanwhile, on other threads.
      const attended = last ? undefined : this.#attend({ q: onHost(q), ...kv }, { past, first, rows, o });
      const next = await bothEnded(attended, store(layer, kv));
      if (next !== undefined) chunk.o = next;
    }
  }

  /** Attends the chunk, and appends its keys and values to the past. Writes what attention gave over what it was before, if anything. */
  async #attend(
    { q, k, v }: Readonly<Record<'q' | 'k' | 'v', Float32Array>>,
    { past, first, rows, o }: { past: Readonly<Record<'k' | 'v', Uint16Array>>; first: number; rows: number; o: Chunk['o'] },
  ): Promise<RunTensor> {
    const { heads, kvHeads, headDim } = this.#config;
    const narrow = kvHeads * headDim;
    const chunk = (data: Float32Array) => ({ data, shape: [1, rows, data.length / rows] });
    const before = (data: Uint16Array) => ({ data: data.subarray(0, first * narrow), shape: [1, first, kvHeads, headDim] });
    const own = (data: Uint16Array) => ({ data: data.subarray(first * narrow, (first + rows) * narrow), shape: [1, rows, narrow] });
    const count = (value: number) => ({ data: Int32Array.of(value), shape: [1] });
    const attended = o === undefined ? new Float32Array(rows * heads * headDim) : onHost(o);
    const earlier = first > 0 && { past_k: before(past.k), past_v: before(past.v) };
    await (first > 0 ? this.#next : this.#first).run(
      { q: chunk(q), k: chunk(k), v: chunk(v), ...earlier, last: count(first + rows - 1), total: count(first + rows) },
      { wanted: { o: chunk(attended), k_half: own(past.k), v_half: own(past.v) } },
    );
    return { data: attended, shape: [rows, heads * headDim] };
  }

  async dispose(): Promise<void> {
    await Promise.all([this.#first.dispose(), this.#next.dispose()]);
  }
}

/** What the first gives, once both have ended: whoever takes back what they did must find neither at it. */
async function bothEnded<T>(first: Promise<T> | undefined, second: unknown): Promise<T | undefined> {
  const [one, other] = await Promise.allSettled([first, second]);
  if (one.status === 'rejected') throw one.reason;
  if (other.status === 'rejected') throw other.reason;
  return one.value;
}

/** An array for an output of any number of rows, kept for the next run. */
class Scratch {
  readonly #width: number;
  #data: Float32Array = new Float32Array();

  constructor(width: number) {
    this.#width = width;
  }

  rows(rows: number): HostTensor<Float32Array> {
    const length = rows * this.#width;
    if (this.#data.length < length) this.#data = new Float32Array(length);
    return { data: this.#data.subarray(0, length), shape: [rows, this.#width] };
  }

  /** Gives away what was written, and keeps what nobody needs any more in its place. */
  swap(written: RunTensor, free: RunTensor): RunTensor {
    this.#data = onHost(free);
    return written;
  }
}

function of(scratch: Readonly<Record<string, Scratch>>, rows: number): Record<string, HostTensor> {
  return Object.fromEntries(Object.entries(scratch).map(([name, each]) => [name, each.rows(rows)]));
}
