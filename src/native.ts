import type {
  CpuInfo,
  NativeAudit,
  NativeDraws,
  NativeField,
  NativeFolder,
  NativeMeasurement,
  NativeModelOptions,
  NativePackedBlocks,
  NativePolicy,
  NativeReport,
  NativeGrammar as AddonGrammar,
  NativeModel as AddonModel,
  NativeSession as AddonSession,
  NativeSessionInfo,
  NativeSessionOptions,
  NativeStats,
} from '../index.js';
import { type ErrorCode, MagicpigError, errorCodes } from './errors.js';
import { addonMissing } from './native-missing.js';

export type {
  CpuInfo,
  NativeAudit,
  NativeDraws,
  NativeField,
  NativeFolder,
  NativeMeasurement,
  NativeModelOptions,
  NativePackedBlocks,
  NativePolicy,
  NativeReport,
  NativeSessionInfo,
  NativeSessionOptions,
  NativeStats,
};

// The loader throws while it is imported where there is no addon for the platform; that is reported when one is needed.
const addon = await import('../index.js').catch(addonMissing);

function loaded() {
  if (addon instanceof MagicpigError) throw addon;
  return addon;
}

/** The same error under the package's own class; a code that the addon does not name becomes NATIVE_FAILED. */
function translated(cause: unknown): MagicpigError {
  const { code, message } = cause as { code?: string; message?: string };
  const known = code !== undefined && Object.hasOwn(errorCodes, code) ? (code as ErrorCode) : 'NATIVE_FAILED';
  return new MagicpigError(known, message ?? String(cause), { cause });
}

function translating<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    throw translated(cause);
  }
}

/** What the processor can do, and which instruction set the kernels use. */
export function cpuInfo(): CpuInfo {
  const { cpuInfo: info } = loaded();
  return translating(() => info());
}

/** The head dimensions that there are kernels for. */
export function headDims(): readonly number[] {
  return loaded().headDims();
}

/** Matrices [outputs, inputs] of a quantised type, whose bytes lie one after the other along the outputs, as ONNX Runtime's MatMulNBits takes them. Blocks for milliseconds. */
export function packBlocks(type: string, tensors: Uint8Array[], outputs: number, inputs: number): NativePackedBlocks {
  const { packBlocks: pack } = loaded();
  return translating(() => pack(type, tensors, outputs, inputs));
}

/** The exact f32 elements of whole blocks of a type. Blocks for microseconds, or milliseconds if there are many. */
export function dequantise(type: string, bytes: Uint8Array): Float32Array {
  const { dequantise: elements } = loaded();
  return translating(() => elements(type, bytes));
}

/**
 * Writes what softmax at a temperature above 0 weighs scores with: exp((score - greatest) / temperature), within 1e-5 relative; at most 2e-38 where
 * the exponent is below -87. Blocks for tens of microseconds, a twentieth of what a loop of Math.exp takes.
 */
export function weigh(scores: Float32Array, greatest: number, temperature: number, out: Float32Array): void {
  const { weigh: weighed } = loaded();
  translating(() => { weighed(scores, greatest, temperature, out); });
}

/** What one layer's attention costs under a policy, on synthetic rows; runs on other threads, for seconds. */
export async function measureAttention(options: NativeSessionOptions, context: number, policy: NativePolicy, batch: number): Promise<NativeMeasurement> {
  return await loaded().measure(options, context, policy, batch).catch((cause: unknown) => { throw translated(cause); });
}

/** What is in the session in a folder. */
export function inspectSession(path: string): NativeSessionInfo {
  const { inspectSession: inspect } = loaded();
  return translating(() => inspect(path));
}

/** Reads all checksums of the session in a folder, on other threads. */
export async function verifySession(path: string): Promise<NativeReport> {
  return await loaded().verifySession(path).catch((cause: unknown) => { throw translated(cause); });
}

/** Packs the session in a folder into a new file, on other threads; returns its bytes. */
export async function exportSession(path: string, archive: string): Promise<number> {
  return await loaded().exportSession(path, archive).catch((cause: unknown) => { throw translated(cause); });
}

/** Makes a session in a folder from what {@link exportSession} packed, on other threads. */
export async function importSession(archive: string, path: string): Promise<void> {
  await loaded().importSession(archive, path).catch((cause: unknown) => { throw translated(cause); });
}

/** Removes the session in a folder. */
export function removeSession(path: string): void {
  const { removeSession: remove } = loaded();
  translating(() => { remove(path); });
}

/** The weights of a model's dense layers, mapped from its file. */
export class NativeModel {
  private constructor(
    /** @internal */
    readonly weights: AddonModel,
  ) {}

  /** Maps the files. */
  static open(options: NativeModelOptions): NativeModel {
    const { NativeModel: Addon } = loaded();
    return new NativeModel(translating(() => new Addon(options)));
  }

