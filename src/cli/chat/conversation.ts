import type { Model, OpenSessionOptions } from '../../decode/model.js';
import { type PolicyOptions, policyFrom, policyOptionsOf } from '../../decode/options.js';
import type { GenerateOptions, Session, SessionStats } from '../../decode/session.js';
import { withKept } from '../../decode/sessions.js';
import { firstTurn, nextTurn } from '../../decode/turn.js';
import { MagicpigError } from '../../errors.js';
import { count } from '../format.js';
import { type Document, includes, readDocument } from './document.js';

export interface ConversationOptions {
  readonly model: Model;
  /** What a new session is made with; what is left open is a kept one's own. */
  readonly session: Pick<OpenSessionOptions, 'rows'> & PolicyOptions;
  readonly generate: GenerateOptions & { readonly seed: number };
  readonly system: string | undefined;
}

export interface SayOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: { done: number; total: number }) => void;
  readonly onText: (text: string) => void;
}

/** A session that is talked to: every turn appends its own tokens to what is there, and nothing is read twice. */
export class Conversation implements Disposable {
  readonly #options: ConversationOptions;
  #session: Session;
  /** The folder that keeps it, if one does. */
  #directory: string | undefined;
  #policy: PolicyOptions;
  #attached: Document[] = [];
  #turns = 0;

  private constructor(options: ConversationOptions, session: Session, directory: string | undefined) {
    this.#options = options;
    this.#policy = options.session;
    this.#session = session;
    this.#directory = directory;
  }

  /** The conversation in a folder, made there if there is none; without one, a new one that is forgotten at the end. */
  static async begin(options: ConversationOptions, directory: string | undefined): Promise<Conversation> {
    const { model, session, generate, system } = options;
    // A model that cannot talk says so before anything is typed.
    firstTurn(model, { message: 'a', system });
    if (directory !== undefined) return new Conversation(options, await model.openSession(directory, session), directory);
    return new Conversation(options, model.createSession({ ...session, seed: generate.seed }), undefined);
  }

  get tokens(): readonly number[] {
    return this.#session.tokens;
  }

  get directory(): string | undefined {
    return this.#directory;
  }

  /** Of the last turn. */
  stats(): SessionStats {
    return this.#session.stats();
  }

  /** Reads what is new of the turn and answers. What was read stays when the answer is stopped. */
  async say(message: string, { signal, onProgress, onText }: SayOptions): Promise<string> {
    const { model, generate, system } = this.#options;
    const { tokens } = this.#session;
    const turn = { message, documents: this.#attached.map((document) => document.tokens) };
    const added = tokens.length === 0 ? firstTurn(model, { ...turn, system }) : nextTurn(model, tokens.at(-1), turn);
    this.#session.resetStats();
    await this.#session.prefill(added, { signal, onProgress });
    this.#attached = [];
    this.#turns += 1;
    const pieces: string[] = [];
    // Each answer has draws of its own.
    const seed = (generate.seed + this.#turns - 1) % 2 ** 32;
    for await (const { text } of this.#session.generate({ ...generate, seed, signal })) {
      pieces.push(text);
      onText(text);
    }
    return pieces.join('');
  }

  /**
   * Has the next message speak of the document in a file; its tokens, and whether the conversation has it already. Throws
   * CONTEXT_EXCEEDED and what reading it throws.
   */
  async attach(path: string): Promise<{ name: string; tokens: number; there: boolean }> {
    const { model } = this.#options;
    const document = await readDocument(model, path);
    const { name, tokens } = document;
    const { tokens: conversation } = this.#session;
    const waiting = this.#attached.reduce((sum, attached) => sum + attached.tokens.length, 0);
    const there = includes(conversation, document) || this.#attached.some((attached) => includes(attached.tokens, document));
    if (!there) {
      const used = conversation.length + waiting;
      if (used + tokens.length >= model.context) {
        throw new MagicpigError(
          'CONTEXT_EXCEEDED',
          `${name} has ${count(tokens.length)} tokens, and of a context of ${count(model.context)} tokens only ${count(model.context - used)} are free; ${used > 0 ? '/reset frees it, ' : ''}attach a part of it, or take a --model with a longer context`,
        );
      }
      this.#attached.push(document);
    }
    return { name, tokens: tokens.length, there };
  }

  /** Keeps the conversation as it is now in a new folder. */
  async save(directory: string): Promise<void> {
    await this.#session.fork(directory);
  }

  /** Goes on with the conversation in a folder. If that fails, this one goes on. */
  async load(directory: string): Promise<void> {
    const session = await this.#options.model.openSession(directory, { create: false });
    this.#session.dispose();
    this.#session = session;
    this.#directory = directory;
    this.#policy = {};
    this.#attached = [];
  }

  /** Another policy from now on. A folder's index stays as it was made. */
  setPolicy(policy: PolicyOptions): void {
    // A budget, or a policy that has none, takes the place of an error that was asked for.
    const chosen = { ...this.#policy, targetError: undefined, epsilon: undefined, delta: undefined, ...policy };
    const whole = this.#directory === undefined ? chosen : withKept(this.#directory, chosen);
    policyFrom(whole);
    this.#session.setPolicy(policyOptionsOf(whole));
    this.#policy = chosen;
  }

  /** Forgets everything that was said, also in the folder. */
  async reset(): Promise<void> {
    this.#session.rewind(0);
    this.#session.resetStats();
    this.#attached = [];
    if (this.#directory !== undefined) await this.#session.checkpoint();
  }

  [Symbol.dispose](): void {
    this.#session.dispose();
  }
}
