import { setImmediate as nextTurn } from 'node:timers/promises';
import type { NativeModel, NativeSession } from '../native.js';
import type { DenseGraph } from '../onnx/dense-graph.js';
import { stepOnDevice } from './device-step.js';

/** A token on its way through the model. */
export interface Step {
  readonly native: NativeSession;
  readonly token: number;
  /** Tokens before it in its text. */
  readonly position: number;
  /** [vocabulary], which may be written. */
  readonly logits: Float32Array;
  readonly signal: AbortSignal | undefined;
}

interface Waiting extends Step {
  readonly resolve: (logits: Float32Array) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Takes the tokens of a model's sessions through it, those that are ready at the same time as one batch, which reads a weight once for many.
 * Whoever comes while a step is being made joins the next one. On the CPU what a session gets does not depend on who else is in its batch.
 */
export class Batcher {
  readonly weights: NativeModel;
  /** The dense layers, where they are on another device than the CPU. */
  readonly dense: DenseGraph | undefined;
  #ready: Waiting[] = [];
  #running = false;

  constructor(weights: NativeModel, dense?: DenseGraph) {
    this.weights = weights;
    this.dense = dense;
  }

  /** Appends a token to a session. Returns the logits [vocabulary] of the next one, in `logits` or in an array of their own. */
  async step(step: Step): Promise<Float32Array> {
    return await new Promise<Float32Array>((resolve, reject) => {
      this.#ready.push({ ...step, resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#ready.length > 0) {
      // Events have their turn here, and whoever was just given logits may want the next step by then.
      await nextTurn();
      const ready = this.#ready.splice(0);
      const steps = ready.filter(({ signal, reject }) => {
        if (signal?.aborted === true) reject(signal.reason);
        return signal?.aborted !== true;
      });
      const [first] = steps;
      if (first === undefined) continue;
      if (this.dense !== undefined) await this.#together(steps, stepOnDevice(this.dense, steps));
      else if (steps.length > 1) await this.#together(steps, this.weights.decodeBatch(steps));
      else this.#alone(first);
    }
    this.#running = false;
  }

  /** At once, on this thread: there is nobody to wait for meanwhile. */
  #alone({ native, token, logits, resolve, reject }: Waiting): void {
    try {
      native.decodeToken(this.weights, token, logits);
      resolve(logits);
    } catch (error) {
      reject(error);
    }
  }

  async #together(steps: readonly Waiting[], running: Promise<readonly unknown[]>): Promise<void> {
    try {
      const outcomes = await running;
      for (const [i, { resolve, reject }] of steps.entries()) {
        const outcome = outcomes[i];
        if (outcome instanceof Float32Array) resolve(outcome);
        else reject(outcome);
      }
    } catch (error) {
      for (const { reject } of steps) reject(error);
    }
  }
}
