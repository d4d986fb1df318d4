#!/usr/bin/env node
import { existsSync, readFileSync } from 'node:fs';
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { MagicpigError } from '../errors.js';
import { bench } from './bench.js';
import { chat } from './chat.js';
import { doctor } from './doctor.js';
import { evaluate } from './eval.js';
import { generate } from './generate.js';
import { inspect } from './inspect.js';
import { pull } from './pull.js';
import { serve } from './serve.js';
import { sessions } from './sessions.js';
import { Terminal } from './terminal.js';
import { tune } from './tune.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

/** Options that may be given several times, whatever the command. */
const lists = new Set(['stop', 'file', 'cors-origin', 'allowed-host']);

/** Commands that have commands of their own. */
const groups = new Set(['bench', 'sessions', 'eval']);

const words = hideBin(process.argv);
const terminal = new Terminal(words.includes('--json'));

const parser = yargs(words)
  .scriptName('magicpig')
  .usage('$0 <command>\n\nLong-context language models with sampled attention. The first use downloads a small model, 98 MB.')
  .command(generate(terminal))
  .command(chat(terminal))
  .command(pull(terminal))
  .command(inspect(terminal))
  .command(doctor(terminal))
  .command(bench(terminal))
  .command(serve(terminal))
  .command(sessions(terminal))
  .command(evaluate(terminal))
  .command(tune(terminal))
  .option('json', { type: 'boolean', default: false, describe: 'Print exactly one JSON object' })
  .demandCommand(1, 'no command was given; magicpig --help lists them')
  .check((args) => checkValues(args))
  .strict()
  .example('$0 chat -f notes.md', 'ask about a document')
  .example('$0 generate -f notes.md', 'continue a text')
  .example('$0 serve', 'the same in a browser, and for programs')
  .wrap(Math.min(110, process.stdout.columns || 110))
  .version(version)
  .alias({ help: 'h', version: 'v' })
  .exitProcess(false)
  .fail((message: string | null, error: Error | undefined) => {
    throw error ?? usage(complaint((message ?? 'the arguments are wrong').replace(/\s*\n\s*/g, ' ').trim()));
  });

try {
  await parser.parseAsync();
} catch (cause) {
  process.exitCode = terminal.failure(named(asError(cause)));
}

/** yargs turns rubbish into NaN, and an option that is given twice into an array. */
function checkValues(args: Record<string, unknown>): true {
  for (const [name, value] of Object.entries(args)) {
    const option = `--${name}`;
    if (!words.some((word) => word === option || word.startsWith(`${option}=`))) continue;
    if (Number.isNaN(value)) throw usage(`${option} takes a number`);
    if (Array.isArray(value) && !repeatable(name, args)) throw usage(`${option} is given twice`);
    if (value === '' && name !== 'prompt') throw usage(`${option} is empty`);
  }
  return true;
}

/** Texts are several only where they are shown beside each other. */
function repeatable(name: string, { _: command }: Record<string, unknown>): boolean {
  return lists.has(name) || (name === 'text-file' && Array.isArray(command) && command[0] === 'eval');
}

/** What yargs found wrong, with what to type instead. */
function complaint(said: string): string {
  const command = words.slice(0, groups.has(words[0] ?? '') ? 2 : 1).filter((word) => !word.startsWith('-')).join(' ');
  if (said.startsWith('Not enough non-option arguments')) return `an argument is missing; magicpig ${command} --help shows which`;
  const [, name, given, choices] = /^Invalid values: Argument: ([^,]+), Given: (.*), Choices: (.*)$/.exec(said) ?? [];
  if (name !== undefined) return `--${name} is ${given}; it must be one of ${choices}`;
  const [, unknown] = /^Unknown arguments?: (.*)$/.exec(said) ?? [];
  if (unknown === undefined) return said;
  if (unknown === words[0]) return `there is no command ${unknown}; magicpig --help lists them`;
  if (groups.has(words[0] ?? '') && unknown === words[1]) return `${words[0]} has no command ${unknown}; magicpig ${words[0]} --help lists them`;
  // yargs names an option as it was typed and as a program would too.
  const found = unknown.split(', ');
  const names = found.filter((name) => !/[A-Z]/.test(name) || !found.includes(kebab(name)));
  const [first = ''] = names;
  if (words.includes(first)) return `${first} is given without an option before it${existsSync(first) ? `; a file is read with -f ${first}` : ''}; magicpig ${command} --help shows the options`;
  return `there is no option ${names.map((name) => (name.length === 1 ? `-${name}` : `--${name}`)).join(', ')}; magicpig ${command} --help shows those that there are`;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function usage(message: string): MagicpigError {
  return new MagicpigError('INVALID_OPTION', message);
}

function asError(cause: unknown): MagicpigError {
  if (MagicpigError.isInstance(cause)) return cause;
  // yargs' own complaints about arguments have a name of their own; what is left is a mistake in the program.
  if (cause instanceof Error && cause.name === 'YError') return usage(cause.message);
  return new MagicpigError('INTERNAL', `internal error: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
}

/** The package names options as programs do (`lshK`); who typed `--lsh-k` should read that. */
function named(error: MagicpigError): MagicpigError {
  const [, name] = /^([a-z]+(?:[A-Z]\w*)?) is /.exec(error.message) ?? [];
  if (error.code !== 'INVALID_OPTION' || name === undefined) return error;
  const option = `--${kebab(name)}`;
  return words.some((word) => word.startsWith(option)) ? usage(error.message.replace(name, option)) : error;
}
