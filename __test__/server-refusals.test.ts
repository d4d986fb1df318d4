// What the server turns away, and how it stops.
import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { request as httpRequest } from 'node:http';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { verifySession } from '../src/index.js';
import { pagePaths } from '../src/server/page-files.js';
import { Server } from '../src/server/server.js';
import { type TurnKind, Turns } from '../src/server/engine/turns.js';
import { Admission } from '../src/server/admission.js';
import { ToolCallReader } from '../src/server/tools.js';
import { main, model as tinyModelFile, typescript } from './support/command-line.js';
import { body, hostile } from './support/hostile.js';
import { apiKey, longAnswer, runningServer } from './support/server.js';
import type { RunningServer } from './support/server.js';
import { temporaryFolder } from './support/temporary.js';

let running: RunningServer;
test.before(async () => {
  running = await runningServer({ corsOrigins: ['https://friend.example'], allowedHosts: ['box.example'] });
});
test.after.always(async () => {
  await running[Symbol.asyncDispose]();
});

const chat = '/v1/chat/completions';
const pageFolder = join(import.meta.dirname, '..', 'src', 'server', 'page');

interface Answer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly text: string;
}

/** Node's own client sends any header and any bytes. */
async function send(method: string, path: string, headers: Record<string, string>, body: string | Buffer = ''): Promise<Answer> {
  return await new Promise((resolve, reject) => {
    const request = httpRequest(running.server.url + path, { method, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => (text += part));
      response.once('end', () => { resolve({ status: response.statusCode ?? 0, headers: response.headers, text }); });
    });
    request.once('error', reject);
    request.end(body);
  });
}

