import { setTimeout as sleep } from 'node:timers/promises';
import { lock } from 'proper-lockfile';
import { MagicpigError } from '../errors.js';
import { throwIfAborted } from './abort.js';
import { cacheError, makeFolderOf } from './cache.js';
import { errorCode } from './file-error.js';

/** A holder renews its lock twice in this time; one that stopped renewing is gone, and its lock is taken over. */
const staleMs = 10_000;
const pollMs = 200;

/**
 * Runs `work` while no other process works on `path`; waits for one that does. The signal that `work` gets also fires when
 * the lock is lost (a machine that slept for longer than the lock lasts).
 *
 * Throws ABORTED, CACHE_UNWRITABLE, and what `work` throws.
 */
export async function withLock<T>(path: string, signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const lost = new AbortController();
  const release = await acquire(path, signal, (error) => {
    lost.abort(new MagicpigError('DOWNLOAD_FAILED', `another process took over the download of ${path}; try again`, { cause: error }));
  });
  try {
    return await work(signal ? AbortSignal.any([signal, lost.signal]) : lost.signal);
  } finally {
    await release().catch(() => undefined);
  }
}

async function acquire(path: string, signal: AbortSignal | undefined, onCompromised: (error: Error) => void): Promise<() => Promise<void>> {
  const lockfilePath = `${path}.lock`;
  await makeFolderOf(lockfilePath);
  for (;;) {
    throwIfAborted(signal);
    try {
      return await lock(path, { lockfilePath, realpath: false, stale: staleMs, onCompromised });
    } catch (error) {
      if (errorCode(error) !== 'ELOCKED') throw cacheError(error, lockfilePath);
    }
    await sleep(pollMs, undefined, signal ? { signal } : {}).catch(() => undefined);
  }
}
