// Sessions in folders from the command line: kept by generate, looked after by the commands of `sessions`.
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { inspectSession, loadModel } from '../src/index.js';
import { failsWith, magicpig, model } from './support/command-line.js';
import { digests, generated } from './support/session-folder.js';
import { temporaryFolder } from './support/temporary.js';

type Json = Record<string, unknown>;

async function json(t: ExecutionContext, args: readonly string[], code = 0): Promise<Json> {
  const outcome = await magicpig([...args, '--json']);
  t.is(outcome.code, code, outcome.stdout + outcome.stderr);
  t.is(outcome.stderr, '');
  t.regex(outcome.stdout, /^[^\n]+\n$/);
  return JSON.parse(outcome.stdout) as Json;
}

const text = 'hello world, this is the beginning of a text';

/** A model's file, and the folder of a session that was made with it. */
async function kept(t: ExecutionContext) {
  const file = model(t);
  const folder = join(temporaryFolder(t), 'session');
  await goOn(file, folder, text);
  return { file, folder };
}

/** Six more tokens of a session, without the command line, which takes a second for each start. */
async function goOn(file: string, folder: string, prompt?: string): Promise<number[]> {
  await using loaded = await loadModel(file);
  using session = await loaded.openSession(folder);
  if (prompt !== undefined) await session.prefill(prompt);
  return await generated(session, { maxTokens: 6 });
}

test('generate keeps a session, reads only what is new, and goes on without a prompt', async (t) => {
  const file = model(t);
  const folder = join(temporaryFolder(t), 'session');
  const generate = (args: readonly string[]) => json(t, ['generate', '-m', file, '--session', folder, '-n', '6', ...args]);
  const first = await generate(['-p', text]);
  const { promptTokens } = first as { promptTokens: number };
  t.is(first.reusedTokens, 0);
  const unkept = await json(t, ['generate', '-m', file, '-n', '6', '-p', text]);
  t.deepEqual(unkept.tokens, first.tokens, 'a session changes nothing of the text');

  const second = await generate(['-p', text]);
  t.deepEqual(second.tokens, first.tokens);
  // The last token is read again, since its logits are no longer there.
  t.like(second, { promptTokens, reusedTokens: promptTokens - 1 });

  const longer = await generate(['-p', `${text} and more`]);
  t.is(longer.reusedTokens, promptTokens);
  const other = await magicpig(['generate', '-m', file, '--session', folder, '-n', '6', '-p', 'x']);
  t.is(other.code, 2);
  t.regex(other.stderr, /^magicpig: the session in .* holds another text, of [\d,]+ tokens; choose another folder/);

  await generate(['-p', text]);
  const on = await generate([]);
  t.like(on, { promptTokens: 0, reusedTokens: 0, generatedTokens: 6 });
  const twelve = await json(t, ['generate', '-m', file, '-n', '12', '-p', text, '--policy', 'exact']);
  t.deepEqual([...(first.tokens as number[]), ...(on.tokens as number[])], twelve.tokens);
  t.is((await json(t, ['sessions', 'inspect', folder])).tokens, promptTokens + 12);

  const seeded = await generate(['-t', '1', '--seed', '9']);
  t.is(seeded.generatedTokens, 6, 'another seed of draws is no other session');
  const outcome = await magicpig(['generate', '-m', file, '--session', folder, '-n', '2']);
  t.is(outcome.code, 0, outcome.stderr);
  t.regex(outcome.stderr, /^nothing read; 2 written at/);
});

test('generate --read-only leaves the session as it is', async (t) => {
  const { file, folder } = await kept(t);
  const before = digests(folder);
  const { tokens } = await json(t, ['generate', '-m', file, '--session', folder, '-n', '6', '--read-only']);
  t.deepEqual(digests(folder), before);
  t.deepEqual(await goOn(file, folder), tokens);
  t.notDeepEqual(digests(folder), before);
});

test('what a session cannot do is told in one line', async (t) => {
  const { file, folder } = await kept(t);
  const nowhere = join(folder, '..', 'nowhere');
  const generate = (...args: string[]) => magicpig(['generate', '-m', file, ...args]);
  failsWith(t, await generate('--session', nowhere), 1, /no session in .*nowhere; begin one with --prompt TEXT/);
  failsWith(t, await generate('--session', nowhere, '--read-only', '-p', 'x'), 1, /no session in .*nowhere\n/);
  t.false(existsSync(nowhere));
  failsWith(t, await generate('--read-only', '-p', 'x'), 2, /--session DIR/);
  failsWith(t, await generate('--session', '', '-p', 'x'), 2, /--session is empty/);
  failsWith(t, await generate('--session', folder, '-p', 'x', '--policy', 'lsh'), 1, /made with index sketch, and not with lsh/);
  const error = await json(t, ['generate', '-m', file, '--session', folder, '--sketch-bits', '2'], 1);
  t.like(error, { error: { code: 'SESSION_MISMATCH' } });
});