const json = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` };

/** An error in OpenAI's shape, with a status that blames the request. */
function refused(t: ExecutionContext, { status, text }: Answer, what: string): void {
  t.true(status >= 400 && status < 500, `${what}: ${status} ${text.slice(0, 200)}`);
  const { error } = JSON.parse(text) as { error: Record<string, unknown> };
  t.deepEqual(Object.keys(error).sort(), ['code', 'message', 'param', 'type'], what);
  t.true(typeof error['message'] === 'string' && error['message'] !== '' && !/\n|\/(tmp|home|work)\//.test(error['message']), `${what}: ${String(error['message'])}`);
}

const basic = (credentials: string) => `Basic ${Buffer.from(credentials, 'latin1').toString('base64')}`;

/** All that is answered, with something in the place of what a route leaves open. */
const everyRoute = () => running.server.routes.map(({ method, url }) => ({ method, url, path: url === '*' ? chat : url.replace(/:\w+/g, 'x') }));

test('every route but /health wants the key, as a bearer token or as a password', async (t) => {
  const routes = everyRoute();
  const page = ['/', ...readdirSync(pageFolder).filter((name) => name !== 'index.html').map((name) => `/page/${name}`)];
  t.deepEqual([...pagePaths].sort(), page.sort(), 'what is published of the page');
  for (const url of [...page, '/health', '/metrics', '/openapi.json', chat, '*']) t.true(routes.some((route) => route.url === url), url);
  for (const method of ['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS']) t.true(routes.some((route) => route.method === method), method);
  for (const { method, url, path } of routes) {
    const without = [undefined, '', 'Bearer wrong-key', 'Bearer', apiKey, `Basic ${apiKey}`, basic(apiKey), basic(`${apiKey}:`), basic(`${apiKey}:wrong-key`), basic(`:${apiKey} `)];
    for (const authorization of without) {
      const { status } = await send(method, path, authorization === undefined ? {} : { authorization });
      t.is(status, url === '/health' ? 200 : 401, `${method} ${url} ${authorization}`);
    }
    for (const authorization of [`Bearer ${apiKey}`, `bearer ${apiKey}`, basic(`:${apiKey}`), basic(`somebody:${apiKey}`), basic(`jos\xe9:${apiKey}`)]) {
      const { status } = await send(method, path, { authorization });
      t.true(status !== 401 && status < 500, `${method} ${url} ${authorization}: ${status}`);
    }
  }
  t.is((await send('GET', '/nowhere', {})).status, 401, 'what is not there does not say so');
  for (const authorization of [`Bearer ${apiKey}`, basic(`:${apiKey}`)]) t.is((await send('GET', '/v1/models', { authorization })).status, 200);
});

test('a server without a key asks for none', async (t) => {
  await using open = await runningServer({ apiKey: undefined });
  for (const { method, url } of open.server.routes) {
    const { status } = await fetch(open.server.url + url.replace(/:\w+/g, 'x'), { method, headers: { authorization: 'Basic x' } });
    t.true(status !== 401 && status < 500, `${method} ${url}: ${status}`);
  }
  t.is((await fetch(`${open.server.url}/v1/models`)).status, 200);
  t.is((await fetch(`${open.server.url}/v1/models`, { headers: { origin: 'https://evil.example' } })).status, 403);
});

test('an Authorization header that makes no sense is no key', async (t) => {
  const key = basic(`:${apiKey}`);
  const malformed = ['Basic', 'Basic ', 'Basic :', 'Basic !!!!', 'Basic ====', basic(''), basic(':'), basic('\0:\0'), basic('\xff\xfe:\xff'), `${key}!`, key.replace('Basic ', 'Basic !'), `${key} x`, `${key}, Bearer x`, `Bearer ${key}`, 'B\xe4r\xfcr \xff', `Basic ${'A'.repeat(15_000)}`, `Bearer ${':'.repeat(15_000)}`];
  for (const authorization of malformed) {
    const answer = await send('GET', '/v1/models', { authorization });
    t.is(answer.status, 401, authorization.slice(0, 50));
    refused(t, answer, authorization.slice(0, 50));
  }
  t.is((await send('GET', '/v1/models', { authorization: key })).status, 200);
  // Node reads no headers of that size.
  t.is((await send('GET', '/v1/models', { authorization: `Basic ${'A'.repeat(100_000)}` })).status, 431);
});

test('a browser is asked for the key where its user opens something, and programs are not', async (t) => {
  const challenge = async (path: string, headers: Record<string, string>) => (await send('GET', path, headers)).headers['www-authenticate'];
  const [asked, told] = ['Basic realm="magicpig", charset="UTF-8"', 'Bearer realm="magicpig"'];
  for (const path of pagePaths) t.is(await challenge(path, {}), asked, path);
  for (const path of ['/v1/models', '/metrics', '/openapi.json', '/nowhere']) {
    t.is(await challenge(path, { accept: 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8' }), asked, path);
    for (const headers of [{}, { accept: '*/*' }, { authorization: 'Bearer wrong-key' }]) t.is(await challenge(path, headers), told, path);
  }
  t.is(await challenge('/health', {}), undefined);
});

test('a page of another site is turned away, by its origin or by the name it reached the server with', async (t) => {
  const { host } = new URL(running.server.url);
  const get = async (headers: Record<string, string>) => await send('GET', '/v1/models', { ...json, ...headers });
  for (const origin of ['https://evil.example', 'null', `http://${host}.evil.example`, 'http://localhost:1']) t.is((await get({ origin })).status, 403, origin);
  for (const name of ['evil.example', 'localhost.evil.example', '127.0.0.2', 'localhost@evil.example']) t.is((await get({ host: name })).status, 403, JSON.stringify(name));
  for (const name of ['localhost:5', 'box.example', '[::1]:80', '127.0.0.1']) t.is((await get({ host: name })).status, 200, name);
  t.is((await get({ origin: `http://${host}` })).status, 200);
  const friend = await get({ origin: 'https://friend.example' });
  t.like(friend, { status: 200, headers: { 'access-control-allow-origin': 'https://friend.example' } });
  t.is((await get({})).headers['access-control-allow-origin'], undefined);
  const preflight = await send('OPTIONS', chat, { origin: 'https://friend.example', 'access-control-request-method': 'POST' });
  t.like(preflight, { status: 200, headers: { 'access-control-allow-origin': 'https://friend.example', 'access-control-allow-headers': 'authorization, content-type', 'access-control-allow-credentials': undefined } });
  t.is((await send('OPTIONS', chat, { origin: 'https://evil.example', 'access-control-request-method': 'POST' })).status, 403);
  t.is((await send('OPTIONS', chat, { origin: `http://${host}`, 'access-control-request-method': 'POST' })).status, 401, 'the page of the server needs no preflight');
});

