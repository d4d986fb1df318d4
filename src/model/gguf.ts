import { open, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { MagicpigError } from '../errors.js';
import { OutOfBytes, readFully } from './byte-cursor.js';
import type { Architecture } from './architectures/architecture.js';
import { fileError } from './file-error.js';
import { readGgufHeader } from './gguf-header.js';
import type { GgufHeader, TensorInfo } from './gguf-header.js';
import {
  embeddingName,
  expectedTensors,
  finalNormName,
  layerTensorName,
  lmHeadName,
  readArchitecture,
  readConfig,
  ropeFactorsName,
} from './gguf-config.js';
import { malformed, quoted, unsupported } from './gguf-metadata.js';
import { readTokenizerSource } from './gguf-tokenizer.js';
import { isTensorType, tensorLayouts, tensorTypeName } from './tensor-types.js';
import type { ExtraLayerTensor, LayerTensor, ModelConfig, ModelFile, Tensor, TensorType, TokenizerSource } from './types.js';

/**
 * Opens a GGUF file of one of the architectures in ./architectures and checks all of it but the weights themselves: counts, ranges,
 * shapes, and that every tensor lies inside the file and over no other. Weights are read when asked for.
 *
 * Throws FILE_NOT_FOUND, FILE_UNREADABLE, GGUF_MALFORMED, UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_QUANTISATION or
 * UNSUPPORTED_TOKENIZER, each naming the path and what is wrong.
 */
export async function openGguf(path: string): Promise<ModelFile> {
  // A pipe would block on open, so look before.
  const found = await stat(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  if (!found.isFile()) throw new MagicpigError('FILE_UNREADABLE', `${path} is not a regular file`);
  const handle = await open(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  try {
    const { size } = await handle.stat();
    const header = readGgufHeader(handle.fd, path, size);
    const architecture = readArchitecture(header.metadata);
    const config = readConfig(header.metadata, architecture);
    const spans = checkedSpans(header, path, size);
    checkShapes(spans, config, architecture, path);
    const tokenizer = await readTokenizerSource(header.metadata);
    return new GgufFile(path, size, handle, header, spans, config, tokenizer);
  } catch (error) {
    await handle.close();
    throw error instanceof MagicpigError ? error : fileError(error, path);
  }
}

/** Where a tensor's bytes lie in the file. */
interface Span {
  readonly name: string;
  readonly type: TensorType;
  readonly shape: readonly number[];
  readonly start: number;
  readonly bytes: number;
}

class GgufFile implements ModelFile {
  readonly config: ModelConfig;
  readonly quantisation: string;
  readonly weightBytes: Readonly<Record<string, number>>;
  readonly chatTemplate: string | undefined;
  readonly embedding: Tensor;
  readonly finalNorm: Tensor;
  readonly lmHead: Tensor;
  readonly #handle: FileHandle;
  readonly #spans: ReadonlyMap<string, Span>;
  #closed = false;

  constructor(
    readonly path: string,
    readonly fileBytes: number,
    handle: FileHandle,
    header: GgufHeader,
    spans: ReadonlyMap<string, Span>,
    config: ModelConfig,
    readonly tokenizer: TokenizerSource,
  ) {
    this.#handle = handle;
    this.#spans = spans;
    this.config = this.#withRopeFactors(config);
    this.weightBytes = bytesByType(spans.values());
    this.quantisation = Object.keys(this.weightBytes)[0] ?? 'F32';
    this.chatTemplate = header.metadata.string('tokenizer.chat_template');
    this.embedding = this.#tensor(embeddingName);
    this.finalNorm = this.#tensor(finalNormName);
    this.lmHead = spans.has(lmHeadName) ? this.#tensor(lmHeadName) : this.embedding;
  }

  layerTensor(layer: number, role: LayerTensor): Tensor {
    return this.#tensor(layerTensorName(layer, role));
  }

  extraTensor(layer: number, role: ExtraLayerTensor): Tensor | undefined {
    const name = layerTensorName(layer, role);
    return this.#spans.has(name) ? this.#tensor(name) : undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#handle.close();
  }

  #tensor(name: string): Tensor {
    const span = this.#spans.get(name);
    if (span === undefined) throw new MagicpigError('INVALID_OPTION', `${this.path} has no tensor ${quoted(name)}`);
    return {
      name,
      type: span.type,
      shape: span.shape,
      offset: span.start,
      bytes: () => this.#read(span),
      row: (index) => this.#read(rowOf(span, index)),
    };
  }

  #read(span: Span): Uint8Array {
    if (this.#closed) throw new MagicpigError('DISPOSED', `${this.path} was closed before ${span.name} was read`);
    const bytes = new Uint8Array(span.bytes);
    try {
      readFully(this.#handle.fd, bytes, span.start);
    } catch (error) {
      if (error instanceof OutOfBytes) throw malformed(this.path, `it became shorter while it was open, and ${span.name} is cut off`);
      throw fileError(error, this.path);
    }
    return bytes;
  }

  /** Llama 3.1's divisors for long contexts are a tensor; scaling by the metadata multiplies them. */
  #withRopeFactors(config: ModelConfig): ModelConfig {
    const span = this.#spans.get(ropeFactorsName);
    if (span === undefined) return config;
    if (span.type !== 'F32') throw malformed(this.path, `${span.name} is ${span.type}, not F32`);
    const divisors = Float64Array.from(new Float32Array(this.#read(span).buffer));
    const factors = divisors.map((factor, i) => factor * (config.rope.factors?.[i] ?? 1));
    if (!factors.every((factor) => factor > 0 && Number.isFinite(factor))) throw malformed(this.path, `${span.name} has a divisor that is not above 0`);
    const rope = { ...config.rope, factors };
    return { ...config, rope, local: config.local && { ...config.local, rope } };
  }
}

/** The bytes of row `index` of a tensor, as a span of their own. */
function rowOf(span: Span, index: number): Span {
  const rows = span.shape[0] ?? 0;
  if (!Number.isInteger(index) || index < 0 || index >= rows) {
    throw new MagicpigError('INVALID_OPTION', `${quoted(span.name)} has ${rows} rows, and no row ${index}`);
  }
  const bytes = span.bytes / rows;
  return { ...span, start: span.start + index * bytes, bytes };
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
  return { name: info.name, type, shape: info.dimensions.toReversed(), start, bytes };
}

/** All that the configuration calls for is there, in its shape, and nothing that it does not know of. */
function checkShapes(spans: ReadonlyMap<string, Span>, config: ModelConfig, architecture: Architecture, path: string): void {
  const unknown = new Set(spans.keys());
  for (const { name, shape, optional } of expectedTensors(config, architecture)) {
    unknown.delete(name);
    const span = spans.get(name);
    if (span === undefined) {
      if (optional) continue;
      throw malformed(path, `the tensor ${quoted(name)} is missing`);
    }
    if (span.shape.length !== shape.length || span.shape.some((size, axis) => size !== shape[axis])) {
      throw malformed(path, `the tensor ${quoted(name)} has the shape [${span.shape.join(', ')}], but the metadata call for [${shape.join(', ')}]`);
    }
  }
  // A bias or an expert that went unused would change what the model says without a word.
  for (const name of unknown) throw unsupported(path, `the tensor ${quoted(name)}, which magicpig's ${architecture.name} does not use`);
}

/** The bytes of matrices of each type, most first: norms are always F32 and say nothing. */
function bytesByType(spans: Iterable<Span>): Record<string, number> {
  const bytes = new Map<string, number>();
  for (const span of spans) {
    if (span.shape.length > 1) bytes.set(span.type, (bytes.get(span.type) ?? 0) + span.bytes);
  }
  return Object.fromEntries([...bytes].toSorted((a, b) => b[1] - a[1]));
}
