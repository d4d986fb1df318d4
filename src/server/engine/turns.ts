/** Who takes part in turns. */
interface Participant {
  /** Milliseconds that its turns have taken, counted from where it joined. */
  used: number;
}

/**
 * Shares one thing that works among those who take turns at it: the turn goes to whoever has used least time, so that
 * a long text being read and answers being written each get their part. A newcomer begins where the one that has used
 * least is.
 */
export class Turns {
  readonly #participants = new Set<Participant>();
  readonly #waiting: { participant: Participant; begin: () => void }[] = [];
  /** Someone has the turn, or it is about to be given to who waits. */
  #taken = false;
  readonly #now: () => number;

  /** `now`: milliseconds from anywhere. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  join(): Turn {
    const used = Math.min(...[...this.#participants].map((participant) => participant.used));
    const participant = { used: Number.isFinite(used) ? used : 0 };
    this.#participants.add(participant);
    let began = 0;
    const end = () => {
      participant.used += this.#now() - began;
      // Whoever had the turn and wants the next one too is among those who wait by then.
      setImmediate(() => { this.#next(); });
    };
    return {
      begin: async () => {
        if (this.#taken) await new Promise<void>((resolve) => this.#waiting.push({ participant, begin: resolve }));
        this.#taken = true;
        began = this.#now();
      },
      end,
      leave: () => { this.#participants.delete(participant); },
    };
  }

  #next(): void {
    const [first] = this.#waiting.toSorted((a, b) => a.participant.used - b.participant.used);
    if (first === undefined) {
      this.#taken = false;
      return;
    }
    this.#waiting.splice(this.#waiting.indexOf(first), 1);
    first.begin();
  }
}

export interface Turn {
  /** Waits for the turn. */
  begin(): Promise<void>;
  /** Gives it back. */
  end(): void;
  /** Takes part no more; not while it has the turn or waits for it. */
  leave(): void;
}
