// The addon as src/native.ts gets it: numbers, codes of errors, what may run beside what, and that nothing leaks. The tests
// run one after the other, since some count open files and others what the event loop has time for.
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import test, { type ExecutionContext } from 'ava';

import { errorCodes } from '../src/errors.js';
import { NativeSession, cpuInfo, weigh, type NativeSessionOptions } from '../index.js';
import { type Chunk, chunk, kvLength, qLength, shape, token } from './support/attention-rows.js';

const options: NativeSessionOptions = { ...shape, threads: 2, seed: 1 };

/** Rows for a prefill that takes long enough to be met while it runs. */
const LONG = 8192;

const prefill = (session: NativeSession, layer: number, { rows, q, k, v }: Chunk): Promise<Float32Array> =>
  session.attendPrefill(layer, rows, q, k, v);

function throwsCode(t: ExecutionContext, code: keyof typeof errorCodes, call: () => unknown): string {
  return t.throws(call, { instanceOf: Error, code }).message;
}

async function rejectsCode(t: ExecutionContext, code: keyof typeof errorCodes, promise: Promise<unknown>): Promise<string> {
  return (await t.throwsAsync(promise, { instanceOf: Error, code })).message;
}

/** Exact causal attention of the chunk's last row, in double precision. */
function attendLast({ rows, q, k, v }: Chunk): Float32Array {
  const { heads, kvHeads, headDim } = shape;
  const out = new Float32Array(qLength);
  for (let head = 0; head < heads; head++) {
    const at = (row: number, j: number): number => row * kvLength + Math.floor((head * kvHeads) / heads) * headDim + j;
    const weights = Array.from({ length: rows }, (_, row) => {
      let dot = 0;
      for (let j = 0; j < headDim; j++) dot += q[(rows - 1) * qLength + head * headDim + j]! * k[at(row, j)]!;
      return Math.exp(dot / Math.sqrt(headDim));
    });
    const sum = weights.reduce((a, b) => a + b);
    for (let j = 0; j < headDim; j++) out[head * headDim + j] = weights.reduce((o, w, row) => o + (w * v[at(row, j)]!) / sum, 0);
  }
  return out;
}

const greatestDifference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((greatest, value, i) => Math.max(greatest, Math.abs(value - b[i]!)), 0);

test.serial('prefill and decode attend exactly, up to the rounding to bf16', async (t) => {
  const session = new NativeSession(options);
  const text = chunk(150, 1);
  const whole = await prefill(session, 0, text);
  t.is(whole.length, 150 * qLength);
  const expected = attendLast(text);
  // bf16 has 8 bits: rows, and the queries and weights of prefill, differ by 2^-9 of values up to 1, averages by less.
  t.true(greatestDifference(whole.subarray(149 * qLength), expected) < 2 ** -9);

  const out = new Float32Array(qLength);
  for (let row = 0; row < 150; row++) session.attendDecode(1, ...token(text, row), out);
  t.true(greatestDifference(expected, out) < 2 ** -9);
  t.true(greatestDifference(whole.subarray(149 * qLength), out) < 2 ** -9);
  // Negative control: another token's output is not that close.
  t.true(greatestDifference(whole.subarray(148 * qLength, 149 * qLength), expected) > 2 ** -5);
  session.dispose();
});

test.serial('lsh samples from its index and reports what it read', async (t) => {
  const session = new NativeSession(options);
  session.setPolicy({ kind: 'lsh', k: 4, l: 40 });
  const text = chunk(2000, 2);
  for (let layer = 0; layer < shape.layers; layer++) await prefill(session, layer, text);
  await session.buildIndex();
  const built = session.stats();
  t.is(built.tokens, 2000);
  t.true(built.indexedTokens > 1800 && built.indexedTokens < 2000, `${built.indexedTokens} indexed`);
  t.is(built.rowBytes, 2000 * shape.layers * 2 * kvLength * 2);
  t.true(built.indexBytes > 0);
  t.is(built.rowsRead, 0);

  const next = chunk(1, 3);
  const out = new Float32Array(qLength);
  for (let layer = 0; layer < shape.layers; layer++) session.attendDecode(layer, next.q, next.k, next.v, out);
  const { sampledRows, indexedRows, rowsRead, attendSeconds, tokens } = session.stats();
  t.true(sampledRows > 0 && sampledRows < indexedRows, `${sampledRows} of ${indexedRows}`);
  t.true(rowsRead > sampledRows && attendSeconds > 0);
  t.is(tokens, 2001);

  session.resetStats();
  t.is(session.stats().rowsRead, 0);
  t.is(session.stats().tokens, 2001);
  session.truncate(1000);
  t.is(session.stats().tokens, 1000);
  session.dispose();
});

