// What is no session, none that fits, or a damaged one is refused: with a code, and a message that names what is wrong.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { exportSession, importSession, inspectSession, listSessions, removeSession, verifySession } from '../src/index.js';
import type { ErrorCode, Model, OpenSessionOptions } from '../src/index.js';
import { isSealed, withVersion } from './support/reseal.js';
import { longText, tinyModel, tinyModelFile } from './support/session-folder.js';
import { temporaryFolder } from './support/temporary.js';

/** A session of 300 tokens in a folder that nobody has open. */
async function kept(t: ExecutionContext, model: Model, options: OpenSessionOptions = {}): Promise<string> {
  const folder = join(temporaryFolder(t), 'session');
  using session = await model.openSession(folder, options);
  await session.prefill(longText(300));
  return folder;
}

async function refused(t: ExecutionContext, work: Promise<unknown> | (() => unknown), code: ErrorCode, message: RegExp): Promise<void> {
  const error = await t.throwsAsync(async () => { await (typeof work === 'function' ? work() : work); });
  t.like(error, { code, name: 'MagicpigError' });
  t.regex(error.message, message);
  t.false(error.message.includes('\n'));
}

test('a session that was made with something else is refused by the name of what differs', async (t) => {
  const model = await tinyModel(t);
  const folder = await kept(t, model, { seed: 5 });
  const open = (options: OpenSessionOptions, by = model) => by.openSession(folder, options);
  const code = 'SESSION_MISMATCH';
  await refused(t, open({}, await tinyModel(t, 2)), code, /made with a model of other weights; open it/);
  await refused(t, open({ seed: 6 }), code, /seed 5, and not with 6/);
  await refused(t, open({ policy: 'lsh' }), code, /index sketch, and not with lsh/);
  await refused(t, open({ policy: 'sketch', sketchBits: 2 }), code, /sketchBits 4, and not with 2/);
  await refused(t, open({ policy: 'sketch', residual: true }), code, /residual false, and not with true/);
  await refused(t, open({ readOnly: true, seed: 6 }), code, /seed/);
  const tables = await kept(t, model, { policy: 'lsh', lshK: 6, lshL: 40 });
  const corrected = await kept(t, model, { residual: true });
  await refused(t, model.openSession(corrected, { residual: false }), code, /residual true, and not with false/);
  using again = await model.openSession(corrected);
  t.is(again.tokens.length, 300);
  await refused(t, model.openSession(tables, { lshK: 7 }), code, /lshK 6, and not with 7/);
  await refused(t, model.openSession(tables, { policy: 'sketch' }), code, /index lsh, and not with sketch/);
  // Controls: what fits, and exact, which samples from no index; another budget is no other index.
  for (const options of [{ seed: 5 }, { sketchBits: 4 }, { policy: 'exact' }, { budget: 0.5 }] as const) {
    using session = await open(options);
    t.is(session.tokens.length, 300);
  }
  using session = await open({ policy: 'exact' });
  await refused(t, () => { session.setPolicy({ policy: 'lsh' }); }, 'INVALID_OPTION', /sketchBits 4/);
});

test('one writer at a time, in this process and in others', async (t) => {
  const model = await tinyModel(t);
  const folder = await kept(t, model);
  {
    using writer = await model.openSession(folder);
    await refused(t, model.openSession(folder), 'SESSION_LOCKED', new RegExp(`process ${process.pid} on `));
    t.is(writer.tokens.length, 300);
    await refused(t, () => { removeSession(folder); }, 'SESSION_LOCKED', /open for writing/);
  }
  const child = spawn(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'support', 'kept-writer.ts'), tinyModelFile(t), folder]);
  t.teardown(() => child.kill('SIGKILL'));
  await once(createInterface({ input: child.stdout }), 'line');
  await refused(t, model.openSession(folder), 'SESSION_LOCKED', new RegExp(`process ${child.pid} on .*open it for reading`));
  using reader = await model.openSession(folder, { readOnly: true });
  t.true(reader.tokens.length >= 300);
  const gone = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGKILL');
  await gone;
  using writer = await model.openSession(folder);
  t.true(writer.tokens.length >= 300, 'a lock ends with its process');
});

test('what is no session is named and left alone', async (t) => {
  const model = await tinyModel(t);
  const root = temporaryFolder(t);
  const [foreign, file] = [join(root, 'foreign'), join(root, 'file')];
  mkdirSync(foreign);
  writeFileSync(join(foreign, 'notes.txt'), 'mine');
  writeFileSync(file, 'mine too');
  await refused(t, model.openSession(foreign), 'SESSION_EXISTS', /foreign is there already/);
  await refused(t, model.openSession(foreign, { readOnly: true }), 'SESSION_NOT_FOUND', /no session in .*foreign/);
  await refused(t, () => { removeSession(foreign); }, 'SESSION_NOT_FOUND', /foreign/);
  writeFileSync(join(foreign, 'MANIFEST'), 'a list of goods, much longer than a header of sixty-four bytes would be, and in no way like one');
  await refused(t, model.openSession(foreign), 'SESSION_FOREIGN', /MANIFEST is not a file of a session/);
  await refused(t, () => { removeSession(foreign); }, 'SESSION_FOREIGN', /MANIFEST/);
  await refused(t, inspectSession(foreign), 'SESSION_FOREIGN', /MANIFEST/);
  t.deepEqual(readdirSync(foreign).sort(), ['MANIFEST', 'notes.txt']);
  t.is(readFileSync(file, 'utf8'), 'mine too');
});

