import { tmpdir } from 'node:os';
import { MagicpigError } from '../errors.js';
import { shown } from '../shown.js';
import { fingerprintOf } from '../model/fingerprint.js';
import { openModel } from '../model/open.js';
import { resolveModel } from '../model/resolve.js';
import { type ChatMessage, renderChat } from '../model/template.js';
import { tokenBytes } from '../model/token-bytes.js';
import { Tokenizer } from '../model/tokenizer.js';
import { extraLayerTensors, layerTensors } from '../model/layer-tensors.js';
import type { ExtraLayerTensor, LayerTensor, ModelConfig, ModelFile, RopeConfig, Tensor } from '../model/types.js';
import { NativeGrammar, NativeModel, NativeSession, NativeVocabulary, headDims } from '../native.js';
import type { NativeModelOptions } from '../native.js';
import type { DenseGraph } from '../onnx/dense-graph.js';
import type { DeviceCounts, RuntimeOptions } from '../onnx/runtime.js';
import { Batcher } from './batch.js';
import { JsonConstraint } from './constraint.js';
import { chooseDevice } from './device.js';
import { checkDevice, deviceMemory, devicePlan } from './device-memory.js';
import { type OptionNames, checkOptions } from './option-names.js';
import { asLoaded, availableMemory, checkSession, checkWeights, memoryPlan } from './memory.js';
import {
  type Device,
  type DeviceName,
  type PolicyOptions,
  type RowType,
  type WeightBits,
  checkLogits,
  deviceFrom,
  integer,
  lmHeadFrom,
  policyFrom,
  policyOptionNames,
  rowsFrom,
  seedFrom,
  threadsFrom,
  weightsFrom,
} from './options.js';
import { Sequence } from './sequence.js';
import { Session } from './session.js';
import { checkParent, folderFrom, withKept } from './sessions.js';
import { type Chosen, type TunedDefaults, choose, readTuned, removeTuned } from './tuned.js';