test.serial('a prefill reads its inputs as they were when it was called', async (t) => {
  const session = new NativeSession(options);
  const text = chunk(300, 4);
  const running = prefill(session, 0, { ...text, q: text.q.slice(), k: text.k.slice(), v: text.v.slice() });
  const overwritten = chunk(300, 4);
  const second = prefill(new NativeSession(options), 0, overwritten);
  for (const array of [overwritten.q, overwritten.k, overwritten.v]) array.fill(Number.NaN);
  t.deepEqual(await second, await running);
  session.dispose();
});

test.serial('numbers out of range are INVALID_OPTION and say which', (t) => {
  for (const [name, value] of [
    ['layers', 0],
    ['layers', Number.NaN],
    ['heads', 3],
    ['kvHeads', 0],
    ['headDim', 72],
    ['headDim', 64.5],
    ['threads', 0],
    ['threads', Number.POSITIVE_INFINITY],
    ['threads', 1e6],
    ['seed', -1],
    ['seed', 2 ** 32],
  ] as const) {
    throwsCode(t, 'INVALID_OPTION', () => new NativeSession({ ...options, [name]: value }));
  }
  t.regex(throwsCode(t, 'INVALID_OPTION', () => new NativeSession({ ...options, rows: 'int4' as 'int8' })), /rows int4/);
  const session = new NativeSession(options);
  for (const policy of [{ kind: 'lsh', k: 0 }, { kind: 'lsh', k: 17 }, { kind: 'lsh', l: 1 }, { kind: 'lsh', l: Number.NaN }, { kind: 'topk', budget: 2 }, { kind: 'magic' }]) {
    throwsCode(t, 'INVALID_OPTION', () => { session.setPolicy(policy as { kind: 'lsh' }); });
  }
  const { q, k, v } = chunk(1, 5);
  for (const layer of [Number.NaN, -1, 0.5, shape.layers, Number.POSITIVE_INFINITY]) {
    t.regex(throwsCode(t, 'INVALID_OPTION', () => { session.attendDecode(layer, q, k, v, new Float32Array(qLength)); }), /layer/);
  }
  for (const tokens of [Number.NaN, -1, 1]) throwsCode(t, 'INVALID_OPTION', () => { session.truncate(tokens); });
  t.is(session.stats().tokens, 0);
  session.dispose();
});

test.serial('arrays of wrong lengths, and an output that is an input, are INVALID_OPTION and change nothing', async (t) => {
  const session = new NativeSession({ ...options, layers: 1 });
  const { q, k, v } = chunk(1, 6);
  const out = new Float32Array(qLength);
  const empty = new Float32Array(0);
  for (const [a, b, c, d] of [[empty, k, v, out], [q, empty, v, out], [q, k, v.subarray(1), out], [q, k, v, empty], [k, k, v, k]] as const) {
    throwsCode(t, 'INVALID_OPTION', () => { session.attendDecode(0, a, b, c, d); });
  }
  t.regex(throwsCode(t, 'INVALID_OPTION', () => { session.attendDecode(0, q, k, v, q); }), /shares memory/);
  const both = new Float32Array(2 * qLength - 1);
  t.regex(
    throwsCode(t, 'INVALID_OPTION', () => { session.attendDecode(0, both.subarray(0, qLength), k, v, both.subarray(qLength - 1)); }),
    /shares memory/,
  );
  throwsCode(t, 'INVALID_OPTION', () => { weigh(q, 1, 1, out.subarray(1)); });
  t.regex(throwsCode(t, 'INVALID_OPTION', () => { weigh(q, 1, 1, q); }), /shares memory/);
  await rejectsCode(t, 'INVALID_OPTION', session.attendPrefill(0, 2, q, k, v));
  await rejectsCode(t, 'INVALID_OPTION', session.attendPrefill(0, 0, empty, empty, empty));
  await rejectsCode(t, 'INVALID_OPTION', session.attendPrefill(Number.NaN, 1, q, k, v));
  await rejectsCode(t, 'INVALID_OPTION', session.attendPrefill(0, 1.5, q, k, v));
  t.is(session.stats().tokens, 0);
  session.attendDecode(0, q, k, v, out);
  t.is(session.stats().tokens, 1);
  session.dispose();
});

test.serial('a directory that cannot hold files is STORE_IO', (t) => {
  const message = throwsCode(t, 'STORE_IO', () => new NativeSession({ ...options, directory: '/nowhere/at all' }));
  t.regex(message, /\/nowhere\/at all/);
});