test('a place that cannot be written is named', async (t) => {
  const model = await tinyModel(t);
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, '');
  using session = model.createSession();
  await session.prefill('hello');
  for (const [folder, code, message] of [
    [join(file, 'session'), 'FILE_NOT_FOUND', /file is not a folder/],
    [file, 'SESSION_EXISTS', /file is there already/],
    ['/nowhere/session', 'FILE_NOT_FOUND', /\/nowhere does not exist/],
    ['/sys/session', 'PERMISSION_DENIED', /not allowed to .*\/sys/],
  ] as const) {
    await refused(t, model.openSession(folder), code, message);
    await refused(t, session.fork(folder), code, message);
  }
  t.is(session.tokens.length, 1);
});

test('damage is told by kind and place, and verify finds it', async (t) => {
  const model = await tinyModel(t);
  // A fork has its rows in files of their own, not in the journal.
  const original = await model.openSession(await kept(t, model));
  const whole = join(temporaryFolder(t), 'session');
  await original.fork(whole);
  original[Symbol.dispose]();
  const at = (folder: string, start: string) => {
    const name = readdirSync(folder).find((entry) => entry.startsWith(start));
    if (name === undefined) throw new Error(`no ${start} among ${readdirSync(folder).join()}`);
    return join(folder, name);
  };
  const flip = (path: string, offset: number) => {
    const bytes = readFileSync(path);
    bytes[offset] = (bytes[offset] as number) ^ 1;
    writeFileSync(path, bytes);
  };
  const cases: [string, (folder: string) => void, ErrorCode, RegExp][] = [
    ['a bit of the manifest', (folder) => { flip(join(folder, 'MANIFEST'), 100); }, 'SESSION_CORRUPT', /MANIFEST is damaged at byte 64/],
    ['a bit of its header', (folder) => { flip(join(folder, 'MANIFEST'), 20); }, 'SESSION_CORRUPT', /MANIFEST is damaged at byte 0/],
    ['half a manifest', (folder) => { truncateSync(join(folder, 'MANIFEST'), 90); }, 'SESSION_TRUNCATED', /MANIFEST has 90 bytes and should have/],
    ['no journal', (folder) => { rmSync(at(folder, 'journal')); }, 'SESSION_FILE_MISSING', /journal-g\d+ is missing/],
    ['a short file of rows', (folder) => { truncateSync(at(folder, 's000000-rows'), 100); }, 'SESSION_TRUNCATED', /s000000-rows-g\d+ has 100 bytes/],
    ['a bit of the journal’s header', (folder) => { flip(at(folder, 'journal'), 20); }, 'SESSION_CORRUPT', /journal-g\d+ is damaged at byte 0/],
    ['no file of rows', (folder) => { rmSync(at(folder, 's000000-rows')); }, 'SESSION_FILE_MISSING', /s000000-rows-g\d+ is missing/],
  ];
  for (const [what, damage, code, message] of cases) {
    const folder = join(temporaryFolder(t), 'copy');
    cpSync(whole, folder, { recursive: true });
    damage(folder);
    const { problems } = await verifySession(folder);
    t.true(problems.length > 0, what);
    await refused(t, model.openSession(folder), code, message);
    t.regex(problems.map(({ path, what: wrong }) => `${path} ${wrong}`).join(), new RegExp(message.source.split(' ')[0] as string), what);
    // A damaged session can be removed.
    removeSession(folder);
    await refused(t, inspectSession(folder), 'SESSION_NOT_FOUND', /copy/);
  }
  t.deepEqual((await verifySession(whole)).problems, [], 'the control: the session that was copied is whole');
  using session = await model.openSession(whole);
  t.is(session.tokens.length, 300);
});

test('a session of a later version is not misread', async (t) => {
  const model = await tinyModel(t);
  const folder = await kept(t, model);
  const path = join(folder, 'MANIFEST');
  const manifest = readFileSync(path);
  t.true(isSealed(manifest));
  writeFileSync(path, withVersion(manifest, 2));
  for (const attempt of [() => model.openSession(folder), () => inspectSession(folder), () => verifySession(folder)]) {
    await refused(t, attempt, 'SESSION_NEWER', /version 2; this program reads up to version 1/);
  }
  const root = join(folder, '..');
  t.like(await listSessions(root), [{ directory: folder, error: { code: 'SESSION_NEWER' } }]);
  writeFileSync(path, withVersion(manifest, 1));
  t.is((await inspectSession(folder)).tokens, 300);
});

test('an archive is the session, and a damaged one makes none', async (t) => {
  const model = await tinyModel(t);
  const folder = await kept(t, model);
  const root = join(folder, '..');
  const [archive, copy] = [join(root, 'session.tar.zst'), join(root, 'copy')];
  const size = await exportSession(folder, archive);
  t.is(size, readFileSync(archive).length);
  await refused(t, exportSession(folder, archive), 'SESSION_EXISTS', /session\.tar\.zst is there already/);
  await importSession(archive, copy);
  using session = await model.openSession(copy);
  t.deepEqual(session.tokens, longText(300));
  await refused(t, importSession(archive, copy), 'SESSION_EXISTS', /copy is there already/);
  await refused(t, importSession(join(root, 'nowhere'), join(root, 'a')), 'STORE_IO', /nowhere/);
  const bytes = readFileSync(archive);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 0xff;
  const damaged = join(root, 'damaged');
  writeFileSync(damaged, bytes);
  await t.throwsAsync(importSession(damaged, join(root, 'b')));
  await refused(t, importSession('', 'x'), 'INVALID_OPTION', /archive/);
  t.deepEqual(readdirSync(root).sort(), ['copy', 'damaged', 'session', 'session.tar.zst']);
});
