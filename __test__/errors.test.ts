// Codes of errors: the same list in the addon, in the package and in what is written about them.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { MagicpigError, errorCodes } from '../src/index.js';

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

test('an error is known without its class', (t) => {
  const error = new MagicpigError('ABORTED', 'aborted by the caller');
  t.true(MagicpigError.isInstance(error));
  t.false(MagicpigError.isInstance(new Error('ABORTED')));
  t.false(MagicpigError.isInstance({ code: 'ABORTED' }));
});
