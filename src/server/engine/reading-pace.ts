import { CHUNK } from '../../decode/sequence.js';

/** Milliseconds that a turn of reading is to take where others wait for theirs: a stream that stands still for longer is seen to. */
const TURN_MS = 150;

/** Fewer tokens at once cost as much as these, and what the first turns of a text take before its pace is known. */
const LEAST = 32;

/**
 * How many tokens of a text are read in one turn: as many as there may be while nobody else takes part, and else those that fit the time by
 * what the last ones took. A token takes longer the more there are before it, which changes little from turn to turn.
 */
export class ReadingPace {
  readonly #crowded: () => boolean;
  readonly #now: () => number;
  #msPerToken: number | undefined;
  #asked = 0;
  #given = 0;

  /** `crowded`: whether others take turns too. `now`: milliseconds from anywhere. */
  constructor(crowded: () => boolean, now: () => number = () => performance.now()) {
    this.#crowded = crowded;
    this.#now = now;
  }

  /** Tokens that the next turn may read. */
  next(): number {
    const fit = this.#msPerToken === undefined ? LEAST : Math.floor(TURN_MS / this.#msPerToken / LEAST) * LEAST;
    this.#asked = this.#now();
    this.#given = this.#crowded() ? Math.min(CHUNK, Math.max(LEAST, fit)) : CHUNK;
    return this.#given;
  }

  /** They were read: all of them, but at the end of the text, after which nothing is asked. */
  read(): void {
    this.#msPerToken = (this.#now() - this.#asked) / this.#given;
  }
}
