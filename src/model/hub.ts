import { copyFile, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { getRepoFolderName } from '@huggingface/hub';
import { MagicpigError } from '../errors.js';
import { cacheError, makeFolderOf, replaceFile } from './cache.js';
import type { Cache } from './cache.js';
import { download, holds } from './download.js';
import type { DownloadOptions } from './download.js';
import { HubClient } from './hub-client.js';
import type { HubReference } from './reference.js';

export interface HubOptions extends DownloadOptions {
  /** Asks the hub even where the cache knows the answer: a branch may have moved. */
  readonly refresh?: boolean | undefined;
  /** A file with another SHA-256 is refused before its transfer. */
  readonly sha256?: string;
}

/**
 * The local path of a file of the hub, from Hugging Face's cache or into it, in the layout of Hugging Face's own tools:
 * `blobs/<digest>` holds the bytes, `snapshots/<commit>/<file>` links to them, `refs/<branch>` names the commit.
 *
 * Throws MODEL_NOT_FOUND, DOWNLOAD_FAILED, CHECKSUM_MISMATCH, CACHE_UNWRITABLE or ABORTED.
 */
export async function hubFile(reference: HubReference, cache: Cache, options: HubOptions = {}): Promise<string> {
  const folder = join(cache.hub, getRepoFolderName({ type: 'model', name: reference.repo }));
  const cached = await cachedFile(folder, reference);
  if (cached !== undefined && (cache.offline || !options.refresh || isCommit(reference.revision))) return cached;
  if (cache.offline) {
    throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} is not in the cache at ${folder}, and the network is switched off (HF_HUB_OFFLINE)`);
  }
  return fetchFile(reference, folder, options);
}

async function cachedFile(folder: string, { file, revision }: HubReference): Promise<string | undefined> {
  if (file === undefined) return undefined;
  const commit = isCommit(revision) ? revision : (await readFile(join(folder, 'refs', revision), 'utf8').catch(() => '')).trim();
  if (!isCommit(commit)) return undefined;
  const path = join(folder, 'snapshots', commit, file);
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? path : undefined;
}

async function fetchFile(reference: HubReference, folder: string, options: HubOptions): Promise<string> {
  const { repo, revision } = reference;
  const client = new HubClient(options.signal);
  const known = isCommit(revision) && reference.file !== undefined ? { commit: revision, files: [reference.file] } : await client.revision(reference);
  const { commit } = known;
  const file = reference.file ?? onlyGguf(reference, known.files);
  const { bytes, digest } = await client.file(repo, commit, file);
  if (options.sha256 !== undefined && digest.hex !== options.sha256) {
    throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} is another file than the one that magicpig knows`);
  }
  const blob = join(folder, 'blobs', digest.hex);
  if (!(await holds(blob, bytes))) {
    await download({ file, bytes, digest, request: (offset, signal) => client.bytes(repo, commit, file, offset, signal) }, blob, options);
  }
  const snapshot = join(folder, 'snapshots', commit, file);
  await link(blob, snapshot);
  if (!isCommit(revision)) await replaceFile(join(folder, 'refs', revision), commit);
  return snapshot;
}

function onlyGguf(reference: HubReference, files: readonly string[]): string {
  const models = files.filter((file) => file.endsWith('.gguf'));
  const [first] = models;
  if (first !== undefined && models.length === 1) return first;
  const found = models.length === 0 ? 'it has none' : `it has ${models.length}: ${models.slice(0, 12).join(', ')}${models.length > 12 ? ', ...' : ''}`;
  throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} does not say which .gguf file; ${found}`);
}

/** Links relatively, so that the cache can be moved; copies where the file system has no links. Readers see no half of it. */
async function link(blob: string, snapshot: string): Promise<void> {
  const temporary = `${snapshot}.${process.pid}.new`;
  await makeFolderOf(snapshot);
  try {
    await symlink(relative(dirname(snapshot), blob), temporary).catch(() => copyFile(blob, temporary));
    await rename(temporary, snapshot);
  } catch (error) {
    await rm(temporary, { force: true });
    throw cacheError(error, snapshot);
  }
}

function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

function describe({ repo, file, revision }: HubReference): string {
  return `hf:${repo}${file === undefined ? '' : `/${file}`}${revision === 'main' ? '' : `@${revision}`}`;
}