test('what a browser knows of the key is of no use to pages of other sites', async (t) => {
  const get = async (path: string, headers: Record<string, string>) => (await send('GET', path, { authorization: basic(`:${apiKey}`), ...headers })).status;
  for (const path of ['/', '/page/icon.svg', '/v1/models', '/metrics', '/nowhere']) {
    for (const site of ['cross-site', 'same-site']) {
      for (const destination of ['image', 'script', 'iframe', 'empty']) t.is(await get(path, { 'sec-fetch-site': site, 'sec-fetch-dest': destination }), 403, `${path} ${site} ${destination}`);
      t.is(await get(path, { 'sec-fetch-site': site, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }), path === '/nowhere' ? 404 : 200, `a link to ${path}`);
    }
    for (const site of ['same-origin', 'none']) t.is(await get(path, { 'sec-fetch-site': site, 'sec-fetch-dest': 'empty' }), path === '/nowhere' ? 404 : 200, `${path} ${site}`);
  }
  t.is(await get('/v1/models', { 'sec-fetch-site': 'cross-site', 'sec-fetch-dest': 'empty', origin: 'https://friend.example' }), 200);
  for (const origin of ['https://evil.example', 'null']) {
    const form = { authorization: basic(`:${apiKey}`), origin, 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document', 'content-type': 'text/plain' };
    t.is((await send('POST', chat, form, body({}))).status, 403, 'a form');
  }
  t.is((await send('GET', '/health', { 'sec-fetch-site': 'cross-site', 'sec-fetch-dest': 'image' })).status, 200);
});

test('what is wrong with a request is said in a status of 4xx, and the server goes on', async (t) => {
  t.true(hostile.length >= 60, String(hostile.length));
  for (const [what, bytes] of hostile) refused(t, await send('POST', chat, json, bytes), what);
  refused(t, await send('POST', '/v1/completions', json, body({ prompt: [-1] })), 'a negative token');
  refused(t, await send('POST', '/v1/completions', json, body({ prompt: [] })), 'no prompt');
  refused(t, await send('POST', '/v1/completions', json, body({ prompt: '' })), 'an empty prompt');
  refused(t, await send('POST', '/v1/completions', json, body({ prompt: ['a', 'b'], session_id: 'x' })), 'two prompts for a session');
  refused(t, await send('POST', '/v1/responses', json, body({ input: 'x', previous_response_id: 'resp_1' })), 'a response that is not kept');
  refused(t, await send('POST', '/v1/responses', json, body({ input: [{ type: 'image' }] })), 'an image');
  refused(t, await send('POST', chat, { ...json, 'content-type': 'text/plain' }, body({})), 'a plain text');
  refused(t, await send('POST', chat, { ...json, 'content-encoding': 'gzip' }, Buffer.from([0x1f, 0x8b, 8, 0])), 'something packed');
  refused(t, await send('PUT', chat, json, body({})), 'another method');
  for (const path of ['/v1/sessions/..%2f..', '/v1/sessions/%00', '/v1/sessions/%ff', '/%', '/v1/models/nothing', '/../../etc/passwd']) {
    refused(t, await send(path.includes('sessions') ? 'DELETE' : 'GET', path, { authorization: json.authorization }), path);
  }
  t.is((await send('POST', chat, json, body({}))).status, 200);
});

test('what is not HTTP is told so', async (t) => {
  const { port } = new URL(running.server.url);
  const text = await new Promise<string>((resolve) => {
    let received = '';
    const socket = connect(Number(port), '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nbad header\r\n\r\n'));
    socket.setEncoding('utf8').on('data', (part: string) => (received += part)).once('close', () => { resolve(received); });
  });
  t.regex(text, /^HTTP\/1\.1 400 [^]*"malformed_request"/);
});

interface Operation {
  readonly security?: object[];
  readonly requestBody: { readonly content: Record<string, { readonly schema: { readonly required: string[] } }> };
}

interface Description {
  readonly openapi: string;
  readonly security: object[];
  readonly components: object;
  readonly paths: Record<string, Record<string, Operation>>;
}

