import { Script, createContext } from 'node:vm';
import { Template } from '@huggingface/jinja';
import { MagicpigError } from '../errors.js';
import { errorCode } from './file-error.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

export interface ChatTemplateOptions {
  /** How the model spells its beginning and end of text; templates write them out. */
  readonly bosToken?: string;
  readonly eosToken?: string;
  /** Whether the text ends where the assistant begins to speak. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** What else the template may name (`enable_thinking`, `tools`, `date_string`). */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A template is a program out of a downloaded file. Real ones take a few milliseconds. */
const timeLimitMs = 1000;

/**
 * Milliseconds of the processor's time that the process has used when a template ran out of time, or it was the machine that stood still. Other threads'
 * time is among it: beside a busy one a template has its one try.
 */
const busyMs = 100;

/** `range` makes an array before anything runs over it, so its length is bounded, not only its time. */
const maxRangeLength = 1 << 16;

/**
 * Renders a model's chat template (Jinja, as in Hugging Face's tokenizer_config.json). Encode the result with
 * `parseSpecial: true`. Blocks the thread for at most a second, or two where the machine stands still in the first.
 *
 * Throws TEMPLATE_FAILED with the template's own message where it raises one, and when it takes too long.
 */
export function renderChat(template: string, messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
  const variables = {
    ...options.variables,
    messages,
    bos_token: options.bosToken ?? '',
    eos_token: options.eosToken ?? '',
    add_generation_prompt: options.addGenerationPrompt ?? true,
    bounded_range: boundedRange,
  };
  try {
    return withinTime(() => parse(template).render(variables));
  } catch (error) {
    const reason = ranOutOfTime(error) ? `it ran for more than ${timeLimitMs} ms` : oneLine(error);
    throw new MagicpigError('TEMPLATE_FAILED', `the chat template failed: ${reason}`, { cause: error });
  }
}

/** The library does not let a variable replace its own `range`, but a template may. */
function parse(template: string): Template {
  const whole = new Template(template);
  statements(whole).unshift(...statements(new Template('{% set range = bounded_range %}')));
  return whole;
}

/** The library's own types do not resolve as far as this under Node's module rules. */
function statements(template: Template): unknown[] {
  return (template.parsed as { body: unknown[] }).body;
}

/**
 * The only way to stop a function that does not return: V8 ends what a vm script runs, also outside its context. The context is made
 * once: each has some hundred kilobytes of V8's old generation, which is collected seldom.
 */
const limited: { work: () => unknown } = { work: () => undefined };
const context = createContext(limited);
const call = new Script('work()');

function withinTime<T>(work: () => T): T {
  const before = process.cpuUsage();
  try {
    return limitedCall(work);
  } catch (error) {
    const { user, system } = process.cpuUsage(before);
    if (!ranOutOfTime(error) || (user + system) / 1000 >= busyMs) throw error;
    // The limit is of wall time, which passes too while other programs have the processor.
    return limitedCall(work);
  }
}

function limitedCall<T>(work: () => T): T {
  limited.work = work;
  try {
    return call.runInContext(context, { timeout: timeLimitMs }) as T;
  } finally {
    limited.work = () => undefined;
  }
}

function ranOutOfTime(error: unknown): boolean {
  return errorCode(error) === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
}

function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= maxRangeLength)) throw new Error(`range() of more than ${maxRangeLength} numbers`);
  return Array.from({ length }, (_, i) => from + i * step);
}

function oneLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const line = message.replace(/\s+/g, ' ').trim();
  return line.length > 300 ? `${line.slice(0, 300)}...` : line;
}
