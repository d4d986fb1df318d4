import { ApiError } from './errors.js';

/** Lets so many requests work at once and so many wait, in the order in which they came; those beyond are told to come back. */
export class Admission {
  readonly #parallel: number;
  readonly #queue: number;
  readonly #waiting = new Set<() => void>();
  #running = 0;

  constructor(parallel: number, queue: number) {
    this.#parallel = parallel;
    this.#queue = queue;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Waits for a place, which the returned function gives back, once. Throws 503 where too many wait, or `signal`'s reason. */
  async enter(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#running < this.#parallel) this.#running += 1;
    else if (this.#waiting.size >= this.#queue) {
      const retryAfter = Math.min(60, Math.ceil((this.#waiting.size + 1) / this.#parallel));
      throw new ApiError(503, 'overloaded', `${this.#running} requests are being worked on and ${this.#waiting.size} wait; try again later`, { retryAfter });
    } else await this.#wait(signal);
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#leave();
    };
  }

  /** A place is handed on without becoming free in between. */
  async #wait(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const enter = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.delete(enter);
        reject(signal.reason as Error);
      };
      this.#waiting.add(enter);
      signal.addEventListener('abort', leave, { once: true });
    });
  }

  #leave(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#running -= 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
