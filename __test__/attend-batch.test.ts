// Sessions that are attended together in a layer, as src/native.ts gives it: each gets what it gets alone, and fails by itself.
import { tmpdir } from 'node:os';

import test, { type ExecutionContext } from 'ava';

import { NativeSession, attendBatch } from '../src/native.js';
import type { NativePolicy } from '../src/native.js';
import { type Chunk, chunk, kvLength, qLength, shape, token } from './support/attention-rows.js';

function session(t: ExecutionContext, other: Partial<typeof shape> = {}): NativeSession {
  const made = NativeSession.create({ ...shape, ...other, threads: 2, seed: 1, directory: tmpdir() });
  t.teardown(() => { made.dispose(); });
  return made;
}

const prefill = async (of: NativeSession, { rows, q, k, v }: Chunk) => of.attendPrefill(0, rows, q, k, v);

/** A row for each session. */
const rowsOf = (out: Float32Array): Float32Array[] => Array.from({ length: out.length / qLength }, (_, row) => out.slice(row * qLength, (row + 1) * qLength));

const policies: readonly NativePolicy[] = [{ kind: 'exact' }, { kind: 'lsh', k: 4, l: 40 }, { kind: 'sketch' }];

test('each session gets to the bit what it gets alone', async (t) => {
  const sessions = async () => Promise.all(policies.map(async (policy, i) => {
    const made = session(t);
    made.setPolicy(policy);
    await prefill(made, chunk(100 + 700 * i, 40 + i));
    return made;
  }));
  const [alone, together] = [await sessions(), await sessions()];
  const step = chunk(3, 50);
  const expected = alone.map((one, row) => {
    const out = new Float32Array(qLength);
    one.attendDecode(0, ...token(step, row), out);
    return out;
  });
  const { q, k, v } = chunk(3, 50);
  const running = attendBatch(together, 0, { q, k, v });
  // The arrays are copies, and the sessions are taken.
  for (const array of [q, k, v]) array.fill(Number.NaN);
  for (const one of together) t.throws(() => one.stats(), { code: 'SESSION_BUSY' });
  const { out, failures } = await running;
  t.deepEqual(failures, [undefined, undefined, undefined]);
  t.deepEqual(rowsOf(out), expected);
  for (const [i, one] of together.entries()) {
    const [own, other] = [one.stats(), alone[i]!.stats()];
    t.deepEqual([own.rowsRead, own.sampledRows], [other.rowsRead, other.sampledRows]);
    t.true(own.attendSeconds > 0);
  }
  // Negative control: a row that is another's is noticed.
  t.notDeepEqual(rowsOf(out).toReversed(), expected);
});

test('each session fails by itself, with zeros', async (t) => {
  const [fine, gone, cancelled] = [session(t), session(t), session(t)];
  gone.dispose();
  // As many as libuv has threads: the batch does not begin before one is cancelled.
  const busy = Array.from({ length: 4 }, () => session(t));
  const long = chunk(8192, 60);
  const reading = busy.map(async (one) => prefill(one, long));
  const { q, k, v } = chunk(6, 61);
  const running = attendBatch([fine, gone, undefined, cancelled, busy[0], fine], 0, { q, k, v });
  for (const one of [cancelled, ...busy]) one.cancel();
  for (const { status } of await Promise.allSettled(reading)) t.is(status, 'rejected');
  const { out, failures } = await running;
  t.deepEqual(failures.map((failure) => failure?.code), [undefined, 'DISPOSED', undefined, 'ABORTED', 'SESSION_BUSY', 'SESSION_BUSY']);
  t.deepEqual(rowsOf(out).map((row) => row.every((value) => value === 0)), [false, true, true, true, true, true]);
  // Nothing was appended to who was cancelled, which goes on.
  for (let layer = 0; layer < shape.layers; layer += 1) {
    await attendBatch([cancelled], layer, { q: q.subarray(0, qLength), k: k.subarray(0, kvLength), v: v.subarray(0, kvLength) });
  }
  t.is(cancelled.stats().tokens, 1);
});

test('what is no batch is INVALID_OPTION, and a session of another shape fails alone', async (t) => {
  const [one, other] = [session(t), session(t, { heads: 2, kvHeads: 1 })];
  const { q, k, v } = chunk(2, 70);
  const refused = async (...batch: Parameters<typeof attendBatch>) => { await t.throwsAsync(attendBatch(...batch), { code: 'INVALID_OPTION' }); };
  await refused([], 0, { q, k, v });
  await refused([undefined, undefined], 0, { q, k, v });
  await refused([one], 0, { q, k, v });
  await refused([one, other], 0, { q, k: k.subarray(1), v });
  await refused([one, other], shape.layers, { q, k, v });
  t.is(one.stats().tokens, 0);
  const { failures } = await attendBatch([one, other], 0, { q, k, v });
  t.deepEqual(failures.map((failure) => failure?.code), [undefined, 'INVALID_OPTION']);
});
