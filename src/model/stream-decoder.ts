/** What stands for bytes that are not, or not yet, a character. */
const replacement = '\uFFFD';

/**
 * Turns tokens into text as they come. A token may hold a part of a character only, so the end of the text waits while
 * it is not a whole character. Decoding starts again from the last token before the text that waits, because some
 * decoders treat the first token otherwise (SentencePiece's drops its leading space).
 */
export class StreamDecoder {
  readonly #decode: (ids: readonly number[]) => string;
  /** The last token whose text is out whole, if it has any. */
  #context: number[] = [];
  #pending: number[] = [];
  /** Characters that the decoding of context and pending begins with and that are out already. */
  #emitted = 0;

  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode;
  }

  /** The text that this token completes; empty while a character is incomplete. */
  push(id: number): string {
    this.#pending.push(id);
    const text = this.#decode([...this.#context, ...this.#pending]);
    // At most the last character is incomplete: decoding replaces a longest incomplete sequence by one mark.
    const complete = !text.endsWith(replacement);
    const stable = complete ? text.length : text.length - 1;
    const fresh = text.slice(this.#emitted, stable);
    this.#emitted = Math.max(this.#emitted, stable);
    if (complete && fresh !== '') {
      this.#context = [id];
      this.#pending = [];
      this.#emitted = this.#decode(this.#context).length;
    }
    return fresh;
  }

  /** What still waits: a mark for each incomplete character. The decoder is then as new. */
  end(): string {
    const text = this.#decode([...this.#context, ...this.#pending]).slice(this.#emitted);
    this.#context = [];
    this.#pending = [];
    this.#emitted = 0;
    return text;
  }
}