test('the description names what there is, and is OpenAPI', async (t) => {
  const api = JSON.parse((await send('GET', '/openapi.json', json)).text) as Description;
  t.regex(api.openapi, /^3\.1/);
  t.deepEqual(api.paths[chat]!['post']!.requestBody.content['application/json']!.schema.required, ['model', 'messages']);
  for (const path of ['/v1/completions', '/v1/responses', '/v1/models', '/v1/sessions/{id}', '/health', '/metrics']) t.true(path in api.paths, path);
  t.like(api, { security: [{ key: [] }, { password: [] }], components: { securitySchemes: { key: { scheme: 'bearer' }, password: { scheme: 'basic' } } } });
  t.deepEqual(Object.entries(api.paths).flatMap(([path, operations]) => (Object.values(operations).some(({ security }) => security !== undefined) ? [path] : [])), ['/health'], 'needs no key');
});

test('a body that is not said to be JSON is told what to say', async (t) => {
  const answer = await send('POST', chat, { 'content-type': 'application/x-www-form-urlencoded', authorization: `Bearer ${apiKey}` }, '{"messages":[]}');
  t.is(answer.status, 415);
  const { error } = JSON.parse(answer.text) as { error: { code: string; message: string } };
  t.is(error.code, 'unsupported_media_type');
  t.regex(error.message, /content-type header application\/json/);
});

test('a server that others could reach without a key does not start', async (t) => {
  const start = async (options: object) => await t.throwsAsync(Server.start({ model: 'no-such-model', ...options }), { code: 'INVALID_OPTION' });
  t.regex((await start({ host: '0.0.0.0' })).message, /--api-key/);
  await start({ host: '192.168.1.5' });
  await start({ host: 'not an address' });
  await start({ apiKey: 'short' });
  await start({ corsOrigins: ['*'] });
  await start({ port: 70_000 });
  await start({ parallel: 0 });
  // The second is a folder that takes no others and says that it is not there.
  for (const sessionsDir of [import.meta.filename, '/proc/sessions/of/mine']) {
    await t.throwsAsync(Server.start({ model: 'no-such-model', sessionsDir }), { code: 'FILE_UNWRITABLE' });
  }
  await t.throwsAsync(Server.start({ model: 'no-such-model' }), { code: 'MODEL_NOT_FOUND' });
});

test('turns go to whoever has used least, and a newcomer is not given back what it missed', async (t) => {
  let clock = 0;
  const turns = new Turns(() => clock);
  const log: string[] = [];
  const work = async (name: string, times: number, ms: number) => {
    const turn = turns.join();
    for (let i = 0; i < times; i += 1) {
      await turn.begin();
      log.push(name);
      clock += ms;
      turn.end();
      // What a generation does between two tokens.
      await Promise.resolve();
    }
    turn.leave();
  };
  const both = Promise.all([work('L', 4, 20), work('s', 15, 4)]);
  while (log.length < 12) await new Promise((resolve) => setImmediate(resolve));
  const late = work('n', 3, 4);
  await Promise.all([both, late]);
  const all = log.join('');
  // Taking turns one by one would be LsLsLsLs.
  t.regex(all.slice(0, 12), /^Lss{4}s?Ls{4}s?/);
  t.regex(all.slice(12), /^[Ls]{0,2}(n[Ls]{1,3}){1,2}n/, all);
});

test('those who write have their turns together and share their time, and who comes late joins the next', async (t) => {
  let clock = 0;
  const turns = new Turns(() => clock);
  const log: string[] = [];
  const work = async (name: string, kind: TurnKind, times: number, ms: number) => {
    const turn = turns.join();
    for (let i = 0; i < times; i += 1) {
      await turn.begin(kind);
      log.push(name);
      // A step takes as long for one as for all.
      if (kind === 'alone' || log.at(-2) !== 'a') clock += ms;
      await Promise.resolve();
      turn.end();
    }
    turn.leave();
  };
  const first = work('a', 'together', 8, 10);
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.all([first, work('b', 'together', 6, 10), work('L', 'alone', 2, 40)]);
  const all = log.join('');
  t.regex(all, /^a+(L|(ab)+)/, all);
  // A step of both counts half for each, so that the reader, who took 40 ms, waits for 80 ms of steps.
  t.regex(all, /L(ab|ba){4,}/, all);
});

test('places are handed on in order, and whoever leaves the queue is forgotten', async (t) => {
  const admission = new Admission(1, 2);
  const { signal } = new AbortController();
  const leave = await admission.enter(signal);
  const order: number[] = [];
  const gone = new AbortController();
  const waiting = [admission.enter(gone.signal), admission.enter(signal)].map((place, i) => place.then((exit) => { order.push(i); exit(); }, () => order.push(-1)));
  await t.throwsAsync(admission.enter(signal), { message: /2 wait/ });
  gone.abort();
  leave();
  leave();
  await Promise.all(waiting);
  t.deepEqual(order, [-1, 1]);
  t.is(admission.running, 0);
});

