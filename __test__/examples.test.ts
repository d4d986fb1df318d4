// The examples, as their readers run them: with the built package and a model of random weights.
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { apiKey, runningServer } from './support/server.js';
import type { RunningServer } from './support/server.js';

const examples = join(import.meta.dirname, '..', 'examples');
const question = 'Who is it?';

let running: RunningServer;
let model: string;
let book: string;
const ran: string[] = [];
test.before(async () => {
  running = await runningServer({ parallel: 1 });
  model = join(running.folder, 'tiny.gguf');
  book = join(running.folder, 'book.txt');
  writeFileSync(book, 'It was a dark night. '.repeat(40));
});
test.after.always(async () => {
  await running[Symbol.asyncDispose]();
});

/** Runs an example to its end, which must be a good one. */
async function run(name: string, args: readonly string[], { input = '', env = {} }: { input?: string; env?: Record<string, string> } = {}): Promise<{ out: string; err: string }> {
  ran.push(name);
  const child = spawn(process.execPath, [join(examples, name), ...args], { env: { ...process.env, MODEL: model, ...env } });
  const read = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (read.out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (read.err += text));
  child.stdin.end(input);
  const status = await new Promise((resolve) => child.once('close', resolve));
  if (status !== 0) throw new Error(`${name} ended with ${String(status)}: ${read.err}`);
  return read;
}

const server = () => ({ env: { MODEL: 'tiny', BASE_URL: `${running.server.url}/v1`, MAGICPIG_API_KEY: apiKey } });

test.serial('ask-a-book answers, and says how many keys it read', async (t) => {
  const { out, err } = await run('ask-a-book.js', [book, question]);
  t.true(out.length > 0);
  t.regex(err, /read \d+ of \d+ tokens[^]*read \d+\.\d% of the keys, \d+\.\d ms a token/);
});

test.serial('resume-a-session reads the text the first time only', async (t) => {
  const folder = join(running.folder, 'book.kv');
  const first = await run('resume-a-session.js', [folder, book, question]);
  t.regex(first.err, /^0 of 8\d\d tokens were there already/);
  const second = await run('resume-a-session.js', [folder, book, 'And why?']);
  t.regex(second.err, /^8\d\d of 8\d\d tokens were there already/);
});

test.serial('batch answers each question as though it were the only one', async (t) => {
  const { out } = await run('batch.js', [book], { input: 'One?\nTwo?\nOne?\n' });
  const answers = out.trim().split('\n').map((line) => JSON.parse(line) as { question: string; answer: string });
  t.deepEqual(answers.map((one) => one.question), ['One?', 'Two?', 'One?']);
  t.true(answers.every(({ answer }) => answer.length > 0));
});

test.serial('ai-sdk streams an answer, and has an object of its schema', async (t) => {
  const { out } = await run('ai-sdk.js', ['hello'], server());
  t.regex(out, /[^\s][^]*\n \{ sentiment: '(good|bad|neither)' \}\n$/);
});

test.serial('langchain streams an answer, and its text is kept', async (t) => {
  const { out } = await run('langchain.js', [book, question], server());
  t.true(out.trim().length > 0);
  const sessions = await fetch(`${running.server.url}/v1/sessions`, { headers: { authorization: `Bearer ${apiKey}` } });
  const { data } = (await sessions.json()) as { data: { id: string; tokens: number }[] };
  t.true(data.find(({ id }) => id === 'langchain')!.tokens > 800);
});

test.serial('every example is run here, and is in the list of examples', (t) => {
  const files = readdirSync(examples).filter((name) => name.endsWith('.js')).sort();
  t.deepEqual([...new Set(ran)].sort(), files);
  const listed = [...readFileSync(join(examples, 'README.md'), 'utf8').matchAll(/^\| \[([\w-]+\.js)\]/gm)].map(([, name]) => name!);
  t.deepEqual(listed.sort(), files);
});
