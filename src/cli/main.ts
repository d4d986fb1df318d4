#!/usr/bin/env node
import { existsSync, readFileSync } from 'node:fs';
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { MagicpigError } from '../errors.js';
import { bench } from './bench.js';
import { chat } from './chat.js';
import { doctor } from './doctor.js';
import { nearest } from './edit-distance.js';
import { evaluate } from './eval.js';
import { generate } from './generate.js';
import { inspect } from './inspect.js';
import { REF_HELP } from './model-option.js';
import { pull } from './pull.js';
import { serve } from './serve.js';
import { sessions } from './sessions.js';
import { Terminal } from './terminal.js';
import { tune } from './tune.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

const commands = ['generate', 'chat', 'pull', 'inspect', 'doctor', 'bench', 'serve', 'sessions', 'eval', 'tune'];

/** Commands that have commands of their own. */
const groups: Readonly<Record<string, readonly string[]>> = {
  bench: ['attention', 'decode'],
  sessions: ['ls', 'inspect', 'verify', 'export', 'import', 'rm'],
  eval: ['fidelity', 'ruler'],
};

/** What commands cannot do without. */
const needs: Readonly<Record<string, string>> = {
  pull: `a model: ${REF_HELP}`,
  inspect: `a model: ${REF_HELP}`,
  'sessions inspect': 'the folder of a session',
  'sessions verify': 'the folder of a session',
  'sessions rm': 'the folder of a session',
  'sessions export': 'the folder of a session and the file to pack it into, such as book.tar.zst',
  'sessions import': 'the file that export made and the folder to make of it',
  'eval fidelity': 'a text: -f FILE (--text-file FILE)',
};

/** What yargs knows of the options of a command; aliases are in all of the lists. */
interface Known {
  readonly array: readonly string[];
  readonly string: readonly string[];
  readonly number: readonly string[];
  readonly alias: Readonly<Record<string, readonly string[]>>;
}

const words = hideBin(process.argv);
/** The options among them, by their long names. */
const typed = new Set<string>();
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
  .check((args, known) => checkValues(args, known as unknown as Known))
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

/** yargs turns rubbish into NaN, an option that is given twice into an array, and one without a value into its default. */
function checkValues(args: Record<string, unknown>, known: Known): true {
  const valued = new Set([...known.string, ...known.number, ...known.array]);
  for (const [at, word] of words.entries()) {
    if (word === '--') break;
    const [, given, equals] = /^--?([^=-][^=]*)(=?)/.exec(word) ?? [];
    if (given === undefined) continue;
    const name = longName(kebab(given), known);
    typed.add(name);
    if (valued.has(name) && equals === '' && !isValue(words[at + 1])) throw usage(`--${name} takes a value`);
  }
  for (const [name, value] of Object.entries(args)) {
    if (name === '_' || name !== longName(kebab(name), known)) continue;
    if (Array.isArray(value) && !known.array.includes(name)) throw usage(`--${name} is given twice`);
    if (Number.isNaN(value)) throw usage(`--${name} takes a number`);
    if (value === '' && typed.has(name) && name !== 'prompt') throw usage(`--${name} is empty`);
  }
  return true;
}

function longName(name: string, { alias }: Known): string {
  return Object.entries(alias).find(([, others]) => others.includes(name))?.[0] ?? name;
}

/** Whether yargs takes the word for a value of the option before it: `-` and negative numbers are. */
function isValue(word: string | undefined): boolean {
  return word !== undefined && (!word.startsWith('-') || word === '-' || /^-(\d+(\.\d+)?|\.\d+)$/.test(word));
}

/** What yargs found wrong, with what to type instead. */
function complaint(said: string): string {
  const [first = '', second = ''] = words.filter((word) => !word.startsWith('-'));
  const group = Object.hasOwn(groups, first) ? groups[first] : undefined;
  const command = group === undefined ? first : `${first} ${second}`.trim();
  if (/^(Not enough non-option arguments|Missing required argument)/.test(said)) {
    return command in needs ? `${command} takes ${needs[command] ?? ''}` : `an argument is missing; magicpig ${command} --help shows which`;
  }
  const [, name, given, choices] = /^Invalid values: Argument: ([^,]+), Given: (.*), Choices: (.*)$/.exec(said) ?? [];
  if (name !== undefined) return given === '""' ? `--${name} takes a value: one of ${choices}` : `--${name} is ${given}; it must be one of ${choices}`;
  const [, unknown] = /^Unknown arguments?: (.*)$/.exec(said) ?? [];
  if (unknown === undefined) return said;
  const found = unknown.split(', ');
  if (found.includes(first) && !commands.includes(first)) {
    return `there is no command ${first}; magicpig --help lists them${didYouMean(first, commands)}`;
  }
  if (group !== undefined && found.includes(second)) return `${first} has no command ${second}; magicpig ${first} --help lists them${didYouMean(second, group)}`;
  // yargs names an option as it was typed and as a program would too.
  const names = found.filter((name) => !/[A-Z]/.test(name) || !found.includes(kebab(name)));
  const [stray = ''] = names;
  if (words.includes(stray)) return `${stray} is given without an option before it${existsSync(stray) ? `; a file is read with -f ${stray}` : ''}; magicpig ${command} --help shows the options`;
  return `there is no option ${names.map((name) => (name.length === 1 ? `-${name}` : `--${name}`)).join(', ')}; magicpig ${command} --help shows those that there are`;
}

function didYouMean(word: string, names: readonly string[]): string {
  const meant = nearest(word, names);
  return meant === undefined ? '' : `; did you mean ${meant}?`;
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
  if (error.code !== 'INVALID_OPTION' || name === undefined || !typed.has(kebab(name))) return error;
  return usage(error.message.replace(name, `--${kebab(name)}`));
}
