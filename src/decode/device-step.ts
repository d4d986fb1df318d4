import { type NativeSession, attendBatch } from '../native.js';
import type { Attend, DenseGraph, Projections } from '../onnx/dense-graph.js';
import type { Step } from './batch.js';
import { type AttendBatch, attendTogether, halved, turns } from './device-halves.js';

/**
 * Takes one token of each of several sessions through the dense layers of a device, and has the host attend each in its own session, under the
 * session's policy. Returns of each the logits [vocabulary] of the next token, or what it failed with; its layers then differ in length, and
 * the others go on without it.
 *
 * Several go as two halves, each as rows of its own runs: the device has one while the host attends the other.
 */
export async function stepOnDevice(dense: DenseGraph, steps: readonly Step[], attend: AttendBatch = attendBatch): Promise<unknown[]> {
  const [first] = steps;
  // Attended on this thread: there is nothing else to do meanwhile, and another thread would have to be woken in every layer.
  if (first !== undefined && steps.length === 1) return await through(dense, steps, new Map(), attendAlone(first));
  const inTurn = turns();
  const outcomes = new Map<Step, unknown>();
  await Promise.all(halved(steps).map(async (half) => {
    const failures = new Map<Step, unknown>();
    const together = attendTogether(half, failures, attend);
    const ended = await through(dense, half, failures, (layer, projections) => inTurn(async () => together(layer, projections)));
    for (const [i, step] of half.entries()) outcomes.set(step, ended[i]);
  }));
  return steps.map((step) => outcomes.get(step));
}

function attendAlone({ native, signal }: Step): Attend {
  return (layer, { q, k, v }) => {
    signal?.throwIfAborted();
    const out = new Float32Array(q.length);
    native.attendDecode(layer, q, k, v, out);
    return out;
  };
}

/** Takes the steps through the device as rows of the same runs. `attend` notes in `failures` who stays behind, and fails itself for all of them. */
async function through(dense: DenseGraph, steps: readonly Step[], failures: Map<Step, unknown>, attend: Attend): Promise<unknown[]> {
  const stepped = await dense.step(steps, attend).catch((error: unknown) => {
    for (const step of steps) if (!failures.has(step)) failures.set(step, error);
    return [];
  });
  return steps.map((step, i) => {
    if (failures.has(step)) return failures.get(step);
    const { logits, residual } = stepped[i] as { logits: Float32Array; residual: Float32Array };
    try {
      step.native.pushStep(step.token, residual);
      return logits;
    } catch (error) {
      return error;
    }
  });
}

export interface DeviceReading {
  readonly tokens: readonly number[];
  /** Tokens that the session has already. */
  readonly position: number;
  /** Tokens that go through the device together where the host attends them. */
  readonly chunk: number;
  readonly signal: AbortSignal | undefined;
  /** Called with how many tokens' worth of the work is done. */
  readonly onProgress: (done: number) => unknown;
}

/**
 * Reads tokens through the device, attended exactly. A text's beginning is attended there, as far as there is room; what comes after rows that the host has, the
 * host attends. Returns the logits [vocabulary] after the last token, which goes by itself: no other's are wanted.
 */
export async function prefillOnDevice(dense: DenseGraph, native: NativeSession, reading: DeviceReading): Promise<Float32Array> {
  const { tokens, position, chunk, signal, onProgress } = reading;
  const many = tokens.length - 1;
  const attend = (rows: number) => async (layer: number, { q, k, v }: Projections) => {
    signal?.throwIfAborted();
    return await native.attendPrefill(layer, rows, q, k, v);
  };
  const { reads } = dense;
  const there = position === 0 && reads ? Math.min(many, reads.most) : 0;
  if (reads && there > 0) {
    let chunks = 0;
    const allChunks = Math.ceil(there / reads.chunk) * dense.layers;
    await dense.read(tokens.slice(0, there), async (layer, { k, v }) => {
      signal?.throwIfAborted();
      await native.appendRows(layer, k, v);
      chunks += 1;
      await onProgress(Math.floor((there * chunks) / allChunks));
    });
    native.pushTokens(tokens.slice(0, there));
  }
  for (let first = there; first < many; first += chunk) {
    signal?.throwIfAborted();
    const some = tokens.slice(first, Math.min(first + chunk, many));
    await dense.prefill(some, position + first, attend(some.length));
    native.pushTokens(some);
    await onProgress(first + some.length);
  }
  signal?.throwIfAborted();
  const [last] = tokens.slice(-1) as [number];
  const [stepped] = await dense.step([{ token: last, position: position + many }], attend(1));
  const { logits, residual } = stepped as { logits: Float32Array; residual: Float32Array };
  native.pushStep(last, residual);
  await onProgress(tokens.length);
  return logits;
}