test('a text that cannot be read whole leaves no session behind, and one that was there as it was', async (t) => {
  const { file, folder } = await kept(t);
  const { tokens } = await inspectSession(folder);
  const fresh = join(folder, '..', 'fresh');
  for (const directory of [fresh, folder]) {
    failsWith(t, await magicpig(['generate', '-m', file, '--session', directory, '-p', text + ' and more'.repeat(1000)]), 1, /tokens, and the context is 1024/);
  }
  t.false(existsSync(fresh));
  t.is((await inspectSession(folder)).tokens, tokens);
});

test('sessions ls, inspect and verify say what is there', async (t) => {
  const { folder } = await kept(t);
  const root = join(folder, '..');
  const info = await json(t, ['sessions', 'inspect', folder]);
  t.deepEqual(Object.keys(info), ['directory', 'model', 'tokens', 'segments', 'bytes', 'diskBytes', 'lastUse', 'fingerprint']);
  t.like(info, { directory: folder, model: 'tiny', segments: 1, fingerprint: { seed: '0', index: 'sketch', sketchBits: '4', headDim: '64' } });
  const list = await json(t, ['sessions', 'ls', root]);
  t.deepEqual(list, { sessions: [info] });
  const report = await json(t, ['sessions', 'verify', folder]);
  t.deepEqual(Object.keys(report), ['ok', 'segments', 'tokens', 'bytes', 'problems']);
  t.like(report, { ok: true, segments: 1, tokens: info.tokens, problems: [] });

  const shown = async (...args: string[]) => {
    const { code, stdout, stderr } = await magicpig(['sessions', ...args]);
    t.is(code, 0, stderr);
    return stdout;
  };
  t.regex(await shown('ls', root), /^\S+session +\d+ tokens, \S+ [kM]B, tiny, \d{4}-\d\d-\d\d \d\d:\d\d\n$/);
  t.regex(await shown('inspect', folder), /^model +tiny\ntokens +\d+\n/);
  t.regex(await shown('verify', folder), /^whole: \d+ tokens, \S+ [a-zA-Z]+ compared\n$/);
  t.regex(await shown('ls', folder), /^no sessions in /);
});

test('verify finds damage, and exits with 1', async (t) => {
  const { folder } = await kept(t);
  const journal = readdirSync(folder).find((name) => name.startsWith('journal')) as string;
  const bytes = readFileSync(join(folder, journal));
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1;
  writeFileSync(join(folder, journal), bytes);
  const report = await json(t, ['sessions', 'verify', folder], 1);
  t.is(report.ok, false);
  const [problem] = report.problems as [{ path: string; offset: number; what: string }];
  t.deepEqual(Object.keys(problem), ['path', 'offset', 'what']);
  t.is(problem.path, join(folder, journal));
  const { code, stdout } = await magicpig(['sessions', 'verify', folder]);
  t.is(code, 1);
  t.regex(stdout, /journal-g\d+, byte \d+: /);
});

test('a session is packed, unpacked and removed', async (t) => {
  const { file, folder } = await kept(t);
  const root = join(folder, '..');
  const [archive, copy] = [join(root, 'a.tar.zst'), join(root, 'copy')];
  const packed = await json(t, ['sessions', 'export', folder, archive]);
  t.deepEqual(packed, { file: archive, bytes: readFileSync(archive).length });
  failsWith(t, await magicpig(['sessions', 'export', folder, archive]), 1, /a\.tar\.zst is there already/);
  const { code, stdout } = await magicpig(['sessions', 'import', archive, copy]);
  t.is(code, 0);
  t.regex(stdout, /copy: \d+ tokens, every checksum compared\n$/);
  t.deepEqual(await goOn(file, copy), await goOn(file, folder));
  t.deepEqual(await json(t, ['sessions', 'rm', copy]), { removed: copy });
  t.false(existsSync(copy));
  failsWith(t, await magicpig(['sessions', 'rm', copy]), 1, /no session in .*copy/);
  writeFileSync(join(folder, 'notes.txt'), 'mine');
  failsWith(t, await magicpig(['sessions', 'rm', folder]), 1, /notes\.txt .*nothing was removed/);
  t.is(readFileSync(join(folder, 'notes.txt'), 'utf8'), 'mine');
});

for (const [name, args, message] of [
  ['no subcommand', [], /sessions ls, inspect, verify, export, import or rm/],
  ['an unknown one', ['lst'], /lst/],
  ['no folder', ['inspect'], /sessions inspect takes the folder of a session/],
  ['no file', ['export', 'x'], /sessions export takes the folder of a session and the file/],
] as const) {
  test(`sessions with ${name} is wrong usage`, async (t) => {
    failsWith(t, await magicpig(['sessions', ...args]), 2, message);
  });
}

test('ls of a folder that is not there says so', async (t) => {
  failsWith(t, await magicpig(['sessions', 'ls', '/nowhere/at/all']), 1, /\/nowhere\/at\/all does not exist/);
});
