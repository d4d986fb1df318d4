// What a server has to bear, at length: `npm run campaign:server -- [--scale X] [--part NAME]`. Every part starts the program as
// users do, from dist/, and is held to a bound; figures are in benches/record. A scale of 1 is the whole of it, some ten
// minutes on two cores.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';

import { verifySession } from '../../src/index.js';
import { seededRandom, writeGguf } from '../support/gguf-writer.js';
import { body, hostile } from '../support/hostile.js';
import { longAnswer } from '../support/server.js';
import { tinyLlama } from '../support/tiny-llama.js';
import { type Schema, valueOf } from './generator.js';

const { values: options } = parseArgs({ options: { scale: { type: 'string', default: '1' }, part: { type: 'string' }, model: { type: 'string', default: 'smollm2-135m' } } });
const scaled = (count: number) => Math.max(1, Math.round(count * Number(options.scale)));

const folder = mkdtempSync(join(tmpdir(), 'magicpig-campaign-'));
const sessions = join(folder, 'sessions');
mkdirSync(sessions);
const tiny = writeGguf(join(folder, 'tiny.gguf'), tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 2048 }));
const program = join(import.meta.dirname, '..', '..', 'dist', 'cli', 'main.js');
const agent = new Agent({ keepAlive: true, maxSockets: 64 });
const headers = { 'content-type': 'application/json' };
const chat = '/v1/chat/completions';

interface Running extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly url: string;
  readonly log: string[];
}

async function started(...args: string[]): Promise<Running> {
  const child = spawn(process.execPath, [program, 'serve', '--json', '--port', '0', '--sessions-dir', sessions, ...args]);
  const log: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (part: string) => { if (/"level":[56]0/.test(part)) log.push(part); });
  const { url } = await new Promise<{ url: string }>((resolve) => child.stdout.setEncoding('utf8').once('data', (line: string) => { resolve(JSON.parse(line) as { url: string }); }));
  return {
    child, url, log,
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exit = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await exit;
    },
  };
}

/** The status of an answer and its text; where the connection broke, 0 and how. */
async function ask(url: string, method: string, path: string, text: string | Buffer = ''): Promise<{ status: number; text: string }> {
  return await new Promise((resolve) => {
    const request = httpRequest(url + path, { method, headers, agent, timeout: 60_000 }, (response) => {
      const parts: string[] = [];
      response.setEncoding('utf8').on('data', (part: string) => parts.push(part));
      response.once('close', () => { resolve({ status: response.statusCode ?? 0, text: parts.join('') }); });
    });
    request.once('timeout', () => request.destroy(new Error('no answer within a minute')));
    request.once('error', (error: NodeJS.ErrnoException) => { resolve({ status: 0, text: `${error.code ?? error.message}, ${request.reusedSocket ? 'a connection used before' : 'a new connection'}` }); });
    request.end(text);
  });
}

async function figure(url: string, name: string): Promise<number> {
  const { text } = await ask(url, 'GET', '/metrics');
  return Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ').at(-1));
}

/** So many at a time. */
async function each(count: number, clients: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(Array.from({ length: clients }, async () => {
    while (next < count) await work(next++);
  }));
}

const residentMiB = ({ child }: Running) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024;
const threadsOf = ({ child }: Running) => Number(/^Threads:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]);
const pause = async (ms: number) => { await new Promise((resolve) => setTimeout(resolve, ms)); };
const quantile = (values: number[], q: number) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))] ?? NaN;
/** Does `count` things; returns the median resident memory, in MiB, over the first and over the last quarter of them. */
async function memoryOver(server: Running, count: number, clients: number, work: (index: number) => Promise<void>): Promise<{ first: number; last: number }> {
  const samples: number[] = [];
  await each(count, clients, async (index) => {
    await work(index);
    samples.push(residentMiB(server));
  });
  const quarter = Math.ceil(samples.length / 4);
  return { first: quantile(samples.slice(0, quarter), 0.5), last: quantile(samples.slice(-quarter), 0.5) };
}

const messages = [{ role: 'user', content: 'hello' }];

/** A route of the published description. */
interface Operation {
  readonly parameters?: readonly { readonly name: string; readonly schema: Schema }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
}

/** Half of a pair of surrogates has no place in an address. */
const toWellFormed = (text: string) => text.replace(/\p{Surrogate}/gu, '\ufffd');

/** Nothing is worked on, and nothing waits. */
async function idle(url: string): Promise<boolean> {
  for (let i = 0; i < 200; i += 1) {
    const left = await Promise.all(['magicpig_requests_running', 'magicpig_queue_length', 'magicpig_sessions{kind="busy"}'].map((name) => figure(url, name)));
    if (left.every((count) => count === 0)) return true;
    await pause(50);
  }
  return false;
}

