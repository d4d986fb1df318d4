import { MagicpigError } from '../errors.js';
import { endTokenTexts } from './gguf-tokenizer.js';
import { quoted } from './gguf-metadata.js';
import { HubKeys } from './hub-keys.js';
import { isObject } from './json-file.js';
import type { JsonObject } from './json-file.js';
import { isTokenizer, usableTokenizer } from './tokenizer-json.js';
import type { TokenizerJson } from './tokenizer-json.js';
import type { TokenizerSource } from './types.js';

/** What a folder of the hub says of a model's texts, as JSON; only the first has to be there. */
export interface TokenizerFiles {
  readonly tokenizer: HubKeys;
  readonly tokenizerConfig: HubKeys;
  readonly generationConfig: HubKeys;
  readonly config: HubKeys;
}

type AddedToken = TokenizerJson['added_tokens'][number] & { readonly special?: boolean };

/**
 * The tokenizer of a folder of the hub. A text ends with what generation_config.json, config.json or tokenizer_config.json name, and
 * with control tokens that are known to end texts.
 *
 * Throws UNSUPPORTED_TOKENIZER naming the path and what is wrong.
 */
export function hubTokenizer(files: TokenizerFiles, vocabSize: number): TokenizerSource {
  const { path, values: json } = files.tokenizer;
  const refused = (what: string) => new MagicpigError('UNSUPPORTED_TOKENIZER', `${path} cannot be used: ${what}`);
  if (!isTokenizer(json)) throw refused('it has no model with a vocabulary, or no added_tokens');
  const { type } = json.model as { type?: unknown };
  if (type !== undefined && type !== 'BPE') throw refused(`its model is ${typeof type === 'string' ? quoted(type) : 'of no type'}; magicpig reads BPE`);
  if (!Array.isArray((json.model as { merges?: unknown }).merges)) throw refused('its model has no merges');
  const ids = tokenIds(json, vocabSize, refused);

  // Tokens that the model has no embedding for (of images, in a model that only reads) cannot be in a text of it.
  const added = json.added_tokens.filter(({ id }) => id < vocabSize) as readonly AddedToken[];
  const spelled = (key: string) => ids.get(tokenText(files.tokenizerConfig.values[key]) ?? '');
  const ends = [
    spelled('eos_token'),
    ...[files.generationConfig, files.config].flatMap(({ values }) => idsOf(values.eos_token_id)),
    ...added.filter(({ content, special }) => special === true && endTokenTexts.has(content)).map(({ id }) => id),
  ].filter((id) => id !== undefined && id < vocabSize) as number[];
  const bosToken = files.tokenizerConfig.present('bos_token') ? spelled('bos_token') : idsOf(files.config.values.bos_token_id).find((id) => id < vocabSize);
  return {
    tokenizerJson: usableTokenizer({ ...json, added_tokens: added }),
    tokenizerConfig: { clean_up_tokenization_spaces: false },
    bosToken,
    endTokens: [...new Set(ends)],
    addBosToken: bosToken !== undefined && addsBos(files, json, bosToken),
  };
}

/** The ids of all tokens, which have to be the model's: the library makes a list as long as the greatest. */
function tokenIds(json: TokenizerJson, vocabSize: number, refused: (what: string) => MagicpigError): ReadonlyMap<string, number> {
  const ids = new Map<string, number>();
  for (const [text, id] of Object.entries(json.model.vocab as JsonObject)) {
    if (!isId(id) || id >= vocabSize) throw refused(`the token ${quoted(text)} has the id ${String(id)} in a vocabulary of ${vocabSize}`);
    ids.set(text, id);
  }
  for (const token of json.added_tokens as readonly unknown[]) {
    if (!isObject(token) || !isId(token.id) || typeof token.content !== 'string') throw refused('an added token has no id or no content');
    ids.set(token.content, token.id);
  }
  return ids;
}

/** Whether the tokenizer sets the token before a text: its template says so, or its configuration where it has none. */
function addsBos({ tokenizerConfig }: TokenizerFiles, json: TokenizerJson & { post_processor?: unknown }, bosToken: number): boolean {
  const { add_bos_token: configured } = tokenizerConfig.values;
  if (typeof configured === 'boolean') return configured;
  const { post_processor: processor } = json;
  const templates = (isObject(processor) && Array.isArray(processor.processors) ? (processor.processors as unknown[]) : [processor]).filter(isObject);
  return templates.some(({ type, single }) => {
    const first: unknown = type === 'TemplateProcessing' && Array.isArray(single) ? single[0] : undefined;
    const text = isObject(first) && isObject(first.SpecialToken) ? first.SpecialToken.id : undefined;
    return json.added_tokens.some(({ id, content }) => id === bosToken && content === text);
  });
}

/** A token as tokenizer_config.json spells it: a text, or an object with one. */
function tokenText(token: unknown): string | undefined {
  const text = isObject(token) ? token.content : token;
  return typeof text === 'string' ? text : undefined;
}

function idsOf(value: unknown): number[] {
  return (Array.isArray(value) ? (value as unknown[]) : [value]).filter(isId);
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The chat template of tokenizer_config.json: the only one, or that which is called "default". */
export function configuredTemplate({ values: { chat_template: template } }: HubKeys): string | undefined {
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return undefined;
  const templates = (template as unknown[]).filter(isObject);
  const chosen = (templates.find(({ name }) => name === 'default') ?? templates[0])?.template;
  return typeof chosen === 'string' ? chosen : undefined;
}
