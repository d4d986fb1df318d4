import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Model } from '../../decode/model.js';
import type { Session } from '../../decode/session.js';
import { listSessions, removeSession } from '../../decode/sessions.js';
import { MagicpigError } from '../../errors.js';
import type { ServedSession } from '../options.js';
import type { Lease } from './pool.js';
import type { NamedSession } from './protocol.js';
import { sessionNamePattern } from './session-name.js';

const sessionName = new RegExp(sessionNamePattern);

/** Sessions that stay open while nobody uses them, so that the next request does not open them again. */
const KEPT_OPEN = 4;

export interface NamedSessionsOptions {
  readonly directory: string | undefined;
  /** Sessions that the folder may have. */
  readonly limit: number;
  /** What new ones are made with. */
  readonly session: ServedSession;
}

/** Sessions that clients name, each in a folder of that name. */
export class NamedSessions {
  readonly #model: Model;
  readonly #options: NamedSessionsOptions;
  /** Open and not in use, the one used last at the end. */
  readonly #idle = new Map<string, Session>();
  /** In use, being opened or being removed. */
  readonly #busy = new Map<string, Session | undefined>();

  constructor(model: Model, options: NamedSessionsOptions) {
    this.#model = model;
    this.#options = options;
  }

  get sessions(): readonly Session[] {
    return [...this.#idle.values(), ...this.#busy.values()].filter((session) => session !== undefined);
  }

  get busy(): number {
    return this.#busy.size;
  }

  /** The session of that name, made if there is none. Throws SESSION_BUSY while another request uses it. */
  async take(name: string): Promise<Lease> {
    const directory = this.#claim(name);
    try {
      const session = this.#idle.get(name) ?? (await this.#open(directory));
      this.#idle.delete(name);
      this.#busy.set(name, session);
      return { session, release: (usable) => { this.#release(name, session, usable); } };
    } catch (error) {
      this.#busy.delete(name);
      throw error;
    }
  }

  async list(): Promise<NamedSession[]> {
    const found = await listSessions(this.#folder());
    return found.flatMap((info) => ('error' in info ? [] : [{
      id: basename(info.directory),
      tokens: info.tokens,
      bytes: info.diskBytes,
      lastUse: Math.floor(info.lastUse.getTime() / 1000),
    }]));
  }

  /** Removes the session and its folder. Throws SESSION_NOT_FOUND, or SESSION_BUSY while a request uses it. */
  remove(name: string): void {
    const directory = this.#claim(name);
    try {
      this.#idle.get(name)?.[Symbol.dispose]();
      this.#idle.delete(name);
      removeSession(directory);
    } finally {
      this.#busy.delete(name);
    }
  }

  /** Checkpoints and closes all. */
  async close(): Promise<void> {
    for (const session of this.#idle.values()) {
      await session.checkpoint();
      session[Symbol.dispose]();
    }
    this.#idle.clear();
  }

  #release(name: string, session: Session, usable: boolean): void {
    this.#busy.delete(name);
    if (usable) this.#idle.set(name, session);
    else session[Symbol.dispose]();
    const [oldest] = this.#idle;
    if (oldest === undefined || this.#idle.size <= KEPT_OPEN) return;
    // What it has was kept when its last request ended.
    oldest[1][Symbol.dispose]();
    this.#idle.delete(oldest[0]);
  }

  #claim(name: string): string {
    const folder = this.#folder();
    if (!sessionName.test(name)) {
      throw new MagicpigError('INVALID_OPTION', 'session_id must be 1 to 64 letters, digits, hyphens or underscores, the first a letter or digit');
    }
    if (this.#busy.has(name)) throw new MagicpigError('SESSION_BUSY', 'another request is using the session; wait for it, or take another session');
    this.#busy.set(name, undefined);
    return join(folder, name);
  }

  #folder(): string {
    const { directory } = this.#options;
    if (directory === undefined) throw new MagicpigError('INVALID_OPTION', 'session_id is given, and this server keeps no sessions: it was started without --sessions-dir');
    return directory;
  }

  async #open(directory: string): Promise<Session> {
    try {
      return await this.#model.openSession(directory, { create: false });
    } catch (error) {
      if (!MagicpigError.isInstance(error) || error.code !== 'SESSION_NOT_FOUND') throw error;
    }
    const { limit, session } = this.#options;
    const there = await readdir(this.#folder());
    if (there.length >= limit) {
      throw new MagicpigError('INVALID_OPTION', `session_id names a new session, and there are ${limit} already, as many as this server keeps; remove one first`);
    }
    return await this.#model.openSession(directory, session);
  }
}
