import { MagicpigError } from '../errors.js';
import { localCount } from '../model/local.js';
import type { NativeAudit, NativeDraws, NativeSession } from '../native.js';
import type { TokenConstraint } from './constraint.js';
import { type TokenLogprob, logprobsOf } from './logprobs.js';
import type { Model } from './model.js';
import { type OptionNames, checkOptions, signalName } from './option-names.js';
import { type Policy, type PolicyName, type PolicyOptions, type SamplingOptions, checkLogits, integer, overSameIndex, policyFrom, policyOptionNames, samplingFrom, samplingOptionNames, seedFrom } from './options.js';
import { type Prompt, checkPrompt, isTokens } from './prompt.js';
import { Sampler } from './sampler.js';
import { type DecodeCounts, Sequence } from './sequence.js';
import { checkParent, folderFrom } from './sessions.js';
import { StopWatch } from './stop.js';
import type { Chosen } from './tuned.js';

export type { Prompt } from './prompt.js';

/** Generated tokens between two checkpoints of a session in a folder. */
const CHECKPOINT_EVERY = 16;

export interface PrefillOptions {
  /**
   * The prompt is the whole text from its beginning, not what follows on what was read: rows that are there already of its
   * beginning are reused, and what the session had after them is forgotten. Default false.
   */
  readonly whole?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every chunk with the tokens read so far; the next one waits for a promise that it returns. */
  readonly onProgress?: ((progress: { done: number; total: number }) => unknown) | undefined;
  /** How many tokens the next chunk may have, 512 at most. @internal */
  readonly chunkTokens?: (() => number) | undefined;
}

const prefillOptionNames: OptionNames<PrefillOptions> = { whole: true, signal: true, onProgress: true, chunkTokens: false };

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to generate at most. Default: until the context is full. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the generation and are not shown. */
  readonly stop?: string | readonly string[] | undefined;
  /** What the text is held to: {@link Model.jsonConstraint} makes one. The text ends where it is complete. */
  readonly constraint?: TokenConstraint | undefined;
  /** Reports each token's logarithm of its probability, and of so many most likely ones; 0 of none. */
  readonly logprobs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const generateOptionNames: OptionNames<GenerateOptions> = { maxTokens: true, ...samplingOptionNames, stop: true, constraint: true, logprobs: true, signal: true };

/** For the steps of {@link Session.step}. */
export interface StepOptions {
  readonly signal?: AbortSignal | undefined;
  /** Takes the logits [vocabulary] in place of a new array: hundreds of kilobytes a step that nobody has to collect. Untouched if the step fails; not used if its buffer is transferred meanwhile. */
  readonly out?: Float32Array | undefined;
}

const stepOptionNames: OptionNames<StepOptions> = { signal: true, out: true };

export interface GeneratedToken {
  readonly token: number;
  /** The text that this token completes; empty while a character, or a possible stop string, is incomplete. */
  readonly text: string;
  /** With `logprobs`: the logarithm of the token's probability, as the model gives it. */
  readonly logprob?: number;
  /** With `logprobs`: the most likely tokens, in falling order. */
  readonly top?: readonly TokenLogprob[];
}

/**
 * Relative errors of attention's outputs, one of each step, layer and query head: with `targetError` as the samples predicted them, with
 * `epsilon` the ends of their intervals, 0 where all keys were read.
 */
export interface RelativeError {
  readonly mean: number;
  readonly max: number;
  /** Share of the outputs for which all keys were read. */
  readonly readWhole: number;
}

export interface SessionStats {
  readonly policy: PolicyName;
  /** Whether the policy is what `tune` chose for the model, in all that was not said otherwise. */
  readonly tuned: boolean;
  readonly promptTokens: number;
  /** Prompt tokens whose rows were there already. */
  readonly reusedTokens: number;
  readonly generatedTokens: number;
  readonly prefillSeconds: number;
  /** Mean wall time of a decoding step, in milliseconds. */
  readonly decodeMsPerToken: number;
  /** Of this, attention and insertion into the index; of a batch's, what was spent on this session. */
  readonly attendMsPerToken: number;
  /** Fraction of all keys that decoding read, the static set and repeated draws included; 1 for `exact`. */
  readonly keysRead: number;
  /** Fraction of the indexed keys that were sampled, 0 where none were indexed. */
  readonly budget: number;
  /** What steps said of their own error, with `targetError` or `epsilon`. */
  readonly relativeError: RelativeError | undefined;
  /** Bytes of index for one token, layer and KV head, of layers that have an index. */
  readonly indexBytesPerKey: number;
  readonly indexBytes: number;
  readonly rowBytes: number;
  readonly finishReason: 'stop' | 'length' | undefined;
}

