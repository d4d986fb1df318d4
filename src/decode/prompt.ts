import { MagicpigError } from '../errors.js';
import type { ChatMessage } from '../model/template.js';
import { nameOf, nameShown, shown } from '../shown.js';

export type Prompt = string | readonly number[] | readonly ChatMessage[];

/** Refuses what is no prompt, before a template or tokenizer stumbles over it. Throws INVALID_OPTION. */
export function checkPrompt(prompt: Prompt): void {
  // JavaScript lets anything through.
  const given: unknown = prompt;
  if (typeof given === 'string') return;
  if (!Array.isArray(given)) throw invalid(`the prompt is ${noPrompt(given)}`);
  const parts: readonly unknown[] = given;
  if (isTokens(parts)) return;
  for (const [index, message] of parts.entries()) checkMessage(`message ${index}`, message);
}

export function isTokens(prompt: readonly unknown[]): prompt is readonly number[] {
  return prompt.every((part) => typeof part === 'number');
}

/** What it is, and what to do about it. */
function noPrompt(given: unknown): string {
  const what = shown(given);
  if (Buffer.isBuffer(given)) return `${what}; give its text, by toString()`;
  if (given instanceof Uint8Array) return `${what}; give its text, by new TextDecoder().decode(), or token ids, by Array.from()`;
  if (ArrayBuffer.isView(given)) return `${what}; give its token ids, by Array.from()`;
  if (given instanceof Promise) return `${what}; give what it comes to, by await`;
  if (isObject(given) && ('role' in given || 'content' in given)) return 'one message; give a list of them';
  return `${what}; it must be a text, token ids or chat messages`;
}

/** Templates look into content of parts, and show a message that calls tools without any. */
function checkMessage(name: string, message: unknown): void {
  if (!isObject(message) || Array.isArray(message)) throw invalid(`${name} is ${shown(message)}; it must have a role and content, as in { role: 'user', content: 'hello' }`);
  const { role, content, tool_calls: calls } = message;
  if (role === undefined) throw invalid(`${name} has no role${instead(message)}`);
  if (typeof role !== 'string') throw invalid(`the role of ${name} is ${shown(role)}; it must be a text, such as "user"`);
  if (content === undefined || content === null) {
    if (Array.isArray(calls) && calls.length > 0) return;
    throw invalid(`${name} has no content${instead(message)}`);
  }
  if (typeof content !== 'string' && (!isObject(content) || nameOf(content) !== 'object' && !Array.isArray(content))) {
    throw invalid(`the content of ${name} is ${shown(content)}; it must be a text`);
  }
}

function instead(message: Record<string, unknown>): string {
  const names = Object.keys(message).slice(0, 8).map(nameShown);
  return names.length === 0 ? '' : `; it has ${names.join(', ')}`;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function invalid(message: string): MagicpigError {
  return new MagicpigError('INVALID_OPTION', message);
}
