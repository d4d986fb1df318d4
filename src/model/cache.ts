import { rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { errorCode } from './file-error.js';
import { makeFolder } from './make-folder.js';

/** Where downloaded models lie, by the variables that Hugging Face's own tools read. */
export interface Cache {
  /** Hugging Face's cache: models--owner--name/{blobs,refs,snapshots}. */
  readonly hub: string;
  /** Models that did not come from the hub. Not inside `hub`, whose tools expect nothing but repositories there. */
  readonly own: string;
  /** True where no network may be used. */
  readonly offline: boolean;
}

export function cacheFromEnvironment(environment: NodeJS.ProcessEnv = process.env): Cache {
  const set = (name: string) => environment[name] || undefined;
  const home = set('HF_HOME') ?? join(set('XDG_CACHE_HOME') ?? join(homedir(), '.cache'), 'huggingface');
  return {
    hub: set('HF_HUB_CACHE') ?? set('HUGGINGFACE_HUB_CACHE') ?? join(home, 'hub'),
    own: join(home, 'magicpig'),
    offline: /^(1|on|yes|true)$/i.test(environment.HF_HUB_OFFLINE ?? ''),
  };
}

/** What a failed write to the cache means to the caller. */
export function cacheError(error: unknown, path: string): MagicpigError {
  if (MagicpigError.isInstance(error)) return error;
  const code = errorCode(error) ?? String(error);
  const reason = code === 'ENOSPC' ? 'its disk is full' : `it cannot be written (${code})`;
  return new MagicpigError('CACHE_UNWRITABLE', `the cache of models cannot be used: ${reason} at ${path}; set HF_HOME to a folder that can be written`, { cause: error });
}

/** Makes the folder that is to hold `path`. Throws CACHE_UNWRITABLE. */
export async function makeFolderOf(path: string): Promise<void> {
  try {
    await makeFolder(dirname(path));
  } catch (error) {
    throw cacheError(error, dirname(path));
  }
}

/** Replaces a small file whole: readers see the old text or the new. Throws CACHE_UNWRITABLE. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.new`;
  await makeFolderOf(path);
  try {
    await writeFile(temporary, text);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw cacheError(error, path);
  }
}
