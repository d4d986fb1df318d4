import { quoted } from './gguf-metadata.js';
import { isObject } from './json-file.js';
import type { JsonObject } from './json-file.js';
import { malformedSafetensors } from './safetensors-error.js';

export const indexName = 'model.safetensors.index.json';
const wholeName = 'model.safetensors';

/** Four times as many as the largest models have. They are all open at the same time. */
const maxShards = 512;

/** What Windows opens as a device, whatever stands behind the first dot. */
const deviceName = /^(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])[ ]*(?:\.|$)/i;

/** Whether a name that came out of a file, or over the network, is that of a file in the same folder and of nothing else, on any system. */
export function isPlainFileName(name: string): boolean {
  return name.length <= 255 && /^[^\\/:*?"<>|\u0000-\u001f\u007f]+$/.test(name) && !/^\.{1,2}$/.test(name) && !/[ .]$/.test(name) && !deviceName.test(name);
}

/** Where the tensors of a model of several files are: the file of each tensor. Throws SAFETENSORS_MALFORMED. */
export function readIndex(json: JsonObject, path: string): ReadonlyMap<string, string> {
  const { weight_map: weightMap } = json;
  if (!isObject(weightMap)) throw malformedSafetensors(path, 'it has no weight_map');
  const tensors = new Map<string, string>();
  for (const [tensor, file] of Object.entries(weightMap)) {
    if (typeof file !== 'string') throw malformedSafetensors(path, `the file of the tensor ${quoted(tensor)} has no name`);
    if (!isPlainFileName(file) || !file.endsWith('.safetensors')) {
      throw malformedSafetensors(path, `it names ${quoted(file)}, which is not the name of a .safetensors file in the same folder`);
    }
    tensors.set(tensor, file);
  }
  const shards = new Set(tensors.values()).size;
  if (shards === 0) throw malformedSafetensors(path, 'its weight_map is empty');
  if (shards > maxShards) throw malformedSafetensors(path, `it names ${shards} files; ${maxShards} are read at most`);
  return tensors;
}

/**
 * Which of a folder's files hold the model's weights: one file or, if it is undefined, those that the index names. Undefined
 * where there is neither. Other .safetensors files beside model.safetensors or an index are other forms of the same weights.
 */
export function weightsAmong(names: readonly string[]): { single: string | undefined } | undefined {
  if (names.includes(wholeName)) return { single: wholeName };
  if (names.includes(indexName)) return { single: undefined };
  const all = names.filter((name) => name.endsWith('.safetensors'));
  return all.length === 1 && all[0] !== undefined ? { single: all[0] } : undefined;
}