  /** The same on other threads: rounding weights takes a second for each gigabyte or two. */
  static async load(options: NativeModelOptions): Promise<NativeModel> {
    const { NativeModel: Addon } = loaded();
    return new NativeModel(await translating(() => Addon.load(options)).catch((cause: unknown) => { throw translated(cause); }));
  }

  /** How much the output of each query head moves the residual stream, relative to its layer's others, [layers, heads]. */
  headImportance(): number[] {
    return translating(() => this.weights.headImportance());
  }

  /**
   * One token of each session through the whole model, attended under the session's policy, on other threads. Writes and returns each session's
   * logits [vocabulary] of the next token, or returns what it failed with.
   */
  async decodeBatch(steps: readonly { readonly native: NativeSession; readonly token: number; readonly logits: Float32Array }[]): Promise<(Float32Array | MagicpigError)[]> {
    const running = translating(() => this.weights.decodeBatch(steps.map(({ native }) => native.session), Uint32Array.from(steps, ({ token }) => token)));
    const outcomes = await running.catch((cause: unknown) => { throw translated(cause); });
    return steps.map(({ logits }, i) => {
      const { row, ...failure } = outcomes[i] as (typeof outcomes)[number];
      if (row === undefined) return translated(failure);
      translating(() => { this.weights.batchLogits(row, logits); });
      return logits;
    });
  }
}

/** A model's tokens as bytes, in the shape that grammars look them up in. */
export class NativeVocabulary {
  /** @internal */
  readonly vocabulary;

  /** `tokens` by id; one without bytes is in no text. */
  constructor(tokens: readonly Uint8Array[], endTokens: readonly number[]) {
    const { NativeVocabulary: Addon } = loaded();
    const ends = new Uint32Array(tokens.length);
    let end = 0;
    for (const [id, { length }] of tokens.entries()) ends[id] = end += length;
    this.vocabulary = translating(() => new Addon(Buffer.concat(tokens), ends, Uint32Array.from(endTokens)));
  }
}

/** One text that is being written under a JSON schema. */
export class NativeGrammar {
  readonly #grammar: AddonGrammar;

  constructor(tokens: NativeVocabulary, schema: string) {
    const { NativeGrammar: Addon } = loaded();
    this.#grammar = translating(() => new Addon(tokens.vocabulary, schema));
  }

