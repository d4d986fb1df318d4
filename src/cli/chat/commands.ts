import { MagicpigError } from '../../errors.js';
import { table } from '../format.js';

/** What can be typed in a chat besides messages: arguments, and what it does. */
const commands = {
  help: ['', 'list these commands'],
  file: ['PATH', 'attach a document, which is read with the next message'],
  save: ['DIR', 'keep the conversation, as it is now, in a new folder'],
  load: ['DIR', 'go on with the conversation in a folder, which keeps what follows too'],
  stats: ['', 'figures of the conversation and of the last answer'],
  policy: ['[NAME [BUDGET]]', 'how attention is computed from now on'],
  reset: ['', 'forget what was said and begin anew'],
  exit: ['', 'end; Ctrl-D does it too'],
} as const satisfies Record<string, readonly [takes: string, does: string]>;

export interface Command {
  readonly name: keyof typeof commands;
  /** The one argument that the command needs, spaces and all; empty where it needs none. */
  readonly argument: string;
}

/** The command on a line, or undefined where it is a message. Throws INVALID_OPTION. */
export function commandFrom(line: string): Command | undefined {
  const [, word, rest = ''] = /^\/(\S*)\s*([^]*)$/.exec(line) ?? [];
  if (word === undefined) return undefined;
  const name = Object.keys(commands).find((known): known is Command['name'] => known === word);
  if (name === undefined) {
    throw new MagicpigError('INVALID_OPTION', `there is no /${word}; /help lists the commands, and a space before it makes it a message`);
  }
  const [takes] = commands[name];
  const argument = rest.trim();
  if (takes === '' && argument !== '') throw new MagicpigError('INVALID_OPTION', `/${name} takes nothing after it`);
  if (/^[A-Z]/.test(takes) && argument === '') throw new MagicpigError('INVALID_OPTION', `/${name} needs ${takes}`);
  return { name, argument };
}

export const help = [
  table(Object.entries(commands).map(([name, [takes, does]]) => [`/${name} ${takes}`.trim(), does])),
  'A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.',
].join('\n');
