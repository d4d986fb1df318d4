import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Model } from '../../decode/model.js';
import { documentTokens } from '../../decode/turn.js';
import { MagicpigError } from '../../errors.js';
import { fileError } from '../../model/file-error.js';
import { bytes, count } from '../format.js';
import { readTextFile } from '../text-file.js';

/** No text has more bytes a token than this, on average: what is larger does not fit, and need not be read to know it. */
const BYTES_PER_TOKEN = 64;
/** Of English, as most tokenizers make them. */
const ENGLISH_BYTES_PER_TOKEN = 4;

export interface Document {
  readonly name: string;
  readonly tokens: readonly number[];
}

/** The document in a file. Throws FILE_NOT_FOUND, FILE_UNREADABLE, EMPTY_PROMPT or CONTEXT_EXCEEDED. */
export async function readDocument(model: Model, path: string): Promise<Document> {
  const name = basename(path);
  const { size } = await stat(path).catch((error: unknown) => { throw fileError(error, path); });
  if (size > BYTES_PER_TOKEN * model.context) {
    throw new MagicpigError('CONTEXT_EXCEEDED', `${name} has ${bytes(size)}, far more than the model's context of ${count(model.context)} tokens can hold, which in English is some ${bytes(ENGLISH_BYTES_PER_TOKEN * model.context)}; attach a part of it, or take a --model with a longer context`);
  }
  const text = await readTextFile(path);
  if (text.trim() === '') throw new MagicpigError('EMPTY_PROMPT', `${path} is empty`);
  return { name, tokens: documentTokens(model, name, text) };
}

/** Whether the document is in a conversation already. */
export function includes(conversation: readonly number[], { tokens }: Document): boolean {
  const [first] = tokens;
  for (let at = conversation.indexOf(first as number); at >= 0; at = conversation.indexOf(first as number, at + 1)) {
    if (tokens.every((token, position) => conversation[at + position] === token)) return true;
  }
  return false;
}
