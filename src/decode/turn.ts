import { MagicpigError } from '../errors.js';
import type { ChatMessage } from '../model/template.js';
import type { Model } from './model.js';

/** What is said in one turn of a conversation. */
export interface Turn {
  readonly message: string;
  /** Texts to speak of, before the message, as tokens of {@link documentTokens}. */
  readonly documents?: readonly (readonly number[])[];
  /** What the model is told at the beginning of a conversation. Only its first turn has one. */
  readonly system?: string | undefined;
}

/** Stand for texts while the template is rendered: private-use characters, which no template looks for or trims. */
const MESSAGE = '\uE000message\uE001';
const ANSWER = '\uE000answer\uE001';

/** The tokens that begin a conversation, up to where the assistant begins to speak. Throws TEMPLATE_FAILED. */
export function firstTurn(model: Model, turn: Turn): number[] {
  const system: ChatMessage[] = turn.system === undefined ? [] : [{ role: 'system', content: turn.system }];
  const text = model.renderChat([...system, { role: 'user', content: MESSAGE }]);
  return turnTokens(model, text, turn, true);
}

/**
 * The tokens that a turn appends to a conversation whose last token is `last`: what the template puts between an answer and
 * the next message, the message, and what leads to the next answer. So nothing that was said is rendered, encoded or read
 * again. An answer that was cut short is closed first.
 *
 * Throws TEMPLATE_FAILED.
 */
export function nextTurn(model: Model, last: number | undefined, turn: Turn): number[] {
  const text = model.renderChat([
    { role: 'user', content: 'a' },
    { role: 'assistant', content: ANSWER },
    { role: 'user', content: MESSAGE },
  ]);
  const answer = text.lastIndexOf(ANSWER);
  if (answer < 0) throw altered();
  const tokens = turnTokens(model, text.slice(answer + ANSWER.length), turn, false);
  const { endTokens } = model.tokenizer;
  if (last === undefined || !endTokens.includes(last)) return tokens;
  return tokens.slice(1 + tokens.findIndex((token) => endTokens.includes(token)));
}

/** A document's tokens, under its name. What looks like a special token in it is text. */
export function documentTokens(model: Model, name: string, text: string): number[] {
  return model.tokenizer.encode(`${name}:\n\n${text.trim()}`, { addBos: false });
}

/**
 * Tokens of a rendered text with the turn in the place of its message. Special tokens are the template's alone: whoever types
 * `<|im_end|>` has typed a text. Between special tokens, template and message are encoded together, as they would be in training.
 */
function turnTokens(model: Model, text: string, { message, documents = [] }: Turn, first: boolean): number[] {
  const { tokenizer } = model;
  const at = text.lastIndexOf(MESSAGE);
  if (at < 0) throw altered();
  const [before, after] = [text.slice(0, at), text.slice(at + MESSAGE.length)];
  const specials = (part: string) => tokenizer.encode(part, { parseSpecial: true, addBos: false }).filter((id) => tokenizer.isSpecial(id));
  const spelling = (id: number | undefined) => (id === undefined ? '' : (tokenizer.tokenText(id) ?? ''));
  const [last, next] = [spelling(specials(before).at(-1)), spelling(specials(after)[0])];
  const begin = last === '' ? 0 : before.lastIndexOf(last) + last.length;
  const end = next === '' ? after.length : after.indexOf(next);
  const plain = (part: string) => tokenizer.encode(part, { addBos: false });
  const said: number[] = [];
  let lead = before.slice(begin);
  for (const document of documents) {
    said.push(...plain(lead));
    // A document may have more tokens than a call takes arguments.
    for (const token of document) said.push(token);
    lead = '\n\n';
  }
  return [
    ...tokenizer.encode(before.slice(0, begin), { parseSpecial: true, ...(!first && { addBos: false }) }),
    ...said,
    ...plain(lead + message + after.slice(0, end)),
    ...tokenizer.encode(after.slice(end), { parseSpecial: true, addBos: false }),
  ];
}

function altered(): MagicpigError {
  return new MagicpigError('TEMPLATE_FAILED', 'the chat template does not show messages as they are; give the model a text with generate');
}
