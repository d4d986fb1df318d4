import { MagicpigError } from '../errors.js';
import { localCount } from '../model/local.js';
import type { ModelConfig } from '../model/types.js';
import type { NativeSession } from '../native.js';
import type { Batcher } from './batch.js';
import { prefillOnDevice } from './device-step.js';

/** Tokens that prefill takes through the layers together, at most. */
export const CHUNK = 512;

/** So many tokens at most go through the layers as a step's token does. Of more, all but the last are read. */
const FEW = 32;

/** Tokens after which what was read is kept, where it can be: of a book that takes an hour, no more than its last pages are read twice. */
export const KEEP_EVERY = 8192;

/** How tokens are read. */
export interface Reading {
  readonly signal: AbortSignal | undefined;
  /** Is told how many are done; the next chunk waits for it. */
  readonly onProgress: (done: number) => unknown;
  /** How many tokens the next chunk may have. */
  readonly chunkTokens?: (() => number) | undefined;
  /** Makes what was read last; none where a text is read whole or not at all. */
  readonly keep?: (() => Promise<void>) | undefined;
}

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
  readonly #tokens: number[];
  #logits: Float32Array | undefined;
  readonly counts: DecodeCounts = { steps: 0, seconds: 0, allRows: 0 };

  /** Goes on from what the native session has. */
  constructor(config: ModelConfig, batcher: Batcher, native: NativeSession) {
    this.#config = config;
    this.#batcher = batcher;
    this.#native = native;
    this.#tokens = [...native.tokens()];
  }

  /** Takes up the logits after the last token, where the session was kept with what they come from. */
  async recall(): Promise<void> {
    const { weights, dense } = this.#batcher;
    if (dense === undefined) {
      const logits = new Float32Array(this.#config.vocabSize);
      if (this.#native.repeatLogits(weights, logits)) this.#logits = logits;
      return;
    }
    const residual = this.#native.residual();
    if (residual.length > 0) this.#logits = await dense.logits(residual);
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

  /**
   * Appends tokens, attended exactly. All of them or, when it fails or is aborted, none but those before the last `keep`, which is called
   * every {@link KEEP_EVERY} tokens on the CPU. `chunkTokens` is asked before each chunk how many tokens it may have.
   */
  async prefill(tokens: readonly number[], { signal, onProgress, chunkTokens = () => CHUNK, keep }: Reading): Promise<void> {
    const before = this.#tokens.length;
    const { weights, dense } = this.#batcher;
    await this.#orTakeBack(before, signal, async (kept) => {
      if (dense !== undefined) {
        this.#logits = await prefillOnDevice(dense, this.#native, { tokens, position: before, chunk: CHUNK, signal, onProgress });
        for (const token of tokens) this.#tokens.push(token);
      } else {
        const read = tokens.length <= FEW ? 0 : tokens.length - 1;
        let next = KEEP_EVERY;
        for (let first = 0; first < tokens.length;) {
          signal?.throwIfAborted();
          const chunk = tokens.slice(first, Math.min(first + chunkTokens(), first < read ? Math.min(next, read) : tokens.length));
          if (first < read) await this.#native.readTokens(weights, chunk);
          else this.#logits = await this.#native.prefillTokens(weights, chunk);
          this.#tokens.push(...chunk);
          first += chunk.length;
          // The last token takes no time that is worth a word of its own.
          if (first !== tokens.length - 1) await onProgress(first);
          if (first === next) {
            next += KEEP_EVERY;
            if (keep === undefined) continue;
            await keep();
            kept(this.#tokens.length);
          }
        }
      }
      signal?.throwIfAborted();
      await this.#native.buildIndex();
    });
  }

  /** Appends one token, attended under the policy, in a batch with those of other sessions that step at the same time. */
  async step(token: number, signal: AbortSignal | undefined): Promise<void> {
    const position = this.#tokens.length;
    const started = performance.now();
    // Not the sequence's own before the step is done: it would be taken for known.
    const logits = this.#logits ?? new Float32Array(this.#config.vocabSize);
    await this.#orTakeBack(position, signal, async () => {
      this.#logits = await this.#batcher.step({ native: this.#native, token, position, logits, signal });
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

  /** Runs `work`; if it fails or `signal` aborts it, the sequence is as it was with `tokens` tokens, or as many as `work` says that it keeps. */
  async #orTakeBack(tokens: number, signal: AbortSignal | undefined, work: (kept: (tokens: number) => void) => Promise<void>): Promise<void> {
    let logits = this.#logits;
    let kept = tokens;
    const cancel = () => { this.#native.cancel(); };
    signal?.addEventListener('abort', cancel);
    try {
      signal?.throwIfAborted();
      await work((more) => {
        kept = more;
        logits = undefined;
      });
    } catch (cause) {
      this.truncate(kept);
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
