// Sessions in folders, as users hold them: what is opened again goes on as though it had never been closed.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import type { OpenSessionOptions, Session } from '../src/index.js';
import { digests, generated, longText, tinyModel } from './support/session-folder.js';
import { temporaryFolder } from './support/temporary.js';

const greedy = (maxTokens: number) => ({ maxTokens });
const drawn = (maxTokens: number) => ({ maxTokens, temperature: 1, seed: 4 });

async function logitsOf(session: Session): Promise<Float32Array[]> {
  const logits: Float32Array[] = [];
  for (const token of [7, 70, 200, 33]) logits.push(await session.step(token));
  return logits;
}

for (const policy of ['exact', 'lsh', 'sketch'] as const) {
  test(`a session opened again is one that was never closed, bit for bit: ${policy}`, async (t) => {
    const model = await tinyModel(t);
    const folder = join(temporaryFolder(t), 'session');
    const options = { policy, lshK: 6, lshL: 40, ...(policy === 'sketch' && { budget: 0.05 }), seed: 1 };
    using never = model.createSession(options);
    await never.prefill(longText());
    const first = await generated(never, drawn(16));
    {
      using session = await model.openSession(folder, options);
      await session.prefill(longText());
      t.deepEqual(await generated(session, drawn(16)), first);
      await session.checkpoint();
    }
    using again = await model.openSession(folder, options);
    t.deepEqual(again.tokens, never.tokens);
    const rest = await generated(never, drawn(64));
    t.deepEqual(await generated(again, drawn(64)), rest);
    const logits = await logitsOf(never);
    t.deepEqual(await logitsOf(again), logits);

    // Control: with another seed other keys are sampled, and logits show it; without sampling nothing changes.
    const fresh = async (seed: number) => {
      using session = model.createSession({ ...options, seed });
      await session.prefill(longText());
      return await logitsOf(session);
    };
    const [one, two] = [await fresh(1), await fresh(2)];
    t.is(one.every((row, i) => row.every((x, j) => x === two[i]?.[j])), policy === 'exact');
  });
}

test('nothing is asked for again: seed, policy and index are the session’s own', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  {
    using session = await model.openSession(folder, { policy: 'lsh', lshK: 6, lshL: 40, seed: 77 });
    await session.prefill(longText(300));
  }
  using session = await model.openSession(folder);
  t.is(session.stats().policy, 'lsh');
  t.is((await generated(session, greedy(3))).length, 3);
});

test('a text that is longer than a later context is not gone on with, and says so', async (t) => {
  const folder = join(temporaryFolder(t), 'session');
  {
    using session = await (await tinyModel(t)).openSession(folder);
    await session.prefill(longText(300));
  }
  using session = await (await tinyModel(t, 1, 64)).openSession(folder);
  const error = await t.throwsAsync(generated(session, greedy(3)), { code: 'CONTEXT_EXCEEDED' });
  t.regex(error.message, /has \d+ tokens, and the context is 64; .*--context/);
  t.true(session.tokens.length >= 300, 'it is as it was');
});

for (const options of [{ policy: 'sketch' }, { policy: 'lsh', lshK: 6, lshL: 40 }] as const) {
  test(`a whole text whose reading was interrupted is gone on with from its last 8,192 tokens: ${options.policy}`, async (t) => {
    const model = await tinyModel(t, 1, 12_000);
    const text = longText(10_000);
    const interrupt = async (session: Session, whole: boolean) => {
      const controller = new AbortController();
      const onProgress = ({ done }: { done: number }) => { if (done > 9000) controller.abort(); };
      await t.throwsAsync(session.prefill(text, { whole, signal: controller.signal, onProgress }), { code: 'ABORTED' });
      return session.tokens.length;
    };
    const folder = join(temporaryFolder(t), 'session');
    {
      using session = await model.openSession(folder, options);
      t.is(await interrupt(session, true), 8192);
    }
    using again = await model.openSession(folder);
    t.deepEqual(again.tokens, text.slice(0, 8192));
    await again.prefill(text, { whole: true });
    t.is(again.stats().reusedTokens, 8192);
    using never = model.createSession(options);
    await never.prefill(text);
    t.deepEqual(await generated(again, drawn(16)), await generated(never, drawn(16)), 'it is the one that was read at once');

    // Controls: what follows on a text is kept whole or not at all, and a session in memory has nowhere to go on from.
    using appended = await model.openSession(join(temporaryFolder(t), 'appended'));
    t.is(await interrupt(appended, false), 0);
    using inMemory = model.createSession();
    t.is(await interrupt(inMemory, true), 0);
  });
}

