import type { Session } from '../../decode/session.js';

/** A session that is used by one request, and goes back when that has ended. */
export interface Lease {
  readonly session: Session;
  /** `usable`: whether another request may go on with it. */
  release(usable: boolean): void | Promise<void>;
}

/**
 * Sessions without a name, whose texts later requests may begin with. A request gets the one that shares the longest
 * beginning with its text, if that is half of what it has; else a new one, in place of the one not used for longest.
 */
export class SessionPool {
  readonly #create: () => Session;
  readonly #size: number;
  /** The one used last at the end. */
  readonly #idle: Session[] = [];
  readonly #busy = new Set<Session>();

  constructor(create: () => Session, size: number) {
    this.#create = create;
    this.#size = size;
  }

  get sessions(): readonly Session[] {
    return [...this.#idle, ...this.#busy];
  }

  get busy(): number {
    return this.#busy.size;
  }

  take(tokens: readonly number[]): Lease {
    const session = this.#choose(tokens);
    this.#busy.add(session);
    return {
      session,
      release: (usable) => {
        this.#busy.delete(session);
        if (usable) this.#idle.push(session);
        else session[Symbol.dispose]();
      },
    };
  }

  #choose(tokens: readonly number[]): Session {
    const shared = this.#idle.map((session) => ({ session, shared: sharedLength(session.tokens, tokens) }));
    const best = shared.toSorted((a, b) => b.shared - a.shared).find(({ session, shared: length }) => length >= session.tokens.length / 2);
    if (best !== undefined) {
      this.#idle.splice(this.#idle.indexOf(best.session), 1);
      return best.session;
    }
    // Another text would have this one's centres in its index, so it gets a session of its own.
    if (this.#idle.length + this.#busy.size >= this.#size) this.#idle.shift()?.[Symbol.dispose]();
    return this.#create();
  }

  [Symbol.dispose](): void {
    for (const session of this.sessions) session[Symbol.dispose]();
    this.#idle.length = 0;
  }
}

function sharedLength(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((token, position) => token !== b[position]);
  return differs < 0 ? a.length : differs;
}
