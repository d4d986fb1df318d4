import { totalmem } from 'node:os';
import { MagicpigError } from '../errors.js';
import type { ModelConfig, ModelFile } from '../model/types.js';
import type { Policy, RowType, WeightBits } from './options.js';

/** Bytes that a model and one session of it take. */
export interface MemoryPlan {
  /** The model's files, which are mapped, but of which every step reads all; packed or rounded matrices in the place of their originals. */
  readonly weights: number;
  /** Keys and values of so many tokens. */
  readonly rows: number;
  /** What keys are chosen by. */
  readonly index: number;
  /** What a chunk of a long prompt works with. */
  readonly activations: number;
  readonly total: number;
}

export interface PlannedSession {
  /** Tokens that its text may have. */
  readonly tokens: number;
  readonly rows: RowType;
  readonly policy: Policy;
}

/** Tokens that are read at once. */
const CHUNK = 512;
const F32 = 4;

/** What is to be known of a model. */
export interface PlannedModel {
  readonly config: ModelConfig;
  readonly fileBytes: number;
}

/** A model whose matrices of 16 and 32 bits are rounded while it is loaded. Their originals are mapped, and no step reads them. */
export function asLoaded({ config, fileBytes, weightBytes }: ModelFile, bits: WeightBits): PlannedModel {
  if (bits === 'file') return { config, fileBytes };
  // Blocks of 32 with a scale or two of 16 bits.
  const rounded = (bits === '8' ? 34 : 20) / 32;
  const saved = Object.entries({ F32: 4, F16: 2, BF16: 2 }).map(([type, wide]) => (weightBytes[type] ?? 0) * (1 - rounded / wide));
  return { config, fileBytes: fileBytes - saved.reduce((sum, bytes) => sum + bytes) };
}

/** What a session of the model takes at its longest, to a few percent. */
export function memoryPlan({ config, fileBytes }: PlannedModel, session: PlannedSession): MemoryPlan {
  const { layers, kvHeads, headDim, local } = config;
  const indexed = layers - (local?.layers.filter(Boolean).length ?? 0);
  const rows = session.tokens * layers * kvHeads * rowBytes(session.rows, headDim);
  const index = session.tokens * indexed * kvHeads * indexBytes(session.policy, headDim);
  const activations = activationBytes(config);
  return { weights: fileBytes, rows, index, activations, total: fileBytes + rows + index + activations };
}

/** A key and a value in bf16, or in 8 bits with a scale of 16 bits each. */
function rowBytes(rows: RowType, headDim: number): number {
  return rows === 'bf16' ? 4 * headDim : 2 * headDim + 4;
}

/** Of a key: a code of each element and a factor of 16 bits, and those of its value, of 4 bits at most, if that is copied too; or an id in each table and a norm. */
function indexBytes(policy: Policy, headDim: number): number {
  if (policy.kind === 'lsh') return 2 * policy.l + 2;
  if (policy.kind !== 'sketch') return 0;
  const padded = 2 ** Math.ceil(Math.log2(headDim));
  const codes = (bits: number) => (padded * bits) / 8 + 2;
  return codes(policy.bits) + (policy.residual ? codes(Math.min(policy.bits, 4)) : 0);
}

function activationBytes({ hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize }: ModelConfig): number {
  const [queries, keys] = [heads * headDim, kvHeads * headDim];
  // The residual stream, what goes into a product in bf16, products, and what attention takes and leaves.
  const features = hiddenSize + Math.max(hiddenSize, intermediateSize, queries) / 2 + 2 * intermediateSize + 3 * queries + 4 * keys;
  return F32 * (CHUNK * features + vocabSize);
}

/** What the system can give without swapping, within the limit of the process's control group. Elsewhere than on Linux only what is unused counts as free, so that all is taken to be there. */
export function availableMemory(): number {
  return process.platform === 'linux' ? process.availableMemory() : totalmem();
}

/** Throws OUT_OF_MEMORY where weights and activations do not fit into `available` bytes. */
export function checkWeights(plan: MemoryPlan, available: number): void {
  if (plan.weights + plan.activations <= available) return;
  throw new MagicpigError(
    'OUT_OF_MEMORY',
    `weights take ${gigabytes(plan.weights)} and activations ${gigabytes(plan.activations)}, and ${gigabytes(available)} of memory are there; take a smaller quantisation of the model (--weights 8 or 4 rounds one of 16 or 32 bits), or a smaller model`,
  );
}

/** Throws OUT_OF_MEMORY where a session in memory does not fit into `available` bytes beside the model, with the changes that would make it fit. */
export function checkSession(model: PlannedModel, session: PlannedSession, available: number): void {
  const plan = memoryPlan(model, session);
  if (plan.total <= available) return;
  const fits = (change: Partial<PlannedSession>) => memoryPlan(model, { ...session, ...change }).total <= available;
  const { policy } = session;
  const perToken = (plan.rows + plan.index) / session.tokens;
  const tokens = Math.floor((available - plan.weights - plan.activations) / perToken);
  const ways = ['a session in a folder (--session DIR), whose rows the system may leave on disk'];
  if (tokens >= 1) ways.push(`a context of ${tokens} tokens (--context)`);
  if (session.rows === 'bf16' && fits({ rows: 'int8' })) ways.push('rows of 8 bits (--rows int8)');
  if (policy.kind === 'sketch') {
    const fewer = ([4, 2, 1] as const).find((bits) => bits < policy.bits && fits({ policy: { ...policy, bits } }));
    if (fewer !== undefined) ways.push(`an index of fewer bits (--sketch-bits ${fewer})`);
  }
  throw new MagicpigError(
    'OUT_OF_MEMORY',
    `${session.tokens} tokens take ${gigabytes(plan.rows)} of rows and ${gigabytes(plan.index)} of index, beside ${gigabytes(plan.weights)} of weights and ${gigabytes(plan.activations)} of activations; ` +
      `${gigabytes(available)} of memory are there. What fits: ${ways.join('; ')}`,
  );
}

/** For people. */
export function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
