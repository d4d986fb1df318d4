/** A turn of one, or one that all who wait for such a turn have together. */
export type TurnKind = 'alone' | 'together';

/** Who takes part in turns. */
interface Participant {
  /** Milliseconds that its turns have taken, counted from where it joined. */
  used: number;
}

/**
 * Shares one thing that works among those who take turns at it: the turn goes to whoever has used least time, so that
 * a long text being read and answers being written each get their part. Those who have a turn together share the time that it takes.
 * A newcomer begins where the one that has used least is.
 */
export class Turns {
  readonly #participants = new Set<Participant>();
  #waiting: { participant: Participant; kind: TurnKind; begin: (turn: Begun) => void }[] = [];
  /** Someone has the turn, or it is about to be given to who waits. */
  #taken = false;
  readonly #now: () => number;

  /** `now`: milliseconds from anywhere. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether more than one takes part. */
  get crowded(): boolean {
    return this.#participants.size > 1;
  }

  join(): Turn {
    const used = Math.min(...[...this.#participants].map((participant) => participant.used));
    const participant = { used: Number.isFinite(used) ? used : 0 };
    this.#participants.add(participant);
    let turn: Begun;
    return {
      begin: async (kind = 'alone') => {
        if (this.#taken) {
          turn = await new Promise<Begun>((resolve) => this.#waiting.push({ participant, kind, begin: resolve }));
        } else {
          this.#taken = true;
          turn = this.#begun(1);
        }
      },
      end: () => {
        participant.used += (this.#now() - turn.at) / turn.size;
        turn.left -= 1;
        // Whoever had the turn and wants the next one too is among those who wait by then.
        if (turn.left === 0) setImmediate(() => { this.#next(); });
      },
      leave: () => { this.#participants.delete(participant); },
    };
  }

  #begun(size: number): Begun {
    return { at: this.#now(), size, left: size };
  }

  #next(): void {
    const [first] = this.#waiting.toSorted((a, b) => a.participant.used - b.participant.used);
    if (first === undefined) {
      this.#taken = false;
      return;
    }
    const chosen = first.kind === 'alone' ? [first] : this.#waiting.filter(({ kind }) => kind === 'together');
    this.#waiting = this.#waiting.filter((one) => !chosen.includes(one));
    const turn = this.#begun(chosen.length);
    for (const { begin } of chosen) begin(turn);
  }
}

/** A turn that was given. */
interface Begun {
  /** When, in milliseconds. */
  readonly at: number;
  /** Who had it. */
  readonly size: number;
  /** Who still has it. */
  left: number;
}

export interface Turn {
  /** Waits for the turn: one `alone`, as by default, or one that all who wait for it have `together`. */
  begin(kind?: TurnKind): Promise<void>;
  /** Gives it back, or one's part of it. */
  end(): void;
  /** Takes part no more; not while it has the turn or waits for it. */
  leave(): void;
}
