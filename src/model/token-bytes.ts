import type { TokenizerSource } from './types.js';

interface Described {
  readonly model: { readonly vocab: Readonly<Record<string, number>> };
  readonly added_tokens: readonly { readonly id: number; readonly content: string; readonly special?: boolean }[];
  readonly decoder?: unknown;
}

/** Letters in which byte-level BPE spells bytes (GPT-2's): printable ones stand for themselves, the others follow from 256 on. */
const byteOfLetter: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 256;
  return new Map(Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(printable(byte) ? byte : next++), byte]));
})();

/**
 * The bytes that each token adds to a text, by id; none for special tokens and for ids without a token. A token may hold a
 * part of a character only.
 */
export function tokenBytes(source: TokenizerSource, vocabSize: number): Uint8Array[] {
  const { model, added_tokens: added, decoder } = source.tokenizerJson as Described;
  const spelled = JSON.stringify(decoder ?? null).includes('"ByteLevel"') ? byteLevel : sentencePiece;
  const tokens = Array.from({ length: vocabSize }, () => new Uint8Array());
  for (const [text, id] of Object.entries(model.vocab)) tokens[id] = spelled(text);
  for (const { id, content, special } of added) tokens[id] = special === true ? new Uint8Array() : new TextEncoder().encode(content);
  return tokens;
}

function byteLevel(text: string): Uint8Array<ArrayBuffer> {
  const bytes = Array.from(text, (letter) => byteOfLetter.get(letter));
  // A letter that stands for no byte is in tokens that were added by hand: they are written as they are.
  return bytes.includes(undefined) ? new TextEncoder().encode(text) : Uint8Array.from(bytes as number[]);
}

function sentencePiece(text: string): Uint8Array<ArrayBuffer> {
  const [, byte] = /^<0x([0-9A-Fa-f]{2})>$/.exec(text) ?? [];
  return byte === undefined ? new TextEncoder().encode(text.replaceAll('▁', ' ')) : Uint8Array.of(Number.parseInt(byte, 16));
}
