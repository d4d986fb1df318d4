import type { NativeGrammar } from '../native.js';

/** Which tokens a text may go on with. Each generation has one of its own. */
export interface TokenConstraint {
  /** A bit for each token, 32 an element, lowest first: whether it may come next; undefined where the text is complete. */
  allowed(): Uint32Array | undefined;
  /** Takes the token that came, which was allowed. True where the text is complete with it. */
  push(token: number): boolean;
}

/** A text that is JSON of a schema. Dispose of it to free its grammar, which is otherwise done at some time. */
export class JsonConstraint implements TokenConstraint, Disposable {
  readonly #grammar: NativeGrammar;
  readonly #bits: Uint32Array;

  /** @internal */
  constructor(grammar: NativeGrammar, vocabSize: number) {
    this.#grammar = grammar;
    this.#bits = new Uint32Array(Math.ceil(vocabSize / 32));
  }

  allowed(): Uint32Array | undefined {
    return this.#grammar.allowed(this.#bits) ? this.#bits : undefined;
  }

  push(token: number): boolean {
    return this.#grammar.push(token);
  }

  [Symbol.dispose](): void {
    this.#grammar.dispose();
  }
}
