import { MagicpigError } from '../errors.js';
import { localWindow } from '../model/local.js';
import type { ModelConfig } from '../model/types.js';
import { DeviceAttention, type KeyBlock } from './device-attention.js';
import type { LayerReading, Reader } from './reading.js';
import { type RuntimeOptions, onHost, release } from './runtime.js';

/** Bytes that a text may take on the device while it is read there, beside a chunk's activations. */
const TEXT_BYTES = 2 ** 31;

/** Reads where tensors can stay on the device: one layer's keys and values, and the residual stream of the whole text. */
export class DeviceReader implements Reader {
  readonly chunk = 512;
  readonly most: number;
  readonly #config: ModelConfig;
  readonly #attention: DeviceAttention;

  private constructor(config: ModelConfig, attention: DeviceAttention) {
    const { hiddenSize, heads, kvHeads, headDim } = config;
    this.most = Math.floor(TEXT_BYTES / (4 * (hiddenSize + heads * headDim + 2 * kvHeads * headDim)));
    this.#config = config;
    this.#attention = attention;
  }

  static async load(config: ModelConfig, options: RuntimeOptions): Promise<DeviceReader> {
    return new DeviceReader(config, await DeviceAttention.load(config, options));
  }

  async readLayer({ layer, part, chunks, last, store }: LayerReading): Promise<void> {
    const window = localWindow(this.#config.local, layer);
    const blocks: KeyBlock[] = [];
    try {
      for (const chunk of chunks) {
        const { x, o, first, tokens, angles } = chunk;
        const { q_stay: q, k_stay: keys, v_stay: values, k, v, x_out: next } = await part.run({ x, ...(o && { o }), ...angles[window === undefined ? 0 : 1] });
        if (q === undefined || keys === undefined || values === undefined) throw new MagicpigError('INTERNAL', 'a part of the model left an output out');
        blocks.push({ k: keys, v: values, first, rows: tokens.length });
        release(o);
        if (next !== undefined) {
          release(x);
          chunk.x = next;
        }
        delete chunk.o;
        try {
          if (!last) chunk.o = await this.#attention.attend(q, blocks, window ?? Infinity);
        } finally {
          release(q);
        }
        await store(layer, { k: onHost(k), v: onHost(v) });
      }
    } finally {
      for (const { k, v } of blocks) release(k, v);
    }
  }

  async dispose(): Promise<void> {
    await this.#attention.dispose();
  }
}
