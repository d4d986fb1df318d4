import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { cpuInfo, measureAttention } from '../native.js';
import type { DeviceCounts } from '../onnx/runtime.js';
import type { Model } from './model.js';
import { type PolicyName, type PolicyOptions, type RowType, integer, policyFrom, rowsFrom, threadsFrom } from './options.js';
import { uniform } from './sampler.js';
import type { PrefillOptions, Session } from './session.js';

/** Attention shapes of models that are benchmarked without their weights: query heads, KV heads, head dimension. */
export const shapes: Readonly<Record<string, { heads: number; kvHeads: number; headDim: number }>> = {
  'llama-3.1-8b': { heads: 32, kvHeads: 8, headDim: 128 },
  'llama-3.2-1b': { heads: 32, kvHeads: 8, headDim: 64 },
  'smollm2-135m': { heads: 9, kvHeads: 3, headDim: 64 },
};

export interface AttentionBench extends PolicyOptions {
  readonly shape: string;
  readonly context: number;
  /** Sequences whose steps are taken together, each with rows of its own. Default 1. */
  readonly batch?: number | undefined;
  /** How keys and values are stored. Default `bf16`. */
  readonly rows?: RowType | undefined;
  readonly threads?: number | undefined;
}

/** Measures one layer's attention in one decoding step of a batch, on synthetic rows spread as those of trained models: medians. */
export async function benchAttention(options: AttentionBench) {
  const shape = Object.hasOwn(shapes, options.shape) ? shapes[options.shape] : undefined;
  if (shape === undefined) {
    throw new MagicpigError('INVALID_OPTION', `shape is ${JSON.stringify(options.shape)}; it must be one of ${Object.keys(shapes).join(', ')}`);
  }
  const policy = policyFrom(options);
  const rows = rowsFrom(options.rows);
  const threads = threadsFrom(options.threads);
  const context = integer('context', options.context, 1024, 1 << 22);
  const batch = integer('batch', options.batch ?? 1, 1, 1024);
  const measured = await measureAttention({ ...shape, layers: 1, rows, threads, seed: 0, directory: tmpdir() }, context, policy, batch);
  const ms = (seconds: number) => seconds * 1000;
  const bandwidth = measured.streamBytesPerSecond;
  return {
    shape: options.shape,
    context,
    batch,
    threads,
    isa: cpuInfo().isa,
    policy: policy.kind,
    rows,
    budget: measured.budget,
    hashMs: ms(measured.hashSeconds),
    retrieveMs: ms(measured.retrieveSeconds),
    attendMs: ms(measured.attendSeconds),
    stepMs: ms(measured.stepSeconds),
    exactMs: ms(measured.exactSeconds),
    streamGBs: bandwidth / 1e9,
    exactLimitMs: ms(measured.rowBytes / bandwidth),
    indexSeconds: measured.indexSeconds,
    indexBytesPerKey: measured.indexBytesPerKey,
    relativeL2: measured.relativeL2,
  };
}

/** Decoding steps that are measured, after some that let a budget settle and indexes be built. */
const STEPS = 48;
const WARM_UP = 16;

export interface DecodeBenchRow {
  readonly context: number;
  readonly policy: PolicyName;
  /** Reading the whole context. */
  readonly prefillSeconds: number;
  /** Medians of steps after it. */
  readonly decodeMsPerToken: number;
  readonly attendMsPerToken: number;
  readonly keysRead: number;
  /** Where the dense layers are not the CPU's. */
  readonly device?: DeviceCost;
  /** With a batch. */
  readonly batch?: BatchThroughput;
}

/** What a step costs of another device: means. */
export interface DeviceCost {
  /** Its runs, what goes there and back included. */
  readonly msPerToken: number;
  /** Bytes that go there and back. */
  readonly bytesPerToken: number;
}

/** What sessions that step together get, and one of them alone in turns with them. */
export interface BatchThroughput {
  readonly sessions: number;
  readonly tokensPerSecond: number;
  readonly aloneTokensPerSecond: number;
}

export interface DecodeBench extends Pick<PrefillOptions, 'signal' | 'onProgress'>, Pick<AttentionBench, 'rows'> {
  /** Sessions that step together, beside one that steps alone. Default 1. */
  readonly batch?: number | undefined;
}

/**
 * Measures prefill and decoding steps of a model after texts of several lengths, under several policies in turn. The text is
 * of random tokens: times depend on what it says only through how many keys a policy reads, which is reported.
 *
 * Sessions of a batch are copies of the one that read the text, each with rows of its own; from there on their tokens differ.
 */