/** @internal */
export interface StepCounts extends DecodeCounts {
  readonly attendSeconds: number;
  /** Rows that were read, counted as `allRows` are. */
  readonly rowsRead: number;
  /** Outputs of heads that estimated their own error, and those of them for which all keys were read. */
  readonly assessed: number;
  readonly readWhole: number;
  /** Sum of the estimates. */
  readonly errorSum: number;
}

/**
 * One text: what was read, and what is generated from it. Made by {@link Model.createSession}; dispose of it to free its
 * rows. It does one thing at a time: a second call while one is running fails with SESSION_BUSY.
 */
export class Session implements Disposable {
  readonly #model: Model;
  readonly #native: NativeSession;
  readonly #sequence: Sequence;
  /** Whether what is read and generated is kept on disk. */
  readonly #home: 'memory' | 'folder';
  #policy: Policy;
  /** The policy that requests of a server depart from and come back to. */
  #own: Policy;
  #tuned: boolean;
  #state: 'idle' | 'busy' | 'disposed' = 'idle';
  /** Generated and shown, but not yet taken through the model. */
  #pending: number | undefined;
  #promptTokens = 0;
  #reusedTokens = 0;
  #generatedTokens = 0;
  #prefillSeconds = 0;
  #finishReason: SessionStats['finishReason'];