export interface LoadOptions {
  /** Threads of dense layers and attention. Default: one for each core. */
  readonly threads?: number | undefined;
  /**
   * Where the dense layers run; steps are attended by the CPU in any case. `cuda` and `webgpu` need ONNX Runtime, and end with
   * RUNTIME_FAILED where the device is not there; `auto` is the best of those that are, which {@link Model.device} says. Default `cpu`.
   */
  readonly device?: Device | undefined;
  /**
   * Bits of the output head, the largest matrix that a step reads: `file` takes it as the model has it, `8` keeps one of 16 or
   * 32 bits in 8 in memory, which moves logits by less than 1% of their spread. Only for the CPU, which `auto` then is. Default `file`.
   */
  readonly lmHead?: 'file' | '8' | undefined;
  /**
   * Bits of the matrices that a step reads: `file` leaves them as the file has them; `8` or `4` rounds those of 16 or 32 bits while the model
   * is loaded, and keeps them in memory: a step then reads half or a third of the bytes, and predictions move (docs/evaluation.md).
   * The output head is rounded to 8 in either case; the embedding is not. Only for the CPU, which `auto` then is. Default `file`.
   */
  readonly weights?: WeightBits | undefined;
  /** Tokens that a text may have. Default: as many as the model was trained for; more is allowed, at the text's cost. */
  readonly context?: number | undefined;
  /**
   * Bytes that the model and a session in memory may take. More is refused: of weights when the model is loaded, of rows and index
   * when a session is made, where `context` says how long its text may be. Default: what the machine, or the process's limit, has.
   */
  readonly memoryLimit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

const loadOptionNames: OptionNames<LoadOptions> = {
  threads: true,
  device: true,
  lmHead: true,
  weights: true,
  context: true,
  memoryLimit: true,
  signal: true,
  onProgress: true,
};

/** Bytes of a download, or parts of the model that are loaded. */
export interface LoadProgress {
  readonly phase: 'download' | 'load';
  readonly done: number;
  readonly total: number;
}

export interface SessionOptions extends PolicyOptions {
  /**
   * How keys and values are stored: `bf16`, or `int8` with a scale for each key and each value, at half the memory and half the
   * bytes that a step reads. Default `bf16`.
   */
  readonly rows?: RowType | undefined;
  /** Seed of the hash functions, an unsigned 32-bit number. Default 0. */
  readonly seed?: number | undefined;
  /** Where the rows are kept. Default: the system's temporary folder. */
  readonly directory?: string | undefined;
  /** Whether to take what `tune` chose for the model, in all that the other options leave open. Default true. */
  readonly tuned?: boolean | undefined;
}

const sessionOptionNames: OptionNames<SessionOptions> = { ...policyOptionNames, rows: true, seed: true, directory: true, tuned: true };

export interface OpenSessionOptions extends PolicyOptions {
  /** How keys and values are stored. Default: as the session was made, `bf16` for a new one. */
  readonly rows?: RowType | undefined;
  /** Seed of the hash functions and rotations, an unsigned 32-bit number. Default: the session's own; of a new one 0. */
  readonly seed?: number | undefined;
  /** Makes the session where there is none. Default true, unless it is only read. */
  readonly create?: boolean | undefined;
  /** Whether to take what `tune` chose for the model, in all that the session and the other options leave open. Default true. */
  readonly tuned?: boolean | undefined;
  /** Opens it beside others, also beside one that writes. What is read or generated then stays in memory. Default false. */
  readonly readOnly?: boolean | undefined;
}

const openSessionOptionNames: OptionNames<OpenSessionOptions> = { ...policyOptionNames, rows: true, seed: true, create: true, tuned: true, readOnly: true };

/** For the steps of {@link Model.stepBatch}. */
export interface BatchStepOptions {
  readonly signal?: AbortSignal | undefined;
  /** As `out` of a session's step, an array for each session. */
  readonly out?: readonly Float32Array[] | undefined;
}

const batchStepOptionNames: OptionNames<BatchStepOptions> = { signal: true, out: true };

/**
 * Loads a model: a path to a .gguf file or to a folder of safetensors, `hf:owner/name[/file][@revision]`, or a short name such as
 * `smollm2-135m`.
 *
 * Throws MODEL_NOT_FOUND, DOWNLOAD_FAILED, GGUF_MALFORMED, SAFETENSORS_MALFORMED, UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_QUANTISATION,
 * UNSUPPORTED_TOKENIZER, INVALID_OPTION, OUT_OF_MEMORY, RUNTIME_FAILED, NATIVE_MISSING or ABORTED.
 */
export async function loadModel(reference: string, options: LoadOptions = {}): Promise<Model> {
  if (typeof reference !== 'string') {
    throw new MagicpigError('INVALID_OPTION', `the model is ${shown(reference)}; it must be a text: a path, hf:owner/name, or a short name such as smollm2-135m`);
  }
  checkOptions('loadModel', options, loadOptionNames);
  const { signal, onProgress } = options;
  const threads = threadsFrom(options.threads);
  const asked = deviceFrom(options.device);
  const lmHead = lmHeadFrom(options.lmHead);
  const bits = weightsFrom(options.weights);
  if (options.context !== undefined) integer('context', options.context, 1, 2 ** 31);
  const memory = integer('memoryLimit', options.memoryLimit ?? availableMemory(), 0, Number.MAX_SAFE_INTEGER);
  const device = await chooseDevice(asked, { rounded: lmHead !== 'file' || bits !== 'file' });
  const path = await resolveModel(reference, {
    signal,
    onProgress: ({ received, total }) => onProgress?.({ phase: 'download', done: received, total }),
  });
  const file = await openModel(path);
  try {
    signal?.throwIfAborted();
    checkAttention(file.config);
    checkWeights(memoryPlan(asLoaded(file, bits), { tokens: 0, rows: 'bf16', policy: { kind: 'exact' } }), memory);
    checkDevice(device, devicePlan(file), await deviceMemory(device));
    const tokenizer = new Tokenizer(file.tokenizer);
    // Before the parts, which would stay loaded if this failed.
    const weights = await NativeModel.load(nativeOptions(file, { lmHead8Bits: lmHead === '8', packing: device === 'cpu', threads, ...(bits !== 'file' && { bits: Number(bits) }) }));
    signal?.throwIfAborted();
    const dense = device === 'cpu' ? undefined : await denseGraph(file, { device, threads }, options);
    const limits = { context: options.context ?? file.config.contextLength, memory: options.context === undefined ? undefined : memory };
    try {
      return new Model(file, tokenizer, { device, dense }, weights, threads, bits, limits);
    } catch (error) {
      await dense?.dispose();
      throw error;
    }
  } catch (cause) {
    await file[Symbol.asyncDispose]();
    if (signal?.aborted === true) throw new MagicpigError('ABORTED', 'aborted by the caller', { cause });
    throw cause;
  }
}

/** The dense layers on another device. The CPU's are the addon's, and do not load ONNX Runtime at all. */
async function denseGraph(file: ModelFile, runtime: RuntimeOptions, { signal, onProgress }: LoadOptions): Promise<DenseGraph> {
  const { DenseGraph } = await import('../onnx/dense-graph.js');
  return await DenseGraph.load(file, runtime, {
    signal,
    onPart: (done, total) => onProgress?.({ phase: 'load', done, total }),
  });
}

/** Whether the kernels can attend for the model, before its weights are loaded. */
function checkAttention({ headDim }: ModelConfig): void {
  const known = headDims();
  if (known.includes(headDim)) return;
  throw new MagicpigError('UNSUPPORTED_ARCHITECTURE', `the model has heads of ${headDim} dimensions; attention takes ${known.join(', ')}`);
}

/** Where the addon finds the weights of a model, and what it does to them. */
export function nativeOptions(file: ModelFile, rounding: { lmHead8Bits?: boolean; bits?: number; packing?: boolean; threads: number }): NativeModelOptions {
  const { config } = file;
  const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, local } = config;
  const span = ({ type, shape, file: number, offset }: Tensor) => ({ type, outputs: shape.length > 1 ? (shape[0] ?? 0) : 1, inputs: shape.at(-1) ?? 0, file: number, offset });
  const rope = ({ factors = new Float64Array(), magnitude = 1, ...rest }: RopeConfig) => ({ ...rest, factors: [...factors], magnitude });
  return {
    files: [...file.files],
    hiddenSize,
    intermediateSize,
    heads,
    kvHeads,
    headDim,
    normEpsilon: config.rmsNormEps,
    normOffset: config.normOffset,
    activation: config.activation,
    embeddingScale: config.embeddingScale,
    // Attention has the rest.
    queryScale: config.scoreScale * Math.sqrt(headDim),
    ...(config.logitCap !== undefined && { logitCap: config.logitCap }),
    ropes: [rope(config.rope), ...(local ? [rope(local.rope)] : [])],
    embedding: span(file.embedding),
    finalNorm: span(file.finalNorm),
    lmHead: span(file.lmHead),
    ...rounding,
    layers: Array.from({ length: layers }, (_, layer) => {
      const spans = layerTensors.map((role) => [role, span(file.layerTensor(layer, role))]);
      const extraSpans = extraLayerTensors.flatMap((role) => {
        const tensor = file.extraTensor(layer, role);
        return tensor ? [[role, span(tensor)]] : [];
      });
      return {
        rope: local?.layers[layer] ? 1 : 0,
        ...(Object.fromEntries(spans) as Record<LayerTensor, ReturnType<typeof span>>),
        ...(Object.fromEntries(extraSpans) as Partial<Record<ExtraLayerTensor, ReturnType<typeof span>>>),
      };
    }),
  };
}