test('it checkpoints by itself: after reading, while it writes, and when it ends, is left or aborted', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  const controller = new AbortController();
  const cases: [how: string, shown: number, write: (session: Session, show: (token: number) => number) => Promise<void>][] = [
    ['reading', 0, () => Promise.resolve()],
    ['ending', 5, async (session, show) => { for await (const { token } of session.generate(greedy(5))) show(token); }],
    ['leaving', 3, async (session, show) => { for await (const { token } of session.generate()) if (show(token) === 3) break; }],
    ['aborting', 2, async (session, show) => {
      const error = await t.throwsAsync(async () => {
        for await (const { token } of session.generate({ signal: controller.signal })) if (show(token) === 2) controller.abort();
      });
      t.like(error, { code: 'ABORTED' });
    }],
  ];
  for (const [how, expected, write] of cases) {
    const shown: number[] = [];
    let tokens: readonly number[];
    {
      using session = await model.openSession(folder);
      await session.prefill(longText(100, expected));
      await write(session, (token) => shown.push(token));
      tokens = session.tokens;
    }
    using again = await model.openSession(folder);
    t.is(shown.length, expected);
    t.deepEqual(again.tokens, tokens, how);
    t.deepEqual(again.tokens.slice(tokens.length - shown.length), shown, how);
  }
  // Control: a single step is not kept without a checkpoint.
  using session = await model.openSession(folder);
  const { length } = session.tokens;
  await session.step(1);
  session[Symbol.dispose]();
  using again = await model.openSession(folder);
  t.is(again.tokens.length, length);
});

test('a whole text that begins like the session is read from where they part', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  const [half, text] = [longText(600), longText(1000)];
  const fresh = async (tokens: readonly number[]) => {
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(tokens);
    return await generated(session, greedy(12));
  };
  {
    using session = await model.openSession(folder, { policy: 'exact' });
    await session.prefill(half);
  }
  using session = await model.openSession(folder, { policy: 'exact' });
  const reading = async (tokens: readonly number[]) => {
    const seen: { done: number; total: number }[] = [];
    session.resetStats();
    await session.prefill(tokens, { whole: true, onProgress: (progress) => seen.push(progress) });
    return { seen, reused: session.stats().reusedTokens, prompt: session.stats().promptTokens };
  };
  t.deepEqual(await reading(text), { seen: [{ done: 1000, total: 1000 }], reused: 600, prompt: 1000 });
  t.deepEqual(await generated(session, greedy(12)), await fresh(text));
  // Equal: no row is made, and what was generated is forgotten.
  t.deepEqual(await reading(text), { seen: [{ done: 1000, total: 1000 }], reused: 999, prompt: 1000 });
  t.deepEqual(await reading(text), { seen: [], reused: 1000, prompt: 1000 });
  t.deepEqual(session.tokens, text);
  t.deepEqual(await generated(session, greedy(12)), await fresh(text));
  // Another text from 400 on, which is shorter too.
  const other = [...text.slice(0, 400), 5, 6, 7, 8];
  t.deepEqual(await reading(other), { seen: [{ done: 404, total: 404 }], reused: 400, prompt: 404 });
  t.deepEqual(await generated(session, greedy(12)), await fresh(other));
  t.deepEqual(session.tokens.slice(0, 404), other);
  // A text that the session has more than.
  t.like(await reading(other.slice(0, 100)), { reused: 99 });
  t.deepEqual(await generated(session, greedy(12)), await fresh(other.slice(0, 100)));
  // Nothing in common.
  t.like(await reading([9, 9, 9]), { reused: 0 });
  t.deepEqual(session.tokens, [9, 9, 9]);
});

test('a token that was shown and not yet taken through the model counts as the session’s', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill(longText(50));
  const [shown] = await generated(session, greedy(1));
  const { rowBytes } = session.stats();
  await session.prefill(session.tokens, { whole: true });
  t.is(session.stats().reusedTokens, 50);
  t.is(session.stats().rowBytes, rowBytes / 50 * 51);
  t.deepEqual(session.tokens, [...longText(50), shown]);
});

test('without whole a text is appended, also when it is the same', async (t) => {
  const model = await tinyModel(t);
  using session = await model.openSession(join(temporaryFolder(t), 'session'));
  await session.prefill('hello');
  await session.prefill('hello');
  t.is(session.tokens.length, 2);
  t.is(session.stats().reusedTokens, 0);
});

