import type { ModelConfig } from '../model/types.js';
import { attentionGraph } from './attention-graph.js';
import { Part, type RunTensor, type RuntimeOptions, release } from './runtime.js';

/** Keys and values of consecutive tokens in one layer. */
export interface KeyBlock {
  readonly k: RunTensor;
  readonly v: RunTensor;
  readonly first: number;
  readonly rows: number;
}

/** Exact causal attention where the dense layers are, for texts that are read there. */
export class DeviceAttention {
  readonly #group: number;
  readonly #first: Part;
  readonly #next: Part;

  private constructor(group: number, first: Part, next: Part) {
    this.#group = group;
    this.#first = first;
    this.#next = next;
  }

  static async load(config: ModelConfig, options: RuntimeOptions): Promise<DeviceAttention> {
    const stay = ['max_out', 'den_out', 'num_out', 'o'];
    const first = await Part.load(attentionGraph(config, { first: true }), options, stay);
    try {
      return new DeviceAttention(config.heads / config.kvHeads, first, await Part.load(attentionGraph(config, { first: false }), options, stay));
    } catch (error) {
      await first.dispose();
      throw error;
    }
  }

  /**
   * Attends the queries of the newest of `blocks` to all of them, each query to its own token and those before it, `window` in all. The blocks
   * are consecutive. Returns [rows, heads * headDim], which the caller releases.
   */
  async attend(q: RunTensor, blocks: readonly KeyBlock[], window: number): Promise<RunTensor> {
    const newest = blocks.at(-1);
    if (newest === undefined) throw new RangeError('queries have a block of their own');
    const { first, rows } = newest;
    const positions = (from: number, count: number, times = 1) => Float32Array.from({ length: times * count }, (_, i) => from + (i % count));
    const queriesAt = positions(first, rows, this.#group);
    const shared = { q, q_at: { data: queriesAt, shape: [queriesAt.length, 1] }, window: { data: Float32Array.of(Math.min(window, 2 ** 31)), shape: [1] } };
    // The block that has each query's own key comes first.
    const seen = blocks.filter((block) => block.first + block.rows > first - window + 1).toReversed();
    let state: Readonly<Record<string, RunTensor>> = {};
    let attended: RunTensor | undefined;
    try {
      for (const [number, { k, v, first: keysFrom, rows: keys }] of seen.entries()) {
        const inputs = { ...shared, ...state, k, v, k_at: { data: positions(keysFrom, keys), shape: [1, keys] } };
        const { o, max_out: max, den_out: den, num_out: num } = await (number === 0 ? this.#first : this.#next).run(inputs);
        release(attended, ...Object.values(state));
        attended = o;
        state = { max, den, num } as Record<string, RunTensor>;
      }
    } catch (error) {
      release(attended);
      throw error;
    } finally {
      release(...Object.values(state));
    }
    if (attended === undefined) throw new RangeError('queries see a block at least');
    return attended;
  }

  async dispose(): Promise<void> {
    await Promise.all([this.#first.dispose(), this.#next.dispose()]);
  }
}
