// Codes of errors: the same list in the addon, in the package and in what is written about them.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { exitCode } from '../src/cli/terminal.js';
import { MagicpigError, errorCodes } from '../src/index.js';
import type { ErrorCode } from '../src/index.js';
import { refusalOf } from '../src/server/errors.js';

const root = join(import.meta.dirname, '..');

/** Codes in the sources of the crates that the addon's errors come from. */
function addonCodes(): string[] {
  const sources = ['dense', 'engine', 'kv-store', 'node'].flatMap((crate) => {
    const folder = join(root, 'crates', crate, 'src');
    const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.rs'));
    return names.map((name) => readFileSync(join(folder, name), 'utf8'));
  });
  const codes = sources.flatMap((source) => [...source.matchAll(/(?:=> |code: )"([A-Z]+(?:_[A-Z]+)*)"/g)].map(([, code]) => code as string));
  return [...new Set(codes)].sort();
}

test('every code of the addon is in the list, so that none arrives as NATIVE_FAILED', (t) => {
  const codes = addonCodes();
  t.deepEqual(codes.filter((code) => !Object.hasOwn(errorCodes, code)), []);
  // The scan finds what is there, in each of the crates.
  for (const code of ['GGUF_MALFORMED', 'SESSION_CORRUPT', 'SESSION_NEWER', 'SESSION_BUSY', 'DISPOSED', 'DISK_FULL']) t.true(codes.includes(code), code);
});

test('every code of a session is one that the addon or the package raises', (t) => {
  const raised = new Set(addonCodes());
  const own = Object.keys(errorCodes).filter((code) => code.startsWith('SESSION_') && !raised.has(code));
  t.deepEqual(own, []);
});

test('what is written about sessions names codes that there are', (t) => {
  const written = readFileSync(join(root, 'docs', 'sessions.md'), 'utf8');
  const named = [...written.matchAll(/`([A-Z]+_[A-Z_]+)`/g)].map(([, code]) => code as string);
  t.true(named.length > 5);
  t.deepEqual(named.filter((code) => !Object.hasOwn(errorCodes, code)), []);
  t.deepEqual(Object.keys(errorCodes).filter((code) => code.startsWith('SESSION_') && !named.includes(code)), []);
});

/** Cells of the rows of docs/errors.md that begin with a code, without the quotes around it. */
function documented(code: RegExp): string[][] {
  const lines = readFileSync(join(root, 'docs', 'errors.md'), 'utf8').split('\n');
  const rows = lines.filter((line) => line.startsWith('| `')).map((line) => line.slice(1, -1).split('|').map((cell) => cell.trim().replace(/^`(.*)`$/, '$1')));
  return rows.filter(([name]) => code.test(name!));
}

test('the table of errors has every code and no other, with its meaning, exit code, status and a way out', (t) => {
  const rows = documented(/^[A-Z_]+$/);
  t.deepEqual(rows.map(([code]) => code), Object.keys(errorCodes));
  for (const [name, meaning, exit, status, way, ...more] of rows) {
    const code = name as ErrorCode;
    t.is(meaning, errorCodes[code]);
    t.is(Number(exit), exitCode(code), code);
    t.is(Number(status), refusalOf(new MagicpigError(code, 'a message')).status, code);
    t.true(way!.length > 10 && more.length === 0, code);
  }
});

test('the table of the server’s own errors has those that are raised, with their status', (t) => {
  const folder = join(root, 'src', 'server');
  const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).map((name) => readFileSync(join(folder, name), 'utf8'));
  const raised = sources.flatMap((source) => [...source.matchAll(/new ApiError\((\d+), '([a-z_]+)'/g)].map(([, status, code]) => `${code} ${status}`));
  // Bodies that their schema does not allow.
  const validation = ['missing_required_parameter 400', 'invalid_value 400'];
  t.deepEqual(documented(/^[a-z_]+$/).map(([code, status]) => `${code} ${status}`).sort(), [...new Set([...raised, ...validation])].sort());
  t.true(raised.length > 15);
});

test('an error is known without its class', (t) => {
  const error = new MagicpigError('ABORTED', 'aborted by the caller');
  t.true(MagicpigError.isInstance(error));
  t.false(MagicpigError.isInstance(new Error('ABORTED')));
  t.false(MagicpigError.isInstance({ code: 'ABORTED' }));
});
