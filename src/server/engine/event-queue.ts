/** Events that one side pushes as they come and the other takes as it can. They wait in between, however many there are. */
export class EventQueue<T> implements AsyncIterable<T> {
  readonly #events: T[] = [];
  #error: Error | undefined;
  #ended = false;
  #wake: () => void = () => undefined;

  push(event: T): void {
    this.#events.push(event);
    this.#wake();
  }

  /** The iteration throws the error after the events that wait. */
  fail(error: Error): void {
    this.#error = error;
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    for (;;) {
      yield* this.#events.splice(0);
      if (this.#events.length > 0) continue;
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