type Outcome = Record<string, number | boolean> & { held: boolean };

const parts: Record<string, () => Promise<Outcome>> = {
  /** Bodies that are wrong in one way each, and each wrong value in each field. */
  async hostile() {
    await using server = await started('--model', tiny, '--threads', '1');
    const fields = ['model', 'messages', 'n', 'seed', 'stop', 'temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'repetition_penalty', 'logit_bias', 'response_format', 'tools', 'tool_choice', 'session_id', 'stream', 'stream_options', 'top_logprobs'];
    const wrong = [[[1]], -1e308, 'x'.repeat(100), { a: { b: [] } }, [null], 0.1, '\u0000', 1e9, [{}], true, ['a', 5], '{}', { length: 5 }];
    // Of the fields' own kind.
    const fine = (field: string, value: unknown) => (field === 'stop' && typeof value === 'string') || (field === 'stream' && value === true) || (field === 'stream_options' && !Array.isArray(value) && typeof value === 'object')
      || (['temperature', 'top_p', 'min_p'].includes(field) && value === 0.1) || (['seed', 'top_k', 'max_tokens'].includes(field) && value === 1e9) || (field === 'session_id' && typeof value === 'string' && value.startsWith('xxx') && value.length < 65);
    const bodies = [...hostile.map(([, bytes]) => bytes), ...fields.flatMap((field) => wrong.filter((value) => !fine(field, value)).map((value) => body({ [field]: value })))];
    const statuses = new Map<number, number>();
    const not4xx: unknown[] = [];
    for (const bytes of bodies) {
      const { status } = await ask(server.url, 'POST', chat, bytes);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (status < 400 || status >= 500) not4xx.push(String(bytes).slice(0, 200), status);
    }
    if (not4xx.length > 0) console.error(not4xx);
    const quiet = await idle(server.url);
    return { requests: bodies.length, other: not4xx.length / 2, failures: server.log.length, held: not4xx.length === 0 && quiet && server.log.length === 0 };
  },

  /** Requests by the published description, right and wrong ones mixed. */
  async generated() {
    await using server = await started('--model', tiny, '--context', '256', '--parallel', '16', '--threads', '1', '--queue', '1000', '--max-sessions', '50');
    const api = JSON.parse((await ask(server.url, 'GET', '/openapi.json')).text) as { paths: Record<string, Record<string, Operation>> };
    const routes = Object.entries(api.paths).flatMap(([path, operations]) => Object.entries(operations).map(([method, { parameters = [], requestBody }]) => ({ method: method.toUpperCase(), path, parameters, schema: requestBody?.content['application/json']?.schema })));
    // Those that generate are what there is most to be wrong with.
    const bodied = routes.filter(({ schema }) => schema !== undefined);
    const others = routes.filter(({ schema }) => schema === undefined);
    const random = seededRandom(2026);
    const count = scaled(20_000);
    const statuses = new Map<number, number>();
    await each(count, 16, async (index) => {
      const { method, path: template, parameters, schema } = index % 5 === 0 ? others[(index / 5) % others.length]! : bodied[index % bodied.length]!;
      const value = schema && (valueOf(schema, random, 0.02) as Record<string, unknown> | null);
      if (value !== null && typeof value === 'object' && random() < 0.98) value['model'] = 'tiny';
      const path = parameters.reduce((text, { name, schema: part }) => text.replace(`{${name}}`, encodeURIComponent(toWellFormed(String(valueOf(part, random, 0.2))))), template);
      const { status, text } = await ask(server.url, method, path, value === undefined ? '' : JSON.stringify(value));
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      const expected = status === 200 || (status >= 400 && status < 500 && 'error' in (JSON.parse(text) as object));
      if (!expected) console.error(status, method, path, JSON.stringify(value ?? null).slice(0, 300), text.slice(0, 300));
    });
    const good = statuses.get(200) ?? 0;
    const bad = [...statuses].filter(([status]) => status !== 200 && (status < 400 || status >= 500)).reduce((sum, [, n]) => sum + n, 0);
    const quiet = await idle(server.url);
    return { requests: count, answered: good, refused: count - good - bad, other: bad, failures: server.log.length, held: bad === 0 && good > count / 20 && quiet && server.log.length === 0 };
  },

  /** Clients that go away in the middle of an answer, at any moment of it. */
  async aborts() {
    await using server = await started('--model', tiny, '--threads', '1', '--queue', '1000');
    const random = seededRandom(7);
    const abort = async () => {
      const controller = new AbortController();
      const after = random() * 60;
      setTimeout(() => { controller.abort(); }, after);
      const answer = await fetch(server.url + chat, { method: 'POST', headers, signal: controller.signal, body: JSON.stringify({ model: 'tiny', messages, stream: random() < 0.7, ...longAnswer }) }).catch(() => undefined);
      await answer?.text().catch(() => undefined);
    };
    // V8's heaps in two threads and malloc's arenas take thousands of requests to find their size.
    await each(scaled(4000), 8, abort);
    // A session has a thread, and one is kept for each request that may be worked on.
    await Promise.all(Array.from({ length: 4 }, () => ask(server.url, 'POST', chat, JSON.stringify({ model: 'tiny', messages, ...longAnswer }))));
    const first = await idle(server.url);
    const threads = threadsOf(server);
    const count = scaled(1000);
    const before = (await memoryOver(server, count, 8, abort)).last;
    const after = (await memoryOver(server, count, 8, abort)).last;
    const quiet = (await idle(server.url)) && first;
    const growth = after / before - 1;
    return { aborted: scaled(4000) + 2 * count, residentMiB: after, growth, threadsBefore: threads, threadsAfter: threadsOf(server), held: quiet && growth < 0.02 && threadsOf(server) <= threads };
  },

  /** Short requests by 32 clients. */
  async short() {
    await using server = await started('--model', tiny, '--threads', '1');
    const failures: string[] = [];
    const short = async (index: number) => {
      const { status, text } = await ask(server.url, 'POST', chat, JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: `question ${index % 97}` }], max_tokens: 2 }));
      if (status !== 200) failures.push(`${status} ${text}`);
    };
    await each(scaled(10_000), 32, short);
    const began = performance.now();
    const { first, last } = await memoryOver(server, scaled(10_000), 32, short);
    const perSecond = scaled(10_000) / ((performance.now() - began) / 1000);
    if (failures.length > 0) console.error(failures);
    const growth = last / first - 1;
    return { requests: scaled(10_000), perSecond, failed: failures.length, residentMiB: last, growth, held: failures.length === 0 && growth < 0.02 };
  },

  /** A kill in the middle of streams that keep sessions; all of these open afterwards. */
  async kill() {
    const names = Array.from({ length: scaled(50) }, (_, i) => `stream-${i}`);
    const server = await started('--model', tiny, '--threads', '1', '--parallel', '64');
    const ask50 = names.map(async (session_id) => {
      const answer = await fetch(server.url + chat, { method: 'POST', headers, body: JSON.stringify({ model: 'tiny', messages, session_id, stream: true, ...longAnswer }) });
      await answer.text().catch(() => undefined);
    });
    for (let tokens = 0; tokens < 20 * names.length; tokens = (await figure(server.url, 'magicpig_time_to_first_token_seconds_count')) * 20) await pause(50);
    await pause(500);
    const exit = new Promise((resolve) => server.child.once('exit', resolve));
    server.child.kill('SIGKILL');
    await exit;
    await Promise.allSettled(ask50);
    const reports = await Promise.all(names.map((name) => verifySession(join(sessions, name))));
    const whole = reports.filter(({ problems, tokens }) => problems.length === 0 && tokens > 0).length;
    await using again = await started('--model', tiny, '--threads', '1');
    let gone = 0;
    for (const session_id of names) {
      const { status, text } = await ask(again.url, 'POST', chat, JSON.stringify({ model: 'tiny', messages, session_id, max_tokens: 1 }));
      const { usage } = JSON.parse(text) as { usage?: { prompt_tokens_details: { cached_tokens: number } } };
      if (status === 200 && (usage?.prompt_tokens_details.cached_tokens ?? 0) > 0) gone += 1;
    }
    return { streams: names.length, whole, wentOn: gone, tokensKept: reports.reduce((sum, { tokens }) => sum + tokens, 0), held: whole === names.length && gone === names.length };
  },

  /** How late the event loop is while a real model reads and writes, and how /health answers beside slow connections. */
  async lag() {
    await using server = await started('--model', options.model);
    const { hostname, port } = new URL(server.url);
    const generation = async (content: string) => { await ask(server.url, 'POST', chat, JSON.stringify({ model: options.model, messages: [{ role: 'user', content }], max_tokens: 100 })); };
    await figure(server.url, 'magicpig_requests_running');
    await Promise.all([generation('Tell me a story.'), generation('word '.repeat(2000)), generation('List ten animals.')]);
    const lagMs = 1000 * (await figure(server.url, 'magicpig_event_loop_delay_seconds{quantile="0.99"}'));

    // In a thread of their own, so that what is measured is the server's delay and not that of the clients.
    const slow = new Worker(`
      const { connect } = require('node:net');
      const { parentPort, workerData: { port, hostname, count } } = require('node:worker_threads');
      let open = 0;
      const sockets = Array.from({ length: count }, () => connect(port, hostname, () => { if (++open === count) parentPort.postMessage(open); }).on('error', () => undefined));
      let next = 0;
      setInterval(() => { for (let i = 0; i < count / 100; i += 1, next += 1) if (sockets[next % count].writable) sockets[next % count].write('G'); }, 10);
    `, { eval: true, workerData: { port: Number(port), hostname, count: 1000 } });
    await new Promise((resolve) => slow.once('message', resolve));
    const over = new AbortController();
    const work = (async () => { while (!over.signal.aborted) await generation('Tell me another story.'); })();
    const health: number[] = [];
    for (let i = 0; i < 500; i += 1) {
      const began = performance.now();
      await ask(server.url, 'GET', '/health');
      health.push(performance.now() - began);
      await pause(10);
    }
    over.abort();
    await work;
    await slow.terminate();
    const healthMs = quantile(health, 0.99);
    return { lagP99Ms: lagMs, slowConnections: 1000, healthP99Ms: healthMs, healthMaxMs: Math.max(...health), held: lagMs < 50 && healthMs < 200 };
  },

  /** How long a stream stands still while a long text is read beside it. */
  async reading() {
    await using server = await started('--model', options.model);
    const words = (count: number) => Array.from({ length: count }, (_, i) => `word${(i * 7919) % 1000}`).join(' ');
    const long = async () => await ask(server.url, 'POST', chat, JSON.stringify({ model: options.model, messages: [{ role: 'user', content: words(800) }], max_tokens: 1 }));
    const controller = new AbortController();
    const stream = await fetch(server.url + chat, { method: 'POST', headers, signal: controller.signal, body: JSON.stringify({ model: options.model, messages, stream: true, seed: 1, ...longAnswer }) });
    const arrivals: number[] = [];
    const watched = stream.body!.pipeTo(new WritableStream({ write: () => { arrivals.push(performance.now()); } })).catch(() => undefined);
    await pause(300);
    const began = performance.now();
    const { status } = await long();
    const readSeconds = (performance.now() - began) / 1000;
    controller.abort();
    await watched;
    const beside = arrivals.filter((at) => at > began);
    const gaps = beside.slice(1).map((at, i) => at - (beside[i] ?? at));
    const gapMs = quantile(gaps, 0.99);
    return { readSeconds, status, chunks: gaps.length, gapMedianMs: quantile(gaps, 0.5), gapP99Ms: gapMs, gapMaxMs: Math.max(...gaps), held: status === 200 && gaps.length > 20 && gapMs < 500 };
  },

  /** Streams that keep sessions when the server is told to stop. */
  async drain() {
    const names = Array.from({ length: 16 }, (_, i) => `drained-${i}`);
    const server = await started('--model', tiny, '--threads', '1', '--parallel', '16');
    const exit = new Promise<number | null>((resolve) => server.child.once('exit', resolve));
    const streams = names.map(async (session_id) => {
      const answer = await fetch(server.url + chat, { method: 'POST', headers, body: JSON.stringify({ model: 'tiny', messages, session_id, stream: true, ...longAnswer }) });
      return /\[DONE\]\n\n$|server_stopping/.test(await answer.text());
    });
    while (!((await figure(server.url, 'magicpig_time_to_first_token_seconds_count')) >= names.length)) await pause(20);
    const began = performance.now();
    server.child.kill('SIGTERM');
    const code = await exit;
    const seconds = (performance.now() - began) / 1000;
    const ended = (await Promise.all(streams)).filter(Boolean).length;
    const reports = await Promise.all(names.map((name) => verifySession(join(sessions, name))));
    const whole = reports.filter(({ problems, tokens }) => problems.length === 0 && tokens > 0).length;
    return { streams: names.length, ended, whole, exitCode: code ?? -1, drainSeconds: seconds, held: code === 0 && seconds < 30 && ended === names.length && whole === names.length };
  },
};

let held = true;
for (const [name, part] of Object.entries(parts)) {
  if (options.part !== undefined && options.part !== name) continue;
  const began = performance.now();
  const outcome = await part();
  held &&= outcome.held;
  console.log(JSON.stringify({ part: name, seconds: Math.round((performance.now() - began) / 1000), ...outcome }));
}
agent.destroy();
rmSync(folder, { recursive: true, force: true });
process.exitCode = held ? 0 : 1;
