import { copyFile, readFile, readdir, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { getRepoFolderName } from '@huggingface/hub';
import { MagicpigError } from '../errors.js';
import { cacheError, makeFolderOf, replaceFile } from './cache.js';
import type { Cache } from './cache.js';
import { download, holds } from './download.js';
import type { DownloadOptions } from './download.js';
import { HubClient } from './hub-client.js';
import { HubFolder, configName, optionalNames, tokenizerName } from './hub-folder.js';
import type { HubReference } from './reference.js';
import { indexName, isPlainFileName, weightsAmong } from './safetensors-index.js';

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
export async function hubFile(reference: HubReference & { file: string }, cache: Cache, options: HubOptions = {}): Promise<string> {
  const folder = repositoryFolder(cache, reference);
  const cached = await cachedFile(folder, reference);
  if (cached !== undefined && (cache.offline || !options.refresh || isCommit(reference.revision))) return cached;
  if (cache.offline) throw notCached(reference, folder);
  return fetchFile(reference, folder, options);
}

function repositoryFolder(cache: Cache, { repo }: HubReference): string {
  return join(cache.hub, getRepoFolderName({ type: 'model', name: repo }));
}

function notCached(reference: HubReference, folder: string, missing?: string): MagicpigError {
  const what = missing === undefined ? describe(reference) : `${missing} of ${describe(reference)}`;
  return new MagicpigError('MODEL_NOT_FOUND', `${what} is not in the cache at ${folder}, and the network is switched off (HF_HUB_OFFLINE)`);
}

async function cachedCommit(folder: string, revision: string): Promise<string | undefined> {
  const commit = isCommit(revision) ? revision : (await readFile(join(folder, 'refs', revision), 'utf8').catch(() => '')).trim();
  return isCommit(commit) ? commit : undefined;
}

async function cachedFile(folder: string, { file, revision }: HubReference & { file: string }): Promise<string | undefined> {
  const commit = await cachedCommit(folder, revision);
  if (commit === undefined) return undefined;
  const path = join(folder, 'snapshots', commit, file);
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? path : undefined;
}

async function fetchFile(reference: HubReference & { file: string }, folder: string, options: HubOptions): Promise<string> {
  const client = new HubClient(options.signal);
  const commit = isCommit(reference.revision) ? reference.revision : (await client.revision(reference)).commit;
  return await new Repository(client, reference, commit, folder, options).fetch(reference.file);
}

/**
 * The local path of a model of the hub: of the file that the reference names or, where it names none, of the repository's only GGUF
 * file, or of the folder with its safetensors.
 *
 * Throws as `hubFile` does, and SAFETENSORS_MALFORMED for an index that names no files of a repository.
 */
export async function hubModel(reference: HubReference, cache: Cache, options: HubOptions = {}): Promise<string> {
  const { file } = reference;
  if (file !== undefined) return await hubFile({ ...reference, file }, cache, options);
  const folder = repositoryFolder(cache, reference);
  const cached = await cachedFolder(folder, reference);
  if (cached.path !== undefined && (cache.offline || !options.refresh || isCommit(reference.revision))) return cached.path;
  if (cache.offline) throw notCached(reference, folder, cached.missing);
  const client = new HubClient(options.signal);
  const { commit, files } = await client.revision(reference);
  const repository = new Repository(client, reference, commit, folder, options);
  const weights = files.some((name) => name.endsWith('.gguf')) || !files.includes(configName) ? undefined : weightsAmong(files);
  return weights === undefined ? await repository.fetch(onlyGguf(reference, files)) : await repository.fetchFolder(files, weights);
}

/** A repository at a commit, on its way into the cache. */
class Repository {
  constructor(
    readonly client: HubClient,
    readonly reference: HubReference,
    readonly commit: string,
    readonly folder: string,
    readonly options: HubOptions,
  ) {}

  /** The path of a file in the snapshot. */
  async fetch(file: string): Promise<string> {
    const { client, reference, commit, folder, options } = this;
    const { repo, revision } = reference;
    // Names come from the hub too, and become paths here.
    if (!file.split('/').every(isPlainFileName)) throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} has a file ${JSON.stringify(file)}, which is not kept here under such a name`);
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

  /** The path of the snapshot, with all that a model of safetensors needs. What it has of weights comes last. */
  async fetchFolder(files: readonly string[], { single }: { single: string | undefined }): Promise<string> {
    for (const name of [configName, tokenizerName, ...optionalNames]) if (files.includes(name)) await this.fetch(name);
    const snapshot = join(this.folder, 'snapshots', this.commit);
    if (single === undefined) await this.fetch(indexName);
    const names = single === undefined ? (await (await HubFolder.open(snapshot)).indexed()).names : [single];
    for (const name of names) {
      if (!files.includes(name)) throw new MagicpigError('MODEL_NOT_FOUND', `${describe(this.reference)} lacks ${name}, which its ${indexName} names`);
      await this.fetch(name);
    }
    return snapshot;
  }
}

/** The snapshot of a model of safetensors, if all of it is in the cache, or what of it is not. */
async function cachedFolder(folder: string, { revision }: HubReference): Promise<{ path?: string; missing?: string }> {
  const commit = await cachedCommit(folder, revision);
  if (commit === undefined) return {};
  const path = join(folder, 'snapshots', commit);
  const names = await readdir(path).catch((): string[] => []);
  const weights = weightsAmong(names);
  if (!names.includes(configName) || weights === undefined) return {};
  const opened = await HubFolder.open(path);
  const needed = [configName, tokenizerName, ...(weights.single === undefined ? (await opened.indexed()).names : [weights.single])];
  for (const name of needed) {
    const found = await stat(join(path, name)).catch(() => undefined);
    if (found?.isFile() !== true) return { missing: name };
  }
  return { path };
}

function onlyGguf(reference: HubReference, files: readonly string[]): string {
  const models = files.filter((file) => file.endsWith('.gguf'));
  const [first] = models;
  if (first !== undefined && models.length === 1) return first;
  if (models.length === 0) throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} has no model: neither a .gguf file nor config.json with .safetensors`);
  const shown = `${models.slice(0, 12).join(', ')}${models.length > 12 ? ', ...' : ''}`;
  throw new MagicpigError('MODEL_NOT_FOUND', `${describe(reference)} does not say which .gguf file; it has ${models.length}: ${shown}`);
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