export async function benchDecode(
  model: Model,
  contexts: readonly number[],
  policies: readonly PolicyOptions[],
  { rows: rowType, batch: size = 1, signal, onProgress }: DecodeBench = {},
): Promise<DecodeBenchRow[]> {
  const batch = integer('batch', size, 1, 1024);
  const rows: DecodeBenchRow[] = [];
  const total = Math.max(...contexts);
  using session = model.createSession({ policy: 'exact', rows: rowType });
  let prefillSeconds = 0;
  for (const context of contexts.toSorted((a, b) => a - b)) {
    const before = session.tokens.length;
    session.setPolicy({ policy: 'exact' });
    const started = performance.now();
    await session.prefill(randomTokens(before, context, model.config.vocabSize), {
      signal,
      onProgress: ({ done }) => onProgress?.({ done: before + done, total }),
    });
    prefillSeconds += (performance.now() - started) / 1000;
    for (const policy of policies) {
      session.setPolicy(policy);
      const tokens = randomTokens(context, context + STEPS + WARM_UP, model.config.vocabSize);
      const steps: number[] = [];
      const attends: number[] = [];
      let keysRead = 0;
      let before: DeviceCounts | undefined;
      for (const [step, token] of tokens.entries()) {
        if (step === WARM_UP) before = model.deviceCounts;
        session.resetStats();
        await session.step(token, { signal });
        if (step < WARM_UP) continue;
        const stats = session.stats();
        steps.push(stats.decodeMsPerToken);
        attends.push(stats.attendMsPerToken);
        keysRead += stats.keysRead;
      }
      const device = deviceCost(before, model.deviceCounts, STEPS);
      session.rewind(context);
      const alone = {
        context,
        policy: session.stats().policy,
        prefillSeconds,
        decodeMsPerToken: median(steps),
        attendMsPerToken: median(attends),
        keysRead: keysRead / STEPS,
        ...(device && { device }),
      };
      rows.push(batch === 1 ? alone : { ...alone, batch: await batchThroughput(model, session, policy, batch, signal) });
    }
  }
  return rows;
}

/** Steps of one session and steps of the batch take turns by so many, so that a machine that is slow for a while is so for both. */
const ROUND = 8;

/** Medians of steps of one session, and of as many copies of it as the batch has. */
async function batchThroughput(
  model: Model,
  session: Session,
  policy: PolicyOptions,
  batch: number,
  signal: AbortSignal | undefined,
): Promise<BatchThroughput> {
  const folder = await mkdtemp(join(tmpdir(), 'magicpig-bench-'));
  const copies: Session[] = [];
  try {
    for (let copy = 0; copy < batch; copy += 1) {
      const directory = join(folder, String(copy));
      await session.fork(directory, { signal });
      copies.push(await model.openSession(directory, { ...policy, tuned: false }));
    }
    const [first] = copies as [Session];
    const out = copies.map(() => new Float32Array(model.config.vocabSize));
    const token = (step: number, copy: number) => Math.floor(uniform(2 + copy, step) * model.config.vocabSize);
    const alone: number[] = [];
    const together: number[] = [];
    const timed = async (times: number[], step: number, work: () => Promise<unknown>) => {
      const started = performance.now();
      await work();
      if (step >= WARM_UP) times.push(performance.now() - started);
    };
    for (let step = 0; step < STEPS + WARM_UP; step += 1) {
      await timed(alone, step, () => first.step(token(step, batch), { signal, out: out[0] }));
      if ((step + 1) % ROUND !== 0) continue;
      for (let at = step + 1 - ROUND; at <= step; at += 1) {
        await timed(together, at, async () => {
          const outcomes = await model.stepBatch(copies, copies.map((_, copy) => token(at, copy)), { signal, out });
          for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
        });
      }
    }
    return { sessions: batch, tokensPerSecond: (1000 * batch) / median(together), aloneTokensPerSecond: 1000 / median(alone) };
  } finally {
    for (const copy of copies) copy.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

function deviceCost(before: DeviceCounts | undefined, after: DeviceCounts | undefined, steps: number): DeviceCost | undefined {
  if (before === undefined || after === undefined) return undefined;
  return { msPerToken: (1000 * (after.seconds - before.seconds)) / steps, bytesPerToken: (after.bytes - before.bytes) / steps };
}

/** The tokens at positions `from` to `to` of a text that is always the same. */
function randomTokens(from: number, to: number, vocabSize: number): number[] {
  return Array.from({ length: to - from }, (_, i) => Math.floor(uniform(1, from + i) * vocabSize));
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
