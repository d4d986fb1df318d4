import { setImmediate as nextTurn } from 'node:timers/promises';
import type { NativeModel, NativeSession } from '../native.js';

/** A token on its way through the model. */
interface Step {
  readonly native: NativeSession;
  readonly token: number;
  /** [vocabulary], written where no other session steps at the same time. */
  readonly logits: Float32Array;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (logits: Float32Array) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Takes the tokens of a model's sessions through it, those that are ready at the same time as one batch, which reads each weight once.
 * Whoever comes while a step is being made joins the next one. What a session gets does not depend on who else is in its batch.
 */
export class Batcher {
  readonly weights: NativeModel;
  #ready: Step[] = [];
  #running = false;

  constructor(weights: NativeModel) {
    this.weights = weights;
  }

  /** Appends a token to a session. Returns the logits [vocabulary] of the next one, in `logits` or in an array of their own. */
  async step(native: NativeSession, token: number, logits: Float32Array, signal: AbortSignal | undefined): Promise<Float32Array> {
    return await new Promise<Float32Array>((resolve, reject) => {
      this.#ready.push({ native, token, logits, signal, resolve, reject });
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
      if (steps.length > 1) await this.#together(steps);
      else this.#alone(first);
    }
    this.#running = false;
  }

  /** At once, on this thread: there is nobody to wait for meanwhile. */
  #alone({ native, token, logits, resolve, reject }: Step): void {
    try {
      native.decodeToken(this.weights, token, logits);
      resolve(logits);
    } catch (error) {
      reject(error);
    }
  }

  async #together(steps: readonly Step[]): Promise<void> {
    try {
      const outcomes = await this.weights.decodeBatch(steps.map(({ native }) => native), steps.map(({ token }) => token));
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
