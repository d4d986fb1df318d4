import { readdir, realpath } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { MagicpigError } from '../errors.js';
import { fileError } from './file-error.js';
import { HubKeys } from './hub-keys.js';
import { readJson } from './json-file.js';
import type { JsonLimits } from './json-file.js';
import { indexName, readIndex, weightsAmong } from './safetensors-index.js';
import { malformedSafetensors } from './safetensors-error.js';
import { closeAll, openRegularFile, readWhole } from './tensor-files.js';
import type { OpenFile } from './tensor-files.js';
import { maxTokenizerBytes } from './tokenizer-json.js';

export const configName = 'config.json';
export const tokenizerName = 'tokenizer.json';
/** What a folder may have besides. The template is the newer form of the one in tokenizer_config.json. */
export const optionalNames = ['tokenizer_config.json', 'generation_config.json', 'chat_template.jinja'] as const;

const configLimits: JsonLimits = { maxBytes: 8 * 2 ** 20, maxDepth: 32, maxKeys: 1 << 17 };
/** An index has a line for each tensor. */
const indexLimits: JsonLimits = { maxBytes: 16 * 2 ** 20, maxDepth: 4, maxKeys: 1 << 16 };
const tokenizerLimits: JsonLimits = { maxBytes: maxTokenizerBytes, maxDepth: 32, maxKeys: 1 << 20 };
const maxTemplateBytes = 2 ** 20;

/** The files of a folder with a model as the hub has it. Every method throws as its reader does, naming the file. */
export class HubFolder {
  private constructor(
    readonly path: string,
    readonly names: readonly string[],
    /** Where links of the folder may lead: within a repository of the hub's cache, whose files are links, or anywhere. */
    readonly root: string | undefined,
  ) {}

  /** Throws FILE_NOT_FOUND or FILE_UNREADABLE. */
  static async open(path: string): Promise<HubFolder> {
    try {
      const [names, real] = await Promise.all([readdir(path), realpath(path)]);
      const snapshots = dirname(real);
      const repository = dirname(snapshots);
      const cached = basename(snapshots) === 'snapshots' && basename(repository).startsWith('models--');
      return new HubFolder(path, names, cached ? repository : undefined);
    } catch (error) {
      throw fileError(error, path);
    }
  }

  /** Opens a file of the folder. Throws FILE_NOT_FOUND, FILE_UNREADABLE, or SAFETENSORS_MALFORMED for a link out of the cache. */
  async file(name: string): Promise<OpenFile> {
    const path = join(this.path, name);
    const real = await realpath(path).catch((error: unknown) => {
      throw fileError(error, path);
    });
    if (this.root !== undefined && !real.startsWith(this.root + sep)) {
      throw malformedSafetensors(path, `it is a link to ${real}, out of the repository's folder in the cache; remove it and pull the model again`);
    }
    return await openRegularFile(path);
  }

  async config(): Promise<HubKeys> {
    if (!this.names.includes(configName)) throw malformedSafetensors(this.path, 'it has no config.json');
    return await this.#json(configName, configLimits);
  }

  async tokenizer(): Promise<HubKeys> {
    if (this.names.includes(tokenizerName)) return await this.#json(tokenizerName, tokenizerLimits);
    throw new MagicpigError(
      'UNSUPPORTED_TOKENIZER',
      `${this.path} has no tokenizer.json; transformers writes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`,
    );
  }

  /** A file that need not be there. */
  async optional(name: (typeof optionalNames)[number]): Promise<HubKeys> {
    return this.names.includes(name) ? await this.#json(name, configLimits) : new HubKeys({}, join(this.path, name));
  }

  async template(): Promise<string | undefined> {
    const name = 'chat_template.jinja';
    if (!this.names.includes(name)) return undefined;
    const file = await this.file(name);
    const malformed = (what: string) => malformedSafetensors(file.path, what);
    try {
      if (file.bytes > maxTemplateBytes) throw malformed(`it has ${file.bytes} bytes; ${maxTemplateBytes} are read at most`);
      return readWhole(file, malformed).toString();
    } finally {
      await closeAll([file]);
    }
  }

  /** The names of the files with the weights, and which of them has each tensor where an index says so. */
  async weights(): Promise<{ names: readonly string[]; index: ReadonlyMap<string, string> | undefined }> {
    const found = weightsAmong(this.names);
    if (found === undefined) throw malformedSafetensors(this.path, `it has neither model.safetensors nor ${indexName}`);
    if (found.single !== undefined) return { names: [found.single], index: undefined };
    const { names, index } = await this.indexed();
    const missing = names.find((name) => !this.names.includes(name));
    if (missing !== undefined) throw malformedSafetensors(this.path, `${missing} is missing, which ${indexName} names`);
    return { names, index };
  }

  /** What the index says, which need not be true. */
  async indexed(): Promise<{ names: readonly string[]; index: ReadonlyMap<string, string> }> {
    const json = await this.#json(indexName, indexLimits);
    const index = readIndex(json.values, json.path);
    return { names: [...new Set(index.values())].sort(), index };
  }

  async #json(name: string, limits: JsonLimits): Promise<HubKeys> {
    const file = await this.file(name);
    try {
      return new HubKeys(readJson(file, limits, (what) => malformedSafetensors(file.path, what)), file.path);
    } finally {
      await closeAll([file]);
    }
  }
}