  /** @internal */
  constructor(model: Model, native: NativeSession, sequence: Sequence, { policy, tuned }: Chosen, home: 'memory' | 'folder') {
    this.#home = home;
    this.#tuned = tuned;
    this.#model = model;
    this.#native = native;
    this.#sequence = sequence;
    this.#policy = this.#own = policyFrom(policy, model.config.layers);
    native.setPolicy(this.#policy);
  }

  /** Every token read or generated so far, as of now. */
  get tokens(): readonly number[] {
    return this.#pending === undefined ? [...this.#sequence.tokens] : [...this.#sequence.tokens, this.#pending];
  }

  /** @internal */
  isOf(model: Model): boolean {
    return this.#model === model;
  }

  /** Changes how later tokens are attended. What was read stays; a new index is built by the next prefill or token. */
  setPolicy(options: PolicyOptions): void {
    using _ = this.#exclusive();
    checkOptions('setPolicy', options, policyOptionNames);
    const policy = policyFrom(options, this.#model.config.layers);
    this.#native.setPolicy(policy);
    this.#policy = this.#own = policy;
    this.#tuned = false;
  }

  /**
   * Has later tokens attended otherwise over the same index, or without options as before. Throws INVALID_OPTION where that
   * needs another index.
   * @internal
   */
  attendAs(options: PolicyOptions = {}): void {
    using _ = this.#exclusive();
    const policy = overSameIndex(this.#own, options, this.#model.config.layers);
    this.#native.setPolicy(policy);
    this.#policy = policy;
  }

  /**
   * Reads a text, tokens or chat messages, after what was read before or, with `whole`, in its place as far as the two
   * differ. Attention is exact here.
   *
   * Throws INVALID_OPTION, EMPTY_PROMPT, CONTEXT_EXCEEDED, TEMPLATE_FAILED, DISK_FULL, or ABORTED; the session is then as it was before, but
   * for what `whole` made it forget. A session in a folder then keeps of a `whole` text what was read, to the last 8,192 tokens: the
   * same call goes on from there. If only its checkpoint fails, the text is read all the same.
   */
  async prefill(prompt: Prompt, options: PrefillOptions = {}): Promise<void> {
    // Not in the parameter's place: the published type of a method may not name what is internal.
    using _ = this.#exclusive();
    checkOptions('prefill', options, prefillOptionNames);
    const { whole = false, signal, onProgress, chunkTokens } = options;
    const tokens = this.#encode(prompt, whole || this.#length === 0);
    const kept = whole ? this.#shared(tokens) : this.#sequence.tokens.length;
    const unread = whole ? tokens.slice(kept) : this.#pending === undefined ? tokens : [this.#pending, ...tokens];
    const { context, config: { contextLength: trained } } = this.#model;
    const after = kept + unread.length;
    if (after > context) {
      throw new MagicpigError(
        'CONTEXT_EXCEEDED',
        `the prompt makes ${after} tokens, and the context is ${context}; shorten it, or ${after <= trained ? 'allow more with the context option (--context)' : `take a model with a longer context: this one was trained for ${trained}`}`,
      );
    }
    const started = performance.now();
    if (kept < this.#sequence.tokens.length) {
      this.#sequence.truncate(kept);
      this.#pending = undefined;
    }
    if (unread.length > 0) {
      const keep = async () => {
        this.#pending = undefined;
        await this.#keep();
      };
      await this.#sequence.prefill(unread, {
        signal,
        onProgress: (done) => onProgress?.({ done: kept + done, total: after }),
        chunkTokens,
        keep: whole && this.#home === 'folder' ? keep : undefined,
      });
    }
    this.#pending = undefined;
    this.#promptTokens += tokens.length;
    if (whole) this.#reusedTokens += kept;
    await this.#keep();
    this.#prefillSeconds += (performance.now() - started) / 1000;
  }

  /**
   * Continues the text, one token at a time, and in a batch with whichever sessions of the model do so at the same time, until a stop string, an end token, `maxTokens` or the end of the context.
   * Ending the loop early is fine; so is generating again. A session in a folder keeps what was shown when it ends, is left
   * or is aborted. Throws CONTEXT_EXCEEDED where the text is longer than the context already, INVALID_OPTION, ABORTED, DISK_FULL or STORE_IO.
   */
  async *generate(options: GenerateOptions = {}): AsyncGenerator<GeneratedToken, void, void> {
    using _ = this.#exclusive();
    checkOptions('generate', options, generateOptionNames);
    const { maxTokens, stop = [], signal, constraint, logprobs, ...sampling } = options;
    if (logprobs !== undefined) integer('logprobs', logprobs, 0, this.#model.config.vocabSize);
    const sampler = new Sampler(samplingFrom(sampling));
    const room = this.#model.context - this.#length;
    if (room < 0) throw new MagicpigError('CONTEXT_EXCEEDED', `the text has ${this.#length} tokens, and the context is ${this.#model.context}; allow more with the context option (--context)`);
    const limit = Math.min(maxTokens === undefined ? room : integer('maxTokens', maxTokens, 0, 2 ** 31), room);
    const { endTokens } = this.#model.tokenizer;
    const decoder = this.#model.tokenizer.stream();
    const watch = new StopWatch(typeof stop === 'string' ? [stop] : stop);
    this.#finishReason = 'length';
    this.#again();
    let kept = false;
    try {
      for (let count = 1; count <= limit; count += 1) {
        await this.#catchUp(signal);
        if (count % CHECKPOINT_EVERY === 0) await this.#keep();
        const { logits } = this.#sequence;
        const token = sampler.next(logits, this.#sequence.tokens, constraint?.allowed());
        const seen = logprobs === undefined ? {} : logprobsOf(logits, token, logprobs);
        this.#pending = token;
        this.#generatedTokens += 1;
        const ends = endTokens.includes(token);
        const { text, stopped } = watch.push(ends ? decoder.end() : decoder.push(token));
        const complete = !ends && constraint?.push(token) === true;
        if (ends || stopped || complete) this.#finishReason = 'stop';
        const over = ends || stopped || complete || count === limit;
        if (over) {
          await this.#keepAll();
          kept = true;
        }
        yield { ...seen, token, text: over && !stopped ? text + rest(watch, ends ? '' : decoder.end()) : text };
        if (over) return;
      }
    } catch (error) {
      // After any other failure the checkpoint before is the one to go on from.
      kept ||= !(MagicpigError.isInstance(error) && error.code === 'ABORTED');
      throw error;
    } finally {
      if (!kept && this.#state === 'busy') await this.#keepAll();
    }
  }

  /**
   * Makes everything that was read and generated last: once it resolves, the session survives whatever happens to process
   * and machine. Only for a session in a folder, which does it by itself as well.
   *
   * Throws SESSION_READ_ONLY, DISK_FULL or STORE_IO; the checkpoint before is then what the folder has.
   */
  async checkpoint(options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    using _ = this.#exclusive();
    checkOptions('checkpoint', options, signalName);
    if (this.#home === 'memory') throw new MagicpigError('SESSION_READ_ONLY', 'the session is not kept in a folder; open one there, or fork it into one');
    await this.#catchUp(options.signal);
    await this.#keep();
  }

  /**
   * Makes a session in the folder `directory` that goes on from here by itself; full segments are shared with this one's
   * folder where the file system can. A session that was opened to read forks what its folder had.
   *
   * Throws SESSION_EXISTS, FILE_NOT_FOUND (the folder that would hold it), DISK_FULL, PERMISSION_DENIED or STORE_IO.
   */
  async fork(directory: string, options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    using _ = this.#exclusive();
    folderFrom(directory);
    checkOptions('fork', options, signalName);
    await checkParent(directory);
    await this.#catchUp(options.signal);
    await this.#native.fork(directory, this.#model.fingerprint);
  }

  /**
   * Appends one given token under the policy and returns the logits [vocabulary] of the one after it, in an array of their own or in `out`: what
   * an evaluation needs that forces the text. Throws INVALID_OPTION for an `out` of another length.
   */
  async step(token: number, options: StepOptions = {}): Promise<Float32Array> {
    using _ = this.#exclusive();
    checkOptions('step', options, stepOptionNames);
    const { signal, out } = options;
    if (out !== undefined) checkLogits('out', out, this.#model.config.vocabSize);
    this.#checkTokens([token]);
    await this.#catchUp(signal);
    await this.#sequence.step(token, signal);
    const { logits } = this.#sequence;
    // An array whose buffer the caller has transferred meanwhile has no elements; the token is appended all the same.
    if (out === undefined || out.length !== logits.length) return logits.slice();
    out.set(logits);
    return out;
  }

  /**
   * Forgets every token from position `tokens` on; a session in a folder forgets them there with its next checkpoint. The last
   * token that stays is taken through the model once more when the text is continued.
   */
  rewind(tokens: number): void {
    using _ = this.#exclusive();
    integer('tokens', tokens, 0, this.#length);
    if (tokens === this.#length) return;
    this.#pending = undefined;
    if (tokens < this.#sequence.tokens.length) this.#sequence.truncate(tokens);
  }

  /** Figures of everything since the session was made, or since {@link Session.resetStats}. */
  stats(): SessionStats {
    this.#live();
    const native = this.#native.stats();
    const { steps, seconds, allRows } = this.#sequence.counts;
    const { layers, kvHeads, local } = this.#model.config;
    const ratio = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
    return {
      policy: this.#policy.kind,
      tuned: this.#tuned,
      promptTokens: this.#promptTokens,
      reusedTokens: this.#reusedTokens,
      generatedTokens: this.#generatedTokens,
      prefillSeconds: this.#prefillSeconds,
      decodeMsPerToken: ratio(1000 * seconds, steps),
      attendMsPerToken: ratio(1000 * native.attendSeconds, steps),
      keysRead: ratio(native.rowsRead, allRows),
      budget: ratio(native.sampledRows, native.indexedRows),
      relativeError: native.assessed === 0 ? undefined : {
        mean: native.errorSum / native.assessed,
        max: native.errorMax,
        readWhole: native.readWhole / native.assessed,
      },
      indexBytesPerKey: ratio(native.indexBytes, native.indexedTokens * (layers - localCount(local)) * kvHeads),
      indexBytes: native.indexBytes,
      rowBytes: native.rowBytes,
      finishReason: this.#finishReason,
    };
  }

  /**
   * Goes on with another seed of hash functions and draws over the same rows, as a new session with that seed would; the index is
   * built anew by the next prefill or token.
   * @internal
   */
  reseed(seed: number): void {
    using _ = this.#exclusive();
    this.#native.reseed(seedFrom(seed));
  }

  /**
   * Whether later steps are compared with exact attention, which makes them slower than exact ones.
   * @internal
   */
  setAudit(on: boolean): void {
    using _ = this.#exclusive();
    this.#native.setAudit(on);
  }

  /**
   * What the comparison found since it was set, or since {@link Session.resetStats}.
   * @internal
   */
  audit(): NativeAudit | undefined {
    this.#live();
    return this.#native.audit();
  }

  /**
   * Has later steps note where they draw keys, in bins of so many positions, which begins a new histogram; 0 ends it.
   * @internal
   */
  noteDraws(bin: number): void {
    using _ = this.#exclusive();
    this.#native.noteDraws(bin);
  }

  /** Where keys were drawn since {@link Session.noteDraws}. @internal */
  draws(): NativeDraws | undefined {
    this.#live();
    return this.#native.draws();
  }

  /** Sums over all steps since the counts were reset, of which {@link Session.stats} has the means. @internal */
  counts(): StepCounts {
    this.#live();
    const { attendSeconds, rowsRead, assessed, readWhole, errorSum } = this.#native.stats();
    return { ...this.#sequence.counts, attendSeconds, rowsRead, assessed, readWhole, errorSum };
  }

  /** Sets counts and times to zero. */
  resetStats(): void {
    this.#live();
    this.#sequence.resetCounts();
    this.#promptTokens = 0;
    this.#reusedTokens = 0;
    this.#generatedTokens = 0;
    this.#prefillSeconds = 0;
  }

  /** What `using` calls at the end of its block. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Frees rows and index, at once or when what is running has stopped. A folder stays, with what was last checkpointed. */
  dispose(): void {
    if (this.#state === 'disposed') return;
    this.#state = 'disposed';
    this.#native.dispose();
    this.#model.forget(this);
  }

  get #length(): number {
    return this.#sequence.tokens.length + (this.#pending === undefined ? 0 : 1);
  }

  /** Takes a token through the model that was shown before. */
  async #catchUp(signal: AbortSignal | undefined): Promise<void> {
    if (this.#pending === undefined) return;
    await this.#sequence.step(this.#pending, signal);
    this.#pending = undefined;
  }

  async #keep(): Promise<void> {
    if (this.#home === 'folder') await this.#native.commit();
  }

  /** Keeps everything that was shown. A step is short, so that nothing needs to abort it. */
  async #keepAll(): Promise<void> {
    if (this.#home === 'memory') return;
    await this.#catchUp(undefined);
    await this.#keep();
  }

  /** Has the last token taken through the model once more where its logits are not known. */
  #again(): void {
    const { tokens, hasLogits } = this.#sequence;
    const last = tokens.at(-1);
    if (hasLogits || last === undefined || this.#pending !== undefined) return;
    this.#sequence.truncate(tokens.length - 1);
    this.#pending = last;
  }

  /** How many tokens of a text's beginning need not be read again. Its last one must have logits, or be read. */
  #shared(tokens: readonly number[]): number {
    const have = this.#sequence.tokens;
    const differs = tokens.findIndex((token, position) => token !== have[position]);
    const shared = differs < 0 ? tokens.length : differs;
    const ready = shared === have.length && this.#sequence.hasLogits;
    return shared === tokens.length && !ready ? shared - 1 : shared;
  }

  /** `first`: the text's beginning, which may have a token of its own. */
  #encode(prompt: Prompt, first: boolean): number[] {
    const { tokenizer } = this.#model;
    checkPrompt(prompt);
    let tokens: number[];
    if (typeof prompt === 'string') {
      tokens = tokenizer.encode(prompt, first ? {} : { addBos: false });
    } else if (isTokens(prompt)) {
      tokens = [...prompt];
      this.#checkTokens(tokens);
    } else {
      tokens = tokenizer.encode(this.#model.renderChat(prompt), { parseSpecial: true, ...(!first && { addBos: false }) });
    }
    if (tokens.length === 0) throw new MagicpigError('EMPTY_PROMPT', 'the prompt is empty; give some text to read');
    return tokens;
  }

  #checkTokens(tokens: readonly number[]): void {
    const { vocabSize } = this.#model.config;
    for (const token of tokens) integer('a token', token, 0, vocabSize - 1);
  }

  #live(): void {
    if (this.#state === 'disposed') throw new MagicpigError('DISPOSED', 'the session was disposed of');
  }

  /** Claims the session until the returned object is disposed of. */
  #exclusive(): Disposable {
    this.#live();
    if (this.#state === 'busy') throw new MagicpigError('SESSION_BUSY', 'the session is already prefilling or generating');
    this.#state = 'busy';
    return {
      [Symbol.dispose]: () => {
        if (this.#state === 'busy') this.#state = 'idle';
      },
    };
  }
}

/** What is left to show when nothing more will come. */
function rest(watch: StopWatch, text: string): string {
  return watch.push(text).text + watch.end();
}