test.serial('while a prefill runs, calls fail at once with SESSION_BUSY and the event loop turns', async (t) => {
  const session = new NativeSession(options);
  const running = prefill(session, 0, chunk(LONG, 7));
  const { q, k, v } = chunk(1, 8);
  let turns = 0;
  const ticking = setInterval(() => turns++, 1);
  try {
    for (const wait of [0, 20]) {
      await sleep(wait);
      throwsCode(t, 'SESSION_BUSY', () => { session.attendDecode(0, q, k, v, new Float32Array(qLength)); });
      throwsCode(t, 'SESSION_BUSY', () => { session.setPolicy({ kind: 'exact' }); });
      throwsCode(t, 'SESSION_BUSY', () => { session.truncate(0); });
      throwsCode(t, 'SESSION_BUSY', () => session.stats());
      throwsCode(t, 'SESSION_BUSY', () => { session.resetStats(); });
    }
    await Promise.all([
      rejectsCode(t, 'SESSION_BUSY', session.attendPrefill(0, 1, q, k, v)),
      rejectsCode(t, 'SESSION_BUSY', session.buildIndex()),
    ]);
    t.true(turns > 2);
    session.cancel();
    await rejectsCode(t, 'ABORTED', running);
  } finally {
    clearInterval(ticking);
  }
  session.truncate(0);
  t.is(session.stats().tokens, 0);
  session.dispose();
});

test.serial('cancel stops what runs, before it starts or in the middle, and not what comes after', async (t) => {
  const session = new NativeSession({ ...options, layers: 1 });
  for (const wait of [0, 1, 50]) {
    const running = prefill(session, 0, chunk(LONG, 9));
    if (wait > 0) await sleep(wait);
    session.cancel();
    await rejectsCode(t, 'ABORTED', running);
    session.truncate(0);
  }
  session.cancel();
  const text = chunk(100, 10);
  await prefill(session, 0, text);
  t.is(session.stats().tokens, 100);

  session.truncate(0);
  session.setPolicy({ kind: 'lsh', k: 10, l: 150 });
  for (let part = 0; part < 8; part++) await prefill(session, 0, chunk(1024, 11 + part));
  const indexing = session.buildIndex();
  session.cancel();
  await rejectsCode(t, 'ABORTED', indexing);
  await session.buildIndex();
  t.true(session.stats().indexedTokens > 0);
  session.dispose();
});

test.serial('every call on a disposed session is DISPOSED, but cancel and dispose', async (t) => {
  const session = new NativeSession(options);
  session.dispose();
  session.dispose();
  session.cancel();
  const { q, k, v } = chunk(1, 20);
  throwsCode(t, 'DISPOSED', () => { session.attendDecode(0, q, k, v, new Float32Array(qLength)); });
  throwsCode(t, 'DISPOSED', () => { session.setPolicy({ kind: 'exact' }); });
  throwsCode(t, 'DISPOSED', () => { session.truncate(0); });
  throwsCode(t, 'DISPOSED', () => session.stats());
  throwsCode(t, 'DISPOSED', () => { session.resetStats(); });
  await rejectsCode(t, 'DISPOSED', session.attendPrefill(0, 1, q, k, v));
  await rejectsCode(t, 'DISPOSED', session.buildIndex());
});

const openFiles = (): number => readdirSync('/proc/self/fd').length;

test.serial('dispose while a prefill runs cancels it and frees when it has stopped', async (t) => {
  const before = openFiles();
  const session = new NativeSession(options);
  const running = prefill(session, 0, chunk(LONG, 21));
  await sleep(20);
  t.true(openFiles() > before);
  session.dispose();
  throwsCode(t, 'DISPOSED', () => session.stats());
  await rejectsCode(t, 'ABORTED', running);
  t.is(openFiles(), before);
});

/** Resident memory once JavaScript's garbage is gone, outputs of prefills above all: what a collection finds is given back in a later turn. */
async function residentMemory(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let turn = 0; turn < 3; turn++) {
    collect();
    await new Promise((resolve) => { setImmediate(resolve); });
  }
  return process.memoryUsage().rss;
}

test.serial('200 sessions leave neither files nor memory behind', async (t) => {
  const text = chunk(1000, 22);
  const use = async (): Promise<void> => {
    const session = new NativeSession({ ...options, layers: 1 });
    session.setPolicy({ kind: 'lsh', k: 8, l: 100 });
    await prefill(session, 0, text);
    await session.buildIndex();
    const { rowBytes, indexBytes } = session.stats();
    t.true(rowBytes + indexBytes > 500_000);
    session.dispose();
  };
  for (let warm = 0; warm < 60; warm++) await use();
  const files = openFiles();
  const memory = await residentMemory();
  for (let i = 0; i < 200; i++) await use();
  t.is(openFiles(), files);
  // Had each of them kept its rows or its index, it would be over 100 MB.
  const grown = await residentMemory() - memory;
  t.true(grown < 25e6, `${grown} bytes`);
});

test.serial('cpuInfo names the kernels that are used', (t) => {
  const { isa, detected, cores } = cpuInfo();
  t.is(detected[0], 'scalar');
  t.true(detected.includes(isa));
  t.true(cores >= 1);
});
