import { MagicpigError } from '../errors.js';
import { fileError } from './file-error.js';
import { ggufLayout, readArchitecture, readConfig, withRopeDivisors } from './gguf-config.js';
import { readGgufHeader } from './gguf-header.js';
import type { GgufHeader, TensorInfo } from './gguf-header.js';
import { malformed, quoted } from './gguf-metadata.js';
import { ggufNames, ropeFactorsName } from './gguf-names.js';
import { readTokenizerSource } from './gguf-tokenizer.js';
import { checkShapes, modelFile } from './model-tensors.js';
import { TensorFiles, closeAll, openRegularFile } from './tensor-files.js';
import type { Span } from './tensor-files.js';
import { isTensorType, tensorLayouts, tensorTypeName } from './tensor-types.js';
import type { ModelConfig, ModelFile } from './types.js';

/**
 * Opens a GGUF file of one of the architectures in ./architectures and checks all of it but the weights themselves: counts, ranges,
 * shapes, and that every tensor lies inside the file and over no other. Weights are read when asked for.
 *
 * Throws FILE_NOT_FOUND, FILE_UNREADABLE, GGUF_MALFORMED, UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_QUANTISATION or
 * UNSUPPORTED_TOKENIZER, each naming the path and what is wrong.
 */
export async function openGguf(path: string): Promise<ModelFile> {
  const file = await openRegularFile(path);
  try {
    const header = readGgufHeader(file.fd, path, file.bytes);
    const { metadata } = header;
    const architecture = readArchitecture(metadata);
    const config = readConfig(metadata, architecture, ggufLayout(metadata, architecture));
    const tensors = new TensorFiles(path, [file], checkedSpans(header, path, file.bytes), malformed);
    const tied = !tensors.spans.has(ggufNames.lmHead);
    checkShapes(tensors, ggufNames, config, architecture, tied);
    return modelFile(tensors, ggufNames, {
      architecture,
      format: 'gguf',
      config: withRopeFactors(config, tensors),
      tokenizer: await readTokenizerSource(metadata),
      chatTemplate: metadata.string('tokenizer.chat_template'),
      tied,
    });
  } catch (error) {
    await closeAll([file]);
    throw error instanceof MagicpigError ? error : fileError(error, path);
  }
}

/** Llama 3.1's divisors for long contexts are a tensor; scaling by the metadata multiplies them. */
function withRopeFactors(config: ModelConfig, tensors: TensorFiles): ModelConfig {
  if (!tensors.spans.has(ropeFactorsName)) return config;
  const tensor = tensors.tensor(ropeFactorsName);
  const { name } = tensor;
  if (tensor.type !== 'F32') throw malformed(tensors.path, `${name} is ${tensor.type}, not F32`);
  const divisors = Float64Array.from(new Float32Array(tensor.bytes().buffer as ArrayBuffer));
  if (!divisors.every((divisor) => divisor > 0 && Number.isFinite(divisor))) throw malformed(tensors.path, `${name} has a divisor that is not above 0`);
  return withRopeDivisors(config, divisors);
}

/** Every tensor with its place in the file, after checking type, size, alignment, bounds and overlap. */
function checkedSpans(header: GgufHeader, path: string, fileBytes: number): Map<string, Span> {
  const spans = header.tensors.map((info) => spanOf(info, header, path));
  const ordered = spans.toSorted((a, b) => a.start - b.start);
  let end = header.dataStart;
  let previous = 'the header';
  for (const span of ordered) {
    if (span.start < end) throw malformed(path, `the tensor ${quoted(span.name)} overlaps ${previous}`);
    end = span.start + span.bytes;
    previous = quoted(span.name);
    if (end > fileBytes) {
      throw malformed(path, `the tensor ${previous} ends at byte ${end} of a file of ${fileBytes} bytes (a download cut short?)`);
    }
  }
  return new Map(spans.map((span) => [span.name, span]));
}

function spanOf(info: TensorInfo, header: GgufHeader, path: string): Span {
  const type = tensorTypeName(info.type);
  if (!isTensorType(type)) {
    throw new MagicpigError(
      'UNSUPPORTED_QUANTISATION',
      `${path}: the tensor ${quoted(info.name)} is ${type}; magicpig reads ${Object.keys(tensorLayouts).join(', ')}: take a file of one of these, such as the model's Q4_K_M`,
    );
  }
  const layout = tensorLayouts[type];
  const elements = info.dimensions.reduce((product, dimension) => product * dimension, 1);
  if (elements === 0) throw malformed(path, `the tensor ${quoted(info.name)} has a dimension of 0`);
  if ((info.dimensions[0] ?? 0) % layout.block !== 0) {
    throw malformed(path, `rows of the tensor ${quoted(info.name)} are not whole blocks of ${layout.block}`);
  }
  if (info.offset % header.alignment !== 0) throw malformed(path, `the tensor ${quoted(info.name)} is not aligned to ${header.alignment} bytes`);
  const start = header.dataStart + info.offset;
  const bytes = (elements / layout.block) * layout.bytes;
  if (!Number.isSafeInteger(start + bytes)) throw malformed(path, `the tensor ${quoted(info.name)} is larger than any file`);
  return { name: info.name, type, shape: info.dimensions.toReversed(), file: 0, start, bytes };
}
