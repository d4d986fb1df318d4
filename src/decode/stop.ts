/** Watches streamed text for stop strings, which may begin in one piece and end in a later one. */
export class StopWatch {
  readonly #stops: readonly string[];
  #held = '';

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
  }

  /** The text that may be shown now, and whether a stop string has come: nothing from it on is shown. */
  push(text: string): { text: string; stopped: boolean } {
    const all = this.#held + text;
    const found = Math.min(...this.#stops.map((stop) => all.indexOf(stop)).filter((at) => at >= 0));
    if (found !== Infinity) {
      this.#held = '';
      return { text: all.slice(0, found), stopped: true };
    }
    const held = Math.max(0, ...this.#stops.map((stop) => overlap(all, stop)));
    this.#held = all.slice(all.length - held);
    return { text: all.slice(0, all.length - held), stopped: false };
  }

  /** Text that was held back and turned out not to begin a stop string. */
  end(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }
}

/** Length of the longest end of `text` that `stop` begins with. */
function overlap(text: string, stop: string): number {
  let length = Math.min(text.length, stop.length - 1);
  while (length > 0 && !stop.startsWith(text.slice(text.length - length))) length -= 1;
  return length;
}
