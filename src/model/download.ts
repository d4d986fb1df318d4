import type { Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, rename, rm, stat, truncate } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { MagicpigError } from '../errors.js';
import { throwIfAborted } from './abort.js';
import { cacheError, makeFolderOf } from './cache.js';
import { digestFile, startDigest } from './digest.js';
import type { Digest } from './digest.js';
import { withLock } from './lock.js';

export interface DownloadProgress {
  /** The file's name, for people. */
  readonly file: string;
  /** Bytes that are there, those of an earlier attempt included. */
  readonly received: number;
  readonly total: number;
}

export interface DownloadOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
}

export interface Download {
  readonly file: string;
  readonly bytes: number;
  readonly digest: Digest;
  /** Asks for the bytes from `offset` on. Rejects where no answer comes in time. */
  request(offset: number, signal: AbortSignal): Promise<Response>;
}

/** A connection that brings nothing for this long is given up and made anew. */
const stallMs = 30_000;
/** Waits before the next attempt. Progress starts the list anew; when it is used up the download has failed. */
const backoffMs = [500, 1000, 2000, 4000];

/**
 * Brings a file to `target`: bytes go to `<target>.incomplete`, which a later call resumes, and only what has the right
 * digest is renamed. One process at a time; a second one waits and finds the file there.
 *
 * Throws DOWNLOAD_FAILED, CHECKSUM_MISMATCH (the wrong bytes are removed), CACHE_UNWRITABLE or ABORTED.
 */
export async function download(what: Download, target: string, options: DownloadOptions = {}): Promise<void> {
  await makeFolderOf(target);
  await withLock(target, options.signal, async (signal) => {
    if (await holds(target, what.bytes)) return;
    const partial = `${target}.incomplete`;
    try {
      await new Transfer(what, partial, signal, options.onProgress).run();
      await rename(partial, target);
    } catch (error) {
      throw cacheError(error, partial);
    }
  });
}

/** Whether a file of that many bytes is there. Finished files were checked when they were written. */
export async function holds(path: string, bytes: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true && found.size === bytes;
}

/** To append, never through a symbolic link, where the system can tell. */
const appendOnly = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | ((constants as Partial<typeof constants>).O_NOFOLLOW ?? 0);

/** What is appended to is this file alone: no device, and no file that has another name too. */
async function refuseLink(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined || (found.isFile() && found.nlink === 1)) return;
  throw new MagicpigError('CACHE_UNWRITABLE', `${path} is a link or no regular file, and is not written to; remove it`);
}

class Transfer {
  #received = 0;
  #hash: Hash;

  constructor(
    readonly what: Download,
    readonly partial: string,
    readonly signal: AbortSignal,
    readonly onProgress: DownloadOptions['onProgress'],
  ) {
    this.#hash = startDigest(what.digest.algorithm, what.bytes);
  }

  async run(): Promise<void> {
    await refuseLink(this.partial);
    const file = await open(this.partial, appendOnly);
    try {
      await this.#resume();
      await this.#receiveAll(file);
      await file.sync();
    } finally {
      await file.close();
    }
    const { digest, file: name } = this.what;
    const actual = this.#hash.digest('hex');
    if (actual === digest.hex) return;
    await rm(this.partial, { force: true });
    throw new MagicpigError('CHECKSUM_MISMATCH', `${name} arrived with the ${digest.algorithm} ${actual} instead of ${digest.hex}; it was removed`);
  }

  /** Takes over what an earlier attempt left, unless it is more than the file can have. */
  async #resume(): Promise<void> {
    const { size } = await stat(this.partial);
    if (size > this.what.bytes) return this.#restart();
    try {
      await digestFile(this.#hash, this.partial, size, this.signal);
    } catch (error) {
      throwIfAborted(this.signal);
      throw error;
    }
    this.#report(size);
  }

  async #restart(): Promise<void> {
    await truncate(this.partial, 0);
    this.#hash = startDigest(this.what.digest.algorithm, this.what.bytes);
    this.#report(0);
  }

  async #receiveAll(file: FileHandle): Promise<void> {
    let attempt = 0;
    while (this.#received < this.what.bytes) {
      const before = this.#received;
      try {
        await this.#receive(file);
      } catch (error) {
        throwIfAborted(this.signal);
        if (MagicpigError.isInstance(error)) throw error;
        if (this.#received > before) attempt = 0;
        const wait = backoffMs[attempt++];
        if (wait === undefined) throw this.#failure(error);
        await sleep(wait, undefined, { signal: this.signal }).catch(() => undefined);
        throwIfAborted(this.signal);
      }
    }
  }

  /** One connection, from where the file ends to where the connection does. */
  async #receive(file: FileHandle): Promise<void> {
    const stalled = new AbortController();
    const response = await this.what.request(this.#received, AbortSignal.any([this.signal, stalled.signal]));
    // A server that ignores the range sends the whole file again.
    if (response.status === 200 && this.#received > 0) await this.#restart();
    if (response.body === null) throw new Error('the answer was empty');
    const timer = setTimeout(() => {
      stalled.abort(new Error(`nothing came for ${stallMs / 1000} s`));
    }, stallMs);
    try {
      for await (const chunk of response.body) {
        timer.refresh();
        await this.#append(file, chunk as Uint8Array);
      }
    } finally {
      clearTimeout(timer);
    }
    if (this.#received < this.what.bytes) throw new Error('the connection was cut');
  }

  async #append(file: FileHandle, chunk: Uint8Array): Promise<void> {
    if (this.#received + chunk.length > this.what.bytes) {
      await rm(this.partial, { force: true });
      throw new MagicpigError('CHECKSUM_MISMATCH', `${this.what.file} is longer than the ${this.what.bytes} bytes that were announced; it was removed`);
    }
    try {
      await file.appendFile(chunk);
    } catch (error) {
      throw cacheError(error, this.partial);
    }
    this.#hash.update(chunk);
    this.#report(this.#received + chunk.length);
  }

  #report(received: number): void {
    this.#received = received;
    this.onProgress?.({ file: this.what.file, received, total: this.what.bytes });
  }

  #failure(error: unknown): MagicpigError {
    const { file, bytes } = this.what;
    return new MagicpigError(
      'DOWNLOAD_FAILED',
      `the download of ${file} stopped at ${this.#received} of ${bytes} bytes (${reason(error)}); run the command again to go on from there`,
      { cause: error },
    );
  }
}

/** Why a connection failed: fetch says "fetch failed" and keeps the reason in its cause. */
export function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? error.cause : error;
  return ('code' in cause && typeof cause.code === 'string' ? cause.code : cause.message).replace(/\s+/g, ' ');
}
