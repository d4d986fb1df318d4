import { MagicpigError } from '../errors.js';
import { localCount } from '../model/local.js';
import type { ModelConfig } from '../model/types.js';
import type { NativeSession } from '../native.js';
import type { DenseGraph } from '../onnx/dense-graph.js';
import type { Batcher } from './batch.js';

/** Tokens that prefill takes through the layers together. */
const CHUNK = 512;

/** So many tokens at most are not worth a run on another device. */
const FEW = 32;

/** What a sequence's decoding has cost since the counts were reset. */
export interface DecodeCounts {
  steps: number;
  /** Wall time of the steps, in seconds. */
  seconds: number;
  /** Rows that exact attention would have read, summed over steps, layers and query heads. */
  allRows: number;
}

/** One text going through the model: its tokens, their rows, and the logits after the last of them. */
export class Sequence {
  readonly #config: ModelConfig;
  readonly #batcher: Batcher;
  readonly #native: NativeSession;
  readonly #dense: DenseGraph | undefined;
  readonly #tokens: number[];
  #logits: Float32Array | undefined;
  readonly counts: DecodeCounts = { steps: 0, seconds: 0, allRows: 0 };

  /** Goes on from what the native session has. With `dense`, long prompts go through its device, but for their last token. */
  constructor(config: ModelConfig, batcher: Batcher, native: NativeSession, dense?: DenseGraph) {
    this.#config = config;
    this.#batcher = batcher;
    this.#native = native;
    this.#dense = dense;
    this.#tokens = [...native.tokens()];
    const logits = new Float32Array(this.#tokens.length > 0 ? config.vocabSize : 0);
    if (logits.length > 0 && native.repeatLogits(batcher.weights, logits)) this.#logits = logits;
  }

  /** Tokens whose rows are stored. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /** Whether the logits after the last token are known: not so after a truncation. */
  get hasLogits(): boolean {
    return this.#logits !== undefined;
  }

  /** Logits [vocabulary] of the token after the last one, valid until the next call. */
  get logits(): Float32Array {
    if (this.#logits === undefined) throw new MagicpigError('EMPTY_PROMPT', 'there is no text to continue; prefill one first');
    return this.#logits;
  }

  /** Appends tokens, attended exactly. All of them or, when it fails or is aborted, none. */
  async prefill(tokens: readonly number[], signal: AbortSignal | undefined, onProgress: (done: number) => unknown): Promise<void> {
    const before = this.#tokens.length;
    await this.#orTakeBack(before, signal, async () => {
      const elsewhere = this.#dense === undefined || tokens.length <= FEW ? 0 : tokens.length - 1;
      for (let first = 0; first < tokens.length;) {
        signal?.throwIfAborted();
        const chunk = tokens.slice(first, Math.min(first + CHUNK, first < elsewhere ? elsewhere : tokens.length));
        if (first < elsewhere) {
          await this.#dense?.run(chunk, before + first, async (layer, { q, k, v }) => {
            signal?.throwIfAborted();
            return this.#native.attendPrefill(layer, chunk.length, q, k, v);
          });
          this.#native.pushTokens(chunk);
        } else {
          this.#logits = await this.#native.prefillTokens(this.#batcher.weights, chunk);
        }
        this.#tokens.push(...chunk);
        first += chunk.length;
        await onProgress(first);
      }
      signal?.throwIfAborted();
      await this.#native.buildIndex();
    });
  }

  /** Appends one token, attended under the policy, in a batch with those of other sessions that step at the same time. */
  async step(token: number, signal: AbortSignal | undefined): Promise<void> {
    const position = this.#tokens.length;
    const started = performance.now();
    const logits = (this.#logits ??= new Float32Array(this.#config.vocabSize));
    await this.#orTakeBack(position, signal, async () => {
      this.#logits = await this.#batcher.step(this.#native, token, logits, signal);
      this.#tokens.push(token);
    });
    this.counts.steps += 1;
    this.counts.seconds += (performance.now() - started) / 1000;
    this.counts.allRows += this.#config.heads * rowsAttended(this.#config, this.#tokens.length);
  }

  /** Forgets every token from position `tokens` on. The last one left must be given again to have logits. */
  truncate(tokens: number): void {
    this.#native.truncate(tokens);
    this.#tokens.length = tokens;
    this.#logits = undefined;
  }

  resetCounts(): void {
    Object.assign(this.counts, { steps: 0, seconds: 0, allRows: 0 });
    this.#native.resetStats();
  }

  /** Runs `work`; if it fails or `signal` aborts it, the sequence is as it was with `tokens` tokens. */
  async #orTakeBack(tokens: number, signal: AbortSignal | undefined, work: () => Promise<void>): Promise<void> {
    const logits = this.#logits;
    const cancel = () => { this.#native.cancel(); };
    signal?.addEventListener('abort', cancel);
    try {
      signal?.throwIfAborted();
      await work();
    } catch (cause) {
      this.truncate(tokens);
      this.#logits = logits;
      if (signal?.aborted === true) throw new MagicpigError('ABORTED', 'aborted by the caller', { cause });
      throw cause;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }
}

/** Rows that exact attention of the last of `tokens` tokens reads in all layers. */
function rowsAttended({ layers, local }: ModelConfig, tokens: number): number {
  const localLayers = localCount(local);
  return (layers - localLayers) * tokens + localLayers * Math.min(tokens, local?.window ?? 0);
}