  /** Writes a bit for each token: whether it may come next. False where the text is complete. */
  allowed(bits: Uint32Array): boolean {
    return translating(() => this.#grammar.allowed(bits));
  }

  /** Takes the token that came. True where the text is complete with it. */
  push(token: number): boolean {
    return translating(() => this.#grammar.push(token));
  }

  /** Frees it at once. */
  dispose(): void {
    this.#grammar.dispose();
  }
}

/** What {@link attendBatch} made of each session: out [sessions, heads * headDim], zeros for one that failed or stayed behind, and what it failed with. */
export interface Attended {
  readonly out: Float32Array;
  readonly failures: readonly (MagicpigError | undefined)[];
}

/**
 * As {@link NativeSession.attendDecode} for one token of each session, which are attended together on other threads, each with what it gets alone to the bit:
 * q is [sessions, heads * headDim], k and v [sessions, kvHeads * headDim]. Nobody's failure is another's. Where there is no session, one stays behind.
 */
export async function attendBatch(
  sessions: readonly (NativeSession | undefined)[],
  layer: number,
  { q, k, v }: Readonly<Record<'q' | 'k' | 'v', Float32Array>>,
): Promise<Attended> {
  const { attendBatch: attend } = loaded();
  const running = translating(() => attend(sessions.map((native) => native?.session), layer, q, k, v));
  const { out, failures } = await running.catch((cause: unknown) => { throw translated(cause); });
  return { out, failures: failures.map((failure) => (failure ? translated(failure) : undefined)) };
}

/** Rows, index and attention of one sequence, in Rust. The addon's class, with errors of this package. */
export class NativeSession {
  /** @internal */
  readonly session: AddonSession;

  private constructor(session: AddonSession) {
    this.session = session;
  }

  /** An empty session, whose rows vanish with it. */
  static create(options: NativeSessionOptions): NativeSession {
    const { NativeSession: Addon } = loaded();
    return new NativeSession(translating(() => new Addon(options)));
  }

  /** The session in a folder, on other threads. */
  static async open(options: NativeSessionOptions, folder: NativeFolder, policy: NativePolicy): Promise<NativeSession> {
    const { NativeSession: Addon } = loaded();
    return new NativeSession(await Addon.open(options, folder, policy).catch((cause: unknown) => { throw translated(cause); }));
  }

  /** Makes the session last, on other threads. */
  async commit(): Promise<void> {
    await this.session.commit().catch((cause: unknown) => { throw translated(cause); });
  }

  /** Commits, and makes a session in another folder that goes on from here by itself. */
  async fork(path: string, model: readonly NativeField[]): Promise<void> {
    await this.session.fork(path, [...model]).catch((cause: unknown) => { throw translated(cause); });
  }

  /** Tokens whose rows are stored. */
  tokens(): Uint32Array {
    return translating(() => this.session.tokens());
  }

  /** Notes tokens whose rows {@link NativeSession.attendPrefill} or {@link NativeSession.appendRows} appended. */
  pushTokens(tokens: readonly number[]): void {
    translating(() => { this.session.pushTokens(Uint32Array.from(tokens)); });
  }

  /** Writes the logits [vocabulary] after the last token once more; false if they are not known. */
  repeatLogits(model: NativeModel, logits: Float32Array): boolean {
    return translating(() => this.session.logits(model.weights, logits));
  }

  setPolicy(policy: NativePolicy): void {
    translating(() => { this.session.setPolicy(policy); });
  }

  /** Many tokens in one layer, causally and exactly, on other threads. */
  async attendPrefill(layer: number, rows: number, q: Float32Array, k: Float32Array, v: Float32Array): Promise<Float32Array> {
    return await this.session.attendPrefill(layer, rows, q, k, v).catch((cause: unknown) => { throw translated(cause); });
  }

  /**
   * One token in one layer under the policy: appends k and v [kvHeads * headDim], attends q [heads * headDim] and writes out [heads * headDim].
   * Blocks for a fraction of a millisecond, or as long as the policy takes.
   */
  attendDecode(layer: number, q: Float32Array, k: Float32Array, v: Float32Array, out: Float32Array): void {
    translating(() => { this.session.attendDecode(layer, q, k, v, out); });
  }

  /** Appends rows' k and v [rows, kvHeads * headDim] to a layer, attended elsewhere, and indexes what they allow to, on other threads. */
  async appendRows(layer: number, k: Float32Array, v: Float32Array): Promise<void> {
    await this.session.appendRows(layer, k, v).catch((cause: unknown) => { throw translated(cause); });
  }

  /** Notes a token whose rows were appended layer by layer, and its residual stream [hidden] after all layers. */
  pushStep(token: number, residual: Float32Array): void {
    translating(() => { this.session.pushStep(token, residual); });
  }

  /** The residual stream [hidden] of the last token after all layers; empty if it is not known. */
  residual(): Float32Array {
    return translating(() => this.session.residual());
  }

  /** One token through the whole model, attended under the policy; writes logits [vocabulary]. Blocks for milliseconds. */
  decodeToken(model: NativeModel, token: number, logits: Float32Array): void {
    translating(() => { this.session.decodeToken(model.weights, token, logits); });
  }

  /** A few tokens through the whole model, attended exactly, on other threads: the logits [vocabulary] after the last one. */
  async prefillTokens(model: NativeModel, tokens: readonly number[]): Promise<Float32Array> {
    return await this.session.prefillTokens(model.weights, Uint32Array.from(tokens), false).catch((cause: unknown) => { throw translated(cause); });
  }

  /** Tokens of the middle of a long text, likewise: what they get does not depend on how the text is cut. */
  async readTokens(model: NativeModel, tokens: readonly number[]): Promise<void> {
    await this.session.prefillTokens(model.weights, Uint32Array.from(tokens), true).catch((cause: unknown) => { throw translated(cause); });
  }

  async buildIndex(): Promise<void> {
    await this.session.buildIndex().catch((cause: unknown) => { throw translated(cause); });
  }

  /** Goes on with another seed over the same rows; the index is dropped. */
  reseed(seed: number): void {
    translating(() => { this.session.reseed(seed); });
  }

  /** Whether later steps are compared with exact attention of the same queries and rows. */
  setAudit(on: boolean): void {
    translating(() => { this.session.setAudit(on); });
  }

  /** What the comparison found since it was set, or since the last {@link NativeSession.resetStats}. */
  audit(): NativeAudit | undefined {
    return translating(() => this.session.audit()) ?? undefined;
  }

  /** Has later steps note where they draw keys, in bins of so many positions, which begins a new histogram; 0 ends it. */
  noteDraws(bin: number): void {
    translating(() => { this.session.noteDraws(bin); });
  }

  /** Where keys were drawn since {@link NativeSession.noteDraws}. */
  draws(): NativeDraws | undefined {
    return translating(() => this.session.draws()) ?? undefined;
  }

  truncate(tokens: number): void {
    translating(() => { this.session.truncate(tokens); });
  }

  cancel(): void {
    this.session.cancel();
  }

  stats(): NativeStats {
    return translating(() => this.session.stats());
  }

  resetStats(): void {
    translating(() => { this.session.resetStats(); });
  }

  dispose(): void {
    this.session.dispose();
  }
}
