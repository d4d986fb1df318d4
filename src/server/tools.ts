import { randomUUID } from 'node:crypto';
import type { Tool } from './engine/protocol.js';
import { ApiError } from './errors.js';

/** A call that the model has written. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** The arguments as JSON. */
  readonly arguments: string;
}

export type ToolChoice = 'none' | 'auto' | 'required' | { readonly name: string };

const begin = '<tool_call>';
const end = '</tool_call>';

/** Which tools the model is told of, and what its text is held to, by `tool_choice`. Throws 400 for a choice that is no tool. */
export function toolRequest(tools: readonly Tool[], choice: ToolChoice, schema: object | undefined): { tools: readonly Tool[]; schema: object | undefined; reader: ToolCallReader | undefined } {
  if (choice === 'none' || (choice === 'auto' && tools.length === 0)) return { tools: [], schema, reader: undefined };
  if (schema !== undefined) throw new ApiError(400, 'unsupported_combination', 'a text cannot both be held to a schema and call tools; set tool_choice to "none"', { param: 'tool_choice' });
  const reader = new ToolCallReader(tools.map(({ name }) => name));
  if (choice === 'auto') return { tools, schema, reader };
  const wanted = choice === 'required' ? tools : tools.filter(({ name }) => name === choice.name);
  if (wanted.length === 0) throw new ApiError(400, 'unknown_tool', 'tool_choice asks for a tool that tools does not have', { param: 'tool_choice' });
  return { tools, schema: callSchema(wanted), reader };
}

/** A call of one of the tools, as JSON. */
function callSchema(tools: readonly Tool[]): object {
  const calls = tools.map(({ name, parameters }) => ({
    type: 'object',
    properties: { name: { const: name }, arguments: parameters === undefined || Object.keys(parameters).length === 0 ? { type: 'object' } : parameters },
    required: ['name', 'arguments'],
    additionalProperties: false,
  }));
  const [only] = calls;
  return calls.length === 1 && only !== undefined ? only : { anyOf: calls };
}

/**
 * Finds calls in text as it comes: JSON between <tool_call> tags, as most models write them, or a text that is nothing but
 * such JSON. What may be a call is held back until it is seen to be none.
 */
export class ToolCallReader {
  readonly #names: readonly string[];
  #held = '';
  #shown = false;

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** The text that may be shown now. */
  push(text: string): string {
    const all = this.#held + text;
    const wholeIsJson = !this.#shown && (all.trimStart() === '' || all.trimStart().startsWith('{'));
    const at = wholeIsJson ? 0 : beginning(all);
    this.#held = all.slice(at);
    this.#shown ||= at > 0;
    return all.slice(0, at);
  }

  /** When nothing more comes: what is to be shown after all, and the calls. */
  end(): { text: string; calls: ToolCall[] } {
    const all = this.#held;
    this.#held = '';
    const sources = all.trimStart().startsWith(begin) ? all.split(begin).slice(1).map((part) => part.split(end)[0] ?? '') : [all];
    const calls = sources.map((source) => this.#call(source));
    return calls.length === 0 || calls.includes(undefined) ? { text: all, calls: [] } : { text: '', calls: calls.filter((call) => call !== undefined) };
  }

  /** Llama's models call the arguments parameters. */
  #call(source: string): ToolCall | undefined {
    try {
      const { name, arguments: values, parameters = {} } = JSON.parse(source) as { name?: unknown; arguments?: unknown; parameters?: unknown };
      if (typeof name !== 'string' || !this.#names.includes(name)) return undefined;
      return { id: `call_${randomUUID().replaceAll('-', '')}`, name, arguments: JSON.stringify(values ?? parameters) };
    } catch {
      return undefined;
    }
  }
}

/** Where a tag begins, or might with what comes next. */
function beginning(text: string): number {
  const found = text.indexOf(begin);
  if (found >= 0) return found;
  for (let length = Math.min(text.length, begin.length - 1); length > 0; length -= 1) {
    if (text.endsWith(begin.slice(0, length))) return text.length - length;
  }
  return text.length;
}