test('calls are found in text that comes in pieces, and what only looks like one is shown', (t) => {
  const read = (...pieces: string[]) => {
    const reader = new ToolCallReader(['f', 'g']);
    const shown = pieces.map((piece) => reader.push(piece)).join('');
    const { text, calls } = reader.end();
    return { shown, text, calls: calls.map(({ name, arguments: values }) => `${name} ${values}`) };
  };
  t.deepEqual(read('so <tool', '_call>{"name":"f","argu', 'ments":{"a":1}}</tool_call><tool_call>{"name":"g","arguments":{}}'), { shown: 'so ', text: '', calls: ['f {"a":1}', 'g {}'] });
  t.deepEqual(read(' {"name"', ':"g","parameters":{"b":2}}'), { shown: '', text: '', calls: ['g {"b":2}'] });
  t.deepEqual(read('a <tool', ' box'), { shown: 'a <tool box', text: '', calls: [] });
  t.deepEqual(read('{"name":"h","arguments":{}}'), { shown: '', text: '{"name":"h","arguments":{}}', calls: [] });
  t.deepEqual(read('x<tool_call>{"name":'), { shown: 'x', text: '<tool_call>{"name":', calls: [] });
});

test('SIGTERM lets a stream end, keeps its session, and ends the program with 0', async (t) => {
  const sessions = join(temporaryFolder(t), 'sessions');
  mkdirSync(sessions);
  const child = spawn(process.execPath, [...typescript, main, 'serve', '--json', '-m', tinyModelFile(t), '-p', '0', '--sessions-dir', sessions, '--drain', '1', '--threads', '1']);
  const logged: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (part: string) => logged.push(part));
  const { url, model } = await new Promise<{ url: string; model: string }>((resolve) => {
    child.stdout.setEncoding('utf8').once('data', (line: string) => { resolve(JSON.parse(line) as { url: string; model: string }); });
  });
  const exit = new Promise<number | null>((resolve) => child.once('close', resolve));
  const answer = await fetch(url + chat, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content: 'a secret text' }], session_id: 'kept', stream: true, ...longAnswer }),
  });
  const chunks = answer.body!.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  await chunks.next();
  child.kill('SIGTERM');
  let rest = '';
  for await (const chunk of chunks) rest += chunk;
  t.regex(rest, /\[DONE\]\n\n$|server_stopping/);
  t.is(await exit, 0, logged.join(''));
  const report = await verifySession(join(sessions, 'kept'));
  t.true(report.problems.length === 0 && report.tokens > 10);
  t.false(logged.join('').includes('secret'), 'no text is logged');
  t.true(logged.join('').includes('"generatedTokens"') || rest.includes('server_stopping'));
});

test('Ctrl-C while an answer is written says what is waited for, and a second one ends it', async (t) => {
  const child = spawn(process.execPath, [...typescript, main, 'serve', '-m', tinyModelFile(t), '-p', '0', '--drain', '60', '--threads', '1']);
  const url = await new Promise<string>((resolve) => {
    child.stdout.setEncoding('utf8').once('data', (line: string) => { resolve(/http:[^/]*\/\/[^/]+/.exec(line)?.[0] ?? ''); });
  });
  const ended = new Promise<NodeJS.Signals | null>((resolve) => child.once('close', (_, signal) => { resolve(signal); }));
  const { data: [{ id: model }] } = await (await fetch(`${url}/v1/models`)).json() as { data: [{ id: string }] };
  const answer = await fetch(url + chat, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content: 'a text' }], stream: true, ...longAnswer }),
  });
  await answer.body!.getReader().read();
  const told = new Promise<string>((resolve) => {
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (part: string) => {
      text += part;
      const [line] = /^waiting .*\n/m.exec(text) ?? [];
      if (line !== undefined) resolve(line);
    });
  });
  child.kill('SIGINT');
  t.is(await told, 'waiting up to 60 s for 1 request; Ctrl-C again ends it now\n');
  child.kill('SIGINT');
  t.is(await ended, 'SIGINT');
});
