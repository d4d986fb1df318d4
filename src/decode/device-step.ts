import type { NativeSession } from '../native.js';
import type { Attend, DenseGraph, Projections } from '../onnx/dense-graph.js';
import type { Step } from './batch.js';

/**
 * Takes one token of each of several sessions through the dense layers of a device, all as rows of its runs, and has the host attend each in its
 * own session, under the session's policy. Returns of each the logits [vocabulary] of the next token, or what it failed with; its
 * layers then differ in length, and the others go on without it.
 */
export async function stepOnDevice(dense: DenseGraph, steps: readonly Step[]): Promise<unknown[]> {
  const failures = new Map<Step, unknown>();
  const attend: Attend = (layer, { q, k, v }) => {
    const out = new Float32Array(q.length);
    for (const [i, step] of steps.entries()) {
      if (failures.has(step)) continue;
      const row = (data: Float32Array) => data.subarray((i * data.length) / steps.length, ((i + 1) * data.length) / steps.length);
      try {
        step.signal?.throwIfAborted();
        step.native.attendDecode(layer, row(q), row(k), row(v), row(out));
      } catch (error) {
        failures.set(step, error);
      }
    }
    if (failures.size === steps.length) throw [...failures.values()][0];
    return out;
  };
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

/**
 * Reads tokens after the `position` that a session has, attended exactly by the host, `chunk` of them at a time through the device. Returns the
 * logits [vocabulary] after the last one, which goes by itself: no other's are wanted.
 */
export async function prefillOnDevice(
  dense: DenseGraph,
  native: NativeSession,
  { tokens, position, chunk, signal, onRead }: { tokens: readonly number[]; position: number; chunk: number; signal: AbortSignal | undefined; onRead: (chunk: readonly number[]) => unknown },
): Promise<Float32Array> {
  const attend = (rows: number) => async (layer: number, { q, k, v }: Projections) => {
    signal?.throwIfAborted();
    return await native.attendPrefill(layer, rows, q, k, v);
  };
  const [last] = tokens.slice(-1) as [number];
  for (let first = 0; first < tokens.length - 1; first += chunk) {
    signal?.throwIfAborted();
    const some = tokens.slice(first, Math.min(first + chunk, tokens.length - 1));
    await dense.prefill(some, position + first, attend(some.length));
    native.pushTokens(some);
    await onRead(some);
  }
  signal?.throwIfAborted();
  const [stepped] = await dense.step([{ token: last, position: position + tokens.length - 1 }], attend(1));
  const { logits, residual } = stepped as { logits: Float32Array; residual: Float32Array };
  native.pushStep(last, residual);
  await onRead([last]);
  return logits;
}
