import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { faithfulPreTokenizer } from './pre-tokenizers.js';

/** The largest in use (Gemma 3's) has 33 MB. */
export const maxTokenizerBytes = 128 * 2 ** 20;

/**
 * The tokenizer.json in the folder of a model file, or undefined where there is none, it is no JSON of that kind, or it
 * names other tokens than the model: a folder may hold several models and the tokenizer of one of them.
 */
export async function readSiblingTokenizer(modelPath: string, tokens: readonly string[]): Promise<object | undefined> {
  const path = join(dirname(modelPath), 'tokenizer.json');
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || found.size > maxTokenizerBytes) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch {
    return undefined;
  }
  if (!isTokenizer(json) || !namesSameTokens(json, tokens)) return undefined;
  return usableTokenizer(json);
}

/** A tokenizer.json as @huggingface/tokenizers reads it rightly; what comes before a text is this package's to say. */
export function usableTokenizer(json: TokenizerJson): object {
  return { normalizer: null, decoder: null, ...json, post_processor: null, pre_tokenizer: faithfulPreTokenizer(json.pre_tokenizer ?? null) };
}

export interface TokenizerJson {
  readonly model: { readonly vocab: Readonly<Record<string, number>> };
  readonly added_tokens: readonly { readonly id: number; readonly content: string }[];
  readonly pre_tokenizer?: unknown;
}

export function isTokenizer(json: unknown): json is TokenizerJson {
  const { model, added_tokens: added } = (json ?? {}) as Partial<TokenizerJson>;
  return typeof model === 'object' && typeof model.vocab === 'object' && !Array.isArray(model.vocab) && Array.isArray(added);
}

function namesSameTokens(json: TokenizerJson, tokens: readonly string[]): boolean {
  const entries = Object.entries(json.model.vocab);
  return (
    entries.length > 0 && entries.every(([text, id]) => tokens[id] === text) && json.added_tokens.every(({ id, content }) => tokens[id] === content)
  );
}
