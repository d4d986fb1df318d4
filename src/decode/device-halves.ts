import type { attendBatch } from '../native.js';
import type { Attend } from '../onnx/dense-graph.js';
import type { Step } from './batch.js';

/** {@link attendBatch}, or what a test has in its place. */
export type AttendBatch = typeof attendBatch;

/** What attending costs beside the rows of its text, in rows; as crates/engine/src/attend_batch.rs has it. */
const FIXED_ROWS = 1024;

/**
 * Steps in two halves that take about as long to attend, since the device is there for one while the host attends the other: by the
 * lengths of their texts, the longest first. Neither is empty where there are two steps.
 */
export function halved(steps: readonly Step[]): readonly (readonly Step[])[] {
  const [one, other] = [{ rows: 0, steps: [] as Step[] }, { rows: 0, steps: [] as Step[] }];
  for (const step of steps.toSorted((a, b) => b.position - a.position)) {
    const half = one.rows <= other.rows ? one : other;
    half.rows += step.position + FIXED_ROWS;
    half.steps.push(step);
  }
  return [one.steps, other.steps];
}

/**
 * Runs one piece of work after the other, in the order in which they are asked for. Attention takes all of the host's threads: two calls at
 * once, whose threads spin for the same cores, would stop each other.
 */
export function turns(): <T>(work: () => Promise<T>) => Promise<T> {
  let before: Promise<unknown> = Promise.resolve();
  return async (work) => {
    const turn = before.then(work);
    before = turn.catch(() => undefined);
    return await turn;
  };
}

/**
 * Attends steps together on other threads, so that this one is free for the device meanwhile. Who fails, or is aborted, is noted in `failures` and
 * stays behind; once that is everyone, it throws.
 */
export function attendTogether(steps: readonly Step[], failures: Map<Step, unknown>, attend: AttendBatch): Attend {
  const unlessAllFailed = () => {
    if (failures.size === steps.length) throw failures.values().next().value;
  };
  return async (layer, projections) => {
    for (const step of steps) if (step.signal?.aborted === true && !failures.has(step)) failures.set(step, step.signal.reason);
    unlessAllFailed();
    const attended = await attend(steps.map((step) => (failures.has(step) ? undefined : step.native)), layer, projections);
    for (const [i, step] of steps.entries()) {
      const failure = attended.failures[i];
      // Who is aborted meanwhile is cancelled, and fails with what it was aborted for.
      if (failure !== undefined) failures.set(step, step.signal?.aborted === true ? step.signal.reason : failure);
    }
    unlessAllFailed();
    return attended.out;
  };
}
