// What a server has to bear, at length: `npm run campaign:server -- [--scale X] [--part NAME]`. Every part starts the program as
// users do, from dist/, and is held to a bound; figures are in docs/server.md. A scale of 1 is the whole of it, a quarter
// of an hour or so.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { type Socket, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

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

/** The status of an answer, 0 where the connection broke, and its text. */
async function ask(url: string, method: string, path: string, text: string | Buffer = ''): Promise<{ status: number; text: string }> {
  return await new Promise((resolve) => {
    const request = httpRequest(url + path, { method, headers, agent, timeout: 60_000 }, (response) => {
      const parts: string[] = [];
      response.setEncoding('utf8').on('data', (part: string) => parts.push(part));
      response.once('close', () => { resolve({ status: response.statusCode ?? 0, text: parts.join('') }); });
    });
    request.once('timeout', () => request.destroy());
    request.once('error', () => { resolve({ status: 0, text: '' }); });
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
const messages = [{ role: 'user', content: 'hello' }];

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
    const api = JSON.parse((await ask(server.url, 'GET', '/openapi.json')).text) as { paths: Record<string, { post?: { requestBody: { content: Record<string, { schema: Schema }> } } }> };
    const routes = Object.entries(api.paths).flatMap(([path, { post }]) => (post === undefined ? [] : [{ path, schema: post.requestBody.content['application/json']!.schema }]));
    const random = seededRandom(2026);
    const count = scaled(20_000);
    const statuses = new Map<number, number>();
    await each(count, 16, async (index) => {
      const { path, schema } = routes[index % routes.length]!;
      const value = valueOf(schema, random, 0.02) as Record<string, unknown> | null;
      if (value !== null && typeof value === 'object' && random() < 0.98) value['model'] = 'tiny';
      const { status, text } = await ask(server.url, 'POST', path, JSON.stringify(value));
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      const expected = (status === 200 || (status >= 400 && status < 500)) && (status === 200 || 'error' in (JSON.parse(text) as object));
      if (!expected) console.error(status, path, JSON.stringify(value).slice(0, 300), text.slice(0, 300));
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
    const count = scaled(1000);
    await each(count, 8, abort);
    const first = await idle(server.url);
    const before = residentMiB(server);
    const threads = threadsOf(server);
    await each(count, 8, abort);
    const quiet = (await idle(server.url)) && first;
    const after = residentMiB(server);
    const growth = after / before - 1;
    return { aborted: 2 * count, residentMiB: after, growth, threadsBefore: threads, threadsAfter: threadsOf(server), held: quiet && growth < 0.02 && threadsOf(server) <= threads };
  },

  /** Short requests by 32 clients. */
  async short() {
    await using server = await started('--model', tiny, '--threads', '1');
    let failed = 0;
    const short = async (index: number) => {
      const { status } = await ask(server.url, 'POST', chat, JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: `question ${index % 97}` }], max_tokens: 2 }));
      if (status !== 200) failed += 1;
    };
    // V8's heaps in two threads and malloc's arenas take thousands of requests to find their size.
    await each(scaled(10_000), 32, short);
    const before = residentMiB(server);
    const began = performance.now();
    await each(scaled(10_000), 32, short);
    const perSecond = scaled(10_000) / ((performance.now() - began) / 1000);
    const growth = residentMiB(server) / before - 1;
    return { requests: scaled(10_000), perSecond, failed, residentMiB: before, growth, held: failed === 0 && growth < 0.02 };
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

    const slow: Socket[] = [];
    for (let i = 0; i < 1000; i += 1) slow.push(connect(Number(port), hostname).on('error', () => undefined));
    const drip = setInterval(() => { for (const socket of slow) if (socket.writable) socket.write('G'); }, 1000);
    const work = generation('Tell me another story.');
    const health: number[] = [];
    for (let i = 0; i < 300; i += 1) {
      const began = performance.now();
      await ask(server.url, 'GET', '/health');
      health.push(performance.now() - began);
      await pause(10);
    }
    clearInterval(drip);
    for (const socket of slow) socket.destroy();
    await work;
    const healthMs = quantile(health, 0.99);
    return { lagP99Ms: lagMs, slowConnections: slow.length, healthP99Ms: healthMs, held: lagMs < 50 && healthMs < 200 };
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