/** What a session must know of a model to attend for it. */
export function sessionShape({ layers, heads, kvHeads, headDim, local, scoreCap }: ModelConfig) {
  return {
    layers,
    heads,
    kvHeads,
    headDim,
    windows: local ? local.layers.map((is) => (is ? local.window : 0)) : [],
    ...(scoreCap !== undefined && { scoreCap }),
  };
}

function schemaText(schema: object): string {
  try {
    return JSON.stringify(schema);
  } catch (cause) {
    throw new MagicpigError('INVALID_SCHEMA', 'the JSON schema contains itself, or is nested too deeply', { cause });
  }
}

/** A loaded model. Sessions share its weights. */
export class Model implements AsyncDisposable {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** Tokens that a text may have. */
  readonly context: number;
  /** Where its dense layers run: what the option `device` said, or what `auto` found. */
  readonly device: DeviceName;
  readonly #file: ModelFile;
  readonly #batcher: Batcher;
  readonly #threads: number;
  /** Bytes that a session may take with the model, where its length was asked for. */
  readonly #memory: number | undefined;
  readonly #bits: WeightBits;
  readonly #sessions = new Set<Session>();
  readonly #importance: number[];
  #tokenBytes: readonly Uint8Array[] | undefined;
  #vocabulary: NativeVocabulary | undefined;
  #fingerprint: { name: string; value: string }[] | undefined;
  #disposed = false;

  /** @internal */
  constructor(
    file: ModelFile,
    tokenizer: Tokenizer,
    { device, dense }: { device: DeviceName; dense: DenseGraph | undefined },
    weights: NativeModel,
    threads: number,
    bits: WeightBits,
    { context, memory }: { context: number; memory: number | undefined },
  ) {
    this.config = file.config;
    this.tokenizer = tokenizer;
    this.context = context;
    this.device = device;
    this.#memory = memory;
    this.#file = file;
    this.#importance = weights.headImportance();
    this.#batcher = new Batcher(weights, dense);
    this.#threads = threads;
    this.#bits = bits;
  }