test('readers generate beside a writer and each other, and leave the folder as it is', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  const options: OpenSessionOptions = { budget: 0.1 };
  using writer = await model.openSession(folder, options);
  await writer.prefill(longText());
  const before = digests(folder);
  const [one, two] = [await model.openSession(folder, { ...options, readOnly: true }), await model.openSession(folder, { ...options, readOnly: true })];
  const tokens = await generated(one, greedy(40));
  await two.prefill(longText(200, 1));
  await two.prefill(longText(100), { whole: true });
  two.rewind(50);
  t.is((await generated(two, greedy(3))).length, 3);
  t.deepEqual(digests(folder), before);
  t.like(await t.throwsAsync(one.checkpoint()), { code: 'SESSION_READ_ONLY' });
  t.deepEqual(await generated(writer, greedy(40)), tokens, 'the writer goes on as its reader did');
  t.notDeepEqual(digests(folder), before, 'the control: a writer does change it');
  // A reader stays where it was opened.
  t.is(one.tokens.length, 1040);
  using late = await model.openSession(folder, { readOnly: true });
  t.deepEqual(late.tokens, writer.tokens);
  one[Symbol.dispose]();
  two[Symbol.dispose]();
});

test('only a session in a folder has checkpoints', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession();
  await session.prefill('hello');
  const error = await t.throwsAsync(session.checkpoint());
  t.like(error, { code: 'SESSION_READ_ONLY' });
  t.regex(error.message, /fork it into one/);
});

test('a fork goes on by itself, with or without a folder to begin from', async (t) => {
  const model = await tinyModel(t);
  const root = temporaryFolder(t);
  const path = (name: string) => join(root, name);
  using memory = model.createSession();
  using folder = await model.openSession(path('session'));
  for (const [session, name] of [[memory, 'one'], [folder, 'two']] as const) {
    await session.prefill(longText());
    await generated(session, greedy(3));
    await session.fork(path(name));
    const here = session.tokens;
    using fork = await model.openSession(path(name));
    t.deepEqual(fork.tokens, here);
    await fork.prefill([1, 2, 3]);
    await generated(fork, greedy(5));
    t.deepEqual(session.tokens, here, 'the fork is another session');
    using untouched = model.createSession();
    await untouched.prefill(longText());
    await generated(untouched, greedy(3));
    t.deepEqual(await generated(session, greedy(8)), await generated(untouched, greedy(8)));
    t.true(fork.tokens.length > here.length + 3, 'it wrote on');
    t.like(await t.throwsAsync(session.fork(path(name))), { code: 'SESSION_EXISTS' });
  }
  t.deepEqual(readdirSync(root).sort(), ['one', 'session', 'two']);
});

test('what was rewound stays away, and the text goes on from there', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  using direct = model.createSession({ policy: 'exact' });
  await direct.prefill(longText(700));
  const expected = await generated(direct, greedy(6));
  {
    using session = await model.openSession(folder, { policy: 'exact' });
    await session.prefill(longText());
    session.rewind(700);
    session[Symbol.dispose]();
    using not = await model.openSession(folder, { policy: 'exact' });
    t.is(not.tokens.length, 1000, 'the control: there was no checkpoint');
    not.rewind(700);
    await not.checkpoint();
  }
  using session = await model.openSession(folder, { policy: 'exact' });
  t.deepEqual(session.tokens, longText(700));
  t.deepEqual(await generated(session, greedy(6)), expected);
  session.rewind(0);
  t.like(await t.throwsAsync(generated(session, greedy(1))), { code: 'EMPTY_PROMPT' });
  await session.prefill(longText(700));
  t.deepEqual(await generated(session, greedy(6)), expected);
});

test('an aborted reading is not in the folder, and the session goes on from before it', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  const controller = new AbortController();
  {
    using session = await model.openSession(folder, { policy: 'exact' });
    await session.prefill(longText(60));
    const reading = session.prefill(longText(2000), { signal: controller.signal, onProgress: () => { controller.abort(); } });
    t.like(await t.throwsAsync(reading), { code: 'ABORTED' });
    await session.checkpoint();
  }
  using session = await model.openSession(folder, { policy: 'exact' });
  t.is(session.tokens.length, 60);
  using direct = model.createSession({ policy: 'exact' });
  await direct.prefill(longText(60));
  t.deepEqual(await generated(session, greedy(6)), await generated(direct, greedy(6)));
});

test('a session is not made where it is only looked for', async (t) => {
  const model = await tinyModel(t);
  const folder = join(temporaryFolder(t), 'session');
  for (const options of [{ create: false }, { readOnly: true }]) {
    t.like(await t.throwsAsync(model.openSession(folder, options)), { code: 'SESSION_NOT_FOUND' });
    t.false(existsSync(folder));
  }
  t.like(await t.throwsAsync(model.openSession(folder, { readOnly: true, create: true })), { code: 'INVALID_OPTION' });
  t.like(await t.throwsAsync(model.openSession('')), { code: 'INVALID_OPTION' });
});
