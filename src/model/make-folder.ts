import { mkdir, mkdtemp, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errorCode } from './file-error.js';

/**
 * Makes a folder and those above it that are missing. Throws Node's own errors.
 *
 * Node's own recursive `mkdir` never returns where a folder that exists takes no others and says ENOENT, as /proc does.
 */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  try {
    await mkdir(path, mode);
  } catch (error) {
    const isFolder = async (folder: string) => stat(folder).then((found) => found.isDirectory(), () => false);
    if (await isFolder(path)) return;
    if (errorCode(error) !== 'ENOENT') throw error;
    if (!(await isFolder(dirname(path)))) await makeFolder(dirname(path), mode);
    // Once more, also where the folder above is there: somebody else may have made it since. One that takes no others says the same again.
    await mkdir(path, mode).catch(async (again: unknown) => {
      if (!(await isFolder(path))) throw again;
    });
  }
}

/** Whether a folder takes files, which its permissions do not say of /proc, to root or of a full disk: one is made there for a moment. Throws Node's own errors. */
export async function tryFolder(path: string): Promise<void> {
  await rmdir(await mkdtemp(join(path, '.magicpig-')));
}
