import { MagicpigError } from '../errors.js';
import { OutOfBytes } from './byte-cursor.js';
import { fileError } from './file-error.js';
import { quoted } from './gguf-metadata.js';
import { readHubConfig } from './hub-config.js';
import { HubFolder } from './hub-folder.js';
import { hubNames, isPassedOver } from './hub-names.js';
import { configuredTemplate, hubTokenizer } from './hub-tokenizer.js';
import { checkShapes, modelFile } from './model-tensors.js';
import { malformedSafetensors } from './safetensors-error.js';
import { readSafetensorsHeader, weightSpan } from './safetensors-header.js';
import type { DescribedSpan } from './safetensors-header.js';
import { indexName } from './safetensors-index.js';
import { TensorFiles, closeAll } from './tensor-files.js';
import type { OpenFile, Span } from './tensor-files.js';
import type { ModelFile } from './types.js';

/**
 * Opens a folder as the hub has models of one of the architectures in ./architectures: config.json, tokenizer.json, and weights in
 * model.safetensors or in the files that model.safetensors.index.json names. All of it is checked but the weights themselves, which
 * are read when asked for. Memory: twice the size of what is read, and some megabytes.
 *
 * Throws FILE_NOT_FOUND, FILE_UNREADABLE, SAFETENSORS_MALFORMED, UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_QUANTISATION or
 * UNSUPPORTED_TOKENIZER, each naming the path and what is wrong.
 */
export async function openSafetensors(path: string): Promise<ModelFile> {
  const folder = await HubFolder.open(path);
  const config = await folder.config();
  const model = readHubConfig(config.values, config.path);
  const { names: weights, index } = await folder.weights();
  const files: OpenFile[] = [];
  try {
    for (const name of weights) files.push(await folder.file(name));
    const described = describedSpans(files, index && new Map(Array.from(index, ([tensor, name]) => [tensor, weights.indexOf(name)])), path);
    const names = hubNames(model.architecture, described);
    const used = [...described.values()].filter(({ name }) => !isPassedOver(name));
    const spans = new Map(used.map((span): [string, Span] => [span.name, weightSpan(span, (files[span.file] as OpenFile).path)]));
    const tensors = new TensorFiles(path, files, spans, malformedSafetensors);
    checkShapes(tensors, names, model.config, model.architecture, model.tied);

    const tokenizerConfig = await folder.optional('tokenizer_config.json');
    const sources = { tokenizer: await folder.tokenizer(), tokenizerConfig, generationConfig: await folder.optional('generation_config.json'), config };
    return modelFile(tensors, names, {
      architecture: model.architecture,
      format: 'safetensors',
      config: model.config,
      tokenizer: hubTokenizer(sources, model.config.vocabSize),
      chatTemplate: (await folder.template()) ?? configuredTemplate(tokenizerConfig),
      tied: model.tied,
    });
  } catch (error) {
    await closeAll(files);
    throw error instanceof MagicpigError ? error : fileError(error, path);
  }
}

/** The tensors of all files, each in one of them alone and, where there is an index, in the one that it names. */
function describedSpans(files: readonly OpenFile[], index: ReadonlyMap<string, number> | undefined, path: string): Map<string, DescribedSpan> {
  const spans = new Map<string, DescribedSpan>();
  for (const [number, file] of files.entries()) {
    for (const span of headerOf(file, number)) {
      if (spans.has(span.name)) throw malformedSafetensors(file.path, `it has the tensor ${quoted(span.name)}, as another file of the model has`);
      spans.set(span.name, span);
    }
  }
  for (const [tensor, number] of index ?? []) {
    if (spans.get(tensor)?.file !== number) {
      throw malformedSafetensors(path, `the tensor ${quoted(tensor)} is not in the file that ${indexName} names for it`);
    }
  }
  return spans;
}

function headerOf(file: OpenFile, number: number): DescribedSpan[] {
  try {
    return readSafetensorsHeader(file, number);
  } catch (error) {
    if (error instanceof OutOfBytes) throw malformedSafetensors(file.path, 'it became shorter while it was read');
    throw error;
  }
}