  /** The chat template that came with the model, in Jinja. */
  get chatTemplate(): string | undefined {
    return this.#file.chatTemplate;
  }

  /**
   * The text of chat messages by the model's own template, where the assistant begins to speak. Encode it with `parseSpecial`.
   * Throws TEMPLATE_FAILED.
   * @internal
   */
  renderChat(messages: readonly ChatMessage[], variables: Readonly<Record<string, unknown>> = {}): string {
    const { chatTemplate, tokenizer } = this;
    if (chatTemplate === undefined) {
      throw new MagicpigError('TEMPLATE_FAILED', 'the model has no chat template; give it a text instead of messages');
    }
    const spelling = (token: number | undefined) => (token === undefined ? '' : (tokenizer.tokenText(token) ?? ''));
    return renderChat(chatTemplate, messages, {
      bosToken: spelling(tokenizer.bosToken),
      eosToken: spelling(tokenizer.endTokens[0]),
      variables,
    });
  }

  /** The bytes that each token adds to a text, by id; none for special tokens. @internal */
  get tokenBytes(): readonly Uint8Array[] {
    return (this.#tokenBytes ??= tokenBytes(this.#file.tokenizer, this.config.vocabSize));
  }

  /**
   * Holds one generation to JSON of a schema: on one line, properties in the schema's order. Where tokens run out before it
   * is complete, the text is a beginning of such JSON. The first call takes the vocabulary apart, for a fraction of a second.
   *
   * Throws INVALID_SCHEMA for what is no JSON schema, or says what is not supported (llguidance's documentation lists it).
   */
  jsonConstraint(schema: object): JsonConstraint {
    this.#live();
    this.#vocabulary ??= new NativeVocabulary(this.tokenBytes, this.tokenizer.endTokens);
    return new JsonConstraint(new NativeGrammar(this.#vocabulary, schemaText(schema)), this.config.vocabSize);
  }

  /**
   * An empty session, under the policy that `tune` chose for the model, as far as the options leave it open.
   *
   * Throws INVALID_OPTION, TUNED_DAMAGED, OUT_OF_MEMORY, DISK_FULL, PERMISSION_DENIED or STORE_IO.
   */
  createSession(options: SessionOptions = {}): Session {
    this.#live();
    checkOptions('createSession', options, sessionOptionNames);
    policyFrom(options, this.config.layers);
    const chosen = choose(options, () => this.tuned());
    if (this.#memory !== undefined) {
      checkSession(asLoaded(this.#file, this.#bits), { tokens: this.context, rows: rowsFrom(options.rows), policy: policyFrom(chosen.policy) }, this.#memory);
    }
    const native = NativeSession.create(this.#nativeOptions(options, options.directory));
    return this.#session(native, this.#sequence(native), chosen, 'memory');
  }

  /**
   * Opens the session in the folder `directory`, or makes one there: with everything that was read and generated up to its
   * last checkpoint, at once, however long it is. It checkpoints by itself after each prefill, every 16 tokens it
   * generates, and when it stops generating. Of `lsh`, the tables of the newest rows, some 1,300 at most, are made anew. Seed, policy
   * and index are the session's own where `options` do not say otherwise; what differs from them is refused, but for `exact`, `budget` and
   * `denseLayers`.
   * What `tune` chose for the model applies to a new session, and as a budget to one with the same index.
   *
   * Throws INVALID_OPTION, SESSION_NOT_FOUND, SESSION_MISMATCH (of another model, seed, or index than the policy's), SESSION_LOCKED (another
   * one writes to it), SESSION_CORRUPT, SESSION_TRUNCATED, SESSION_FILE_MISSING, SESSION_NEWER, SESSION_FOREIGN,
   * FILE_NOT_FOUND (the folder that would hold it), PERMISSION_DENIED, DISK_FULL or STORE_IO.
   */
  async openSession(directory: string, options: OpenSessionOptions = {}): Promise<Session> {
    this.#live();
    folderFrom(directory);
    checkOptions('openSession', options, openSessionOptionNames);
    policyFrom(options, this.config.layers);
    const { readOnly = false, create = !readOnly } = options;
    if (readOnly && create) throw new MagicpigError('INVALID_OPTION', 'readOnly and create exclude each other: a session that is only read is not made');
    if (create) await checkParent(directory);
    const kept = withKept(directory, options);
    const chosen = choose(kept, () => this.tuned());
    const native = await NativeSession.open(
      this.#nativeOptions(kept),
      { path: directory, model: this.fingerprint, readOnly, create },
      policyFrom(chosen.policy),
    );
    try {
      this.#live();
      const sequence = this.#sequence(native);
      if (sequence.tokens.length > 0) await sequence.recall();
      this.#live();
      return this.#session(native, sequence, chosen, readOnly ? 'memory' : 'folder');
    } catch (error) {
      native.dispose();
      throw error;
    }
  }

  /**
   * Appends one given token to each of several sessions, each under its own policy, as {@link Session.step} does to one. The sessions may be
   * of any lengths; a weight is read once for many of them. What a session gets is, on the CPU, the same to the bit as if it stepped alone.
   *
   * Each session has an outcome of its own, in their order: the logits [vocabulary] of its next token, or as `reason` what it failed with
   * (ABORTED, DISK_FULL, SESSION_BUSY, DISPOSED), which leaves it as it was and does not concern the others.
   *
   * Throws INVALID_OPTION for a session or an array that is given twice, a session that is another model's, and a token that the model does not know.
   */
  async stepBatch(sessions: readonly Session[], tokens: readonly number[], options: BatchStepOptions = {}): Promise<PromiseSettledResult<Float32Array>[]> {
    this.#live();
    checkOptions('stepBatch', options, batchStepOptionNames);
    const { signal, out } = options;
    // Types are no promise where the caller is JavaScript.
    if (![sessions, tokens, out ?? []].every((list: unknown) => Array.isArray(list))) throw new MagicpigError('INVALID_OPTION', 'stepBatch takes lists: sessions, tokens and, as out, arrays, one of each for each session');
    if (sessions.length !== tokens.length) throw new MagicpigError('INVALID_OPTION', `${sessions.length} sessions and ${tokens.length} tokens; each session takes one token`);
    if (out !== undefined && (sessions.length !== out.length || new Set(out).size < out.length)) throw new MagicpigError('INVALID_OPTION', `${sessions.length} sessions and ${new Set(out).size} different arrays in out; each session has one of its own`);
    if (new Set(sessions).size < sessions.length) throw new MagicpigError('INVALID_OPTION', 'a session is in the batch twice; its second token comes after its first');
    if (!sessions.every((session) => session instanceof Session && session.isOf(this))) throw new MagicpigError('INVALID_OPTION', 'a session of the batch is another model’s');
    for (const token of tokens) integer('a token', token, 0, this.config.vocabSize - 1);
    for (const logits of out ?? []) checkLogits('an array in out', logits, this.config.vocabSize);
    return await Promise.allSettled(sessions.map((session, i) => session.step(tokens[i] as number, { signal, out: out?.[i] })));
  }

  /** What `tune` chose for the model on this machine, if it did. Throws TUNED_DAMAGED. */
  tuned(): TunedDefaults | undefined {
    return readTuned(this.fingerprint);
  }

  /** Undoes `tune`: sessions take the defaults of every model again. False if there was nothing to undo. Throws CACHE_UNWRITABLE. */
  async resetTuned(): Promise<boolean> {
    return await removeTuned(this.fingerprint);
  }

  /** @internal What runs of the dense layers have cost since the model was loaded, where they are not the CPU's. */
  get deviceCounts(): DeviceCounts | undefined {
    const { dense } = this.#batcher;
    return dense && { ...dense.counts };
  }

  /** @internal What a session's folder says of the model. */
  get fingerprint(): { name: string; value: string }[] {
    return (this.#fingerprint ??= fingerprintOf(this.#file, this.#bits));
  }

  #nativeOptions({ seed, rows }: { seed?: number | undefined; rows?: RowType | undefined }, directory = tmpdir()) {
    return { ...sessionShape(this.config), importance: this.#importance, rows: rowsFrom(rows), threads: this.#threads, seed: seedFrom(seed), directory };
  }

  #sequence(native: NativeSession): Sequence {
    return new Sequence(this.config, this.#batcher, native);
  }

  #session(native: NativeSession, sequence: Sequence, policy: Chosen, home: 'memory' | 'folder'): Session {
    const session = new Session(this, native, sequence, policy, home);
    this.#sessions.add(session);
    return session;
  }

  #live(): void {
    if (this.#disposed) throw new MagicpigError('DISPOSED', 'the model was disposed of');
  }

  /** @internal */
  forget(session: Session): void {
    this.#sessions.delete(session);
  }

  /** What `await using` calls at the end of its block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** Frees the weights, and every session that is left. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const session of this.#sessions) session.dispose();
    await this.#batcher.dense?.dispose();
    await this.#file[Symbol.asyncDispose]();
  }
}
