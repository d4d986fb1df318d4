import { MagicpigError } from '../errors.js';
import { readFully } from './byte-cursor.js';
import { quoted } from './gguf-metadata.js';
import { isObject, parseJson } from './json-file.js';
import { malformedSafetensors } from './safetensors-error.js';
import type { OpenFile, Span } from './tensor-files.js';
import type { TensorType } from './types.js';

/** A tenth of what the format allows, and several times what a model of a thousand layers needs: of each tensor four keys, in brackets three deep. */
const limits = { maxBytes: 10_000_000, maxDepth: 3, maxKeys: 1 << 17 };
const maxAxes = 8;

/** The format's types, by the bytes of an element. */
const dtypeBytes: Readonly<Record<string, number>> = {
  BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1, I16: 2, U16: 2, F16: 2, BF16: 2, I32: 4, U32: 4, F32: 4, I64: 8, U64: 8, F64: 8, C64: 8,
};

/** A tensor as its file describes it; `type` may be one that no weight can have. */
export type DescribedSpan = Omit<Span, 'type'> & { readonly type: string };

/**
 * The tensors of a safetensors file, which is number `file` of its model. As the format demands, they follow each other
 * without gaps from the header's end to the file's: so a file that was cut short, or has something behind it, is refused.
 * (Format: the README of huggingface/safetensors.)
 *
 * Throws SAFETENSORS_MALFORMED naming the path and what is wrong.
 */
export function readSafetensorsHeader({ path, fd, bytes }: OpenFile, file: number): DescribedSpan[] {
  const malformed = (what: string) => malformedSafetensors(path, what);
  if (bytes < 8) throw malformed(`it has ${bytes} bytes, too few for a safetensors file`);
  const prefix = Buffer.alloc(8);
  readFully(fd, prefix, 0);
  const length = prefix.readBigUInt64LE();
  if (length > BigInt(bytes - 8)) throw malformed(`its header claims ${length.toString()} bytes of a file of ${bytes} (no safetensors file, or a download cut short?)`);
  if (length > BigInt(limits.maxBytes)) throw malformed(`its header has ${length.toString()} bytes; ${limits.maxBytes} are read at most`);
  const text = Buffer.alloc(Number(length));
  readFully(fd, text, 8);
  const header = parseJson(text, limits, (what) => malformed(`of its header, ${what}`));

  const start = 8 + text.length;
  const spans = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, described]) => spanOf(name, described, { file, start, path }));
  checkOrder(spans, start, bytes, path);
  return spans;
}

function spanOf(name: string, described: unknown, { file, start, path }: { file: number; start: number; path: string }): DescribedSpan {
  const malformed = (what: string) => malformedSafetensors(path, `the tensor ${quoted(name)} ${what}`);
  if (!isObject(described)) throw malformed('has no description');
  const { dtype, shape, data_offsets: offsets } = described;
  if (typeof dtype !== 'string') throw malformed('has no dtype');
  const elementBytes = Object.hasOwn(dtypeBytes, dtype) ? dtypeBytes[dtype] : undefined;
  if (elementBytes === undefined) {
    throw new MagicpigError('UNSUPPORTED_QUANTISATION', `${path}: the tensor ${quoted(name)} has the dtype ${quoted(dtype)}; magicpig reads F32, F16 and BF16`);
  }
  if (!isSizes(shape) || shape.length > maxAxes) throw malformed('has a shape that is none');
  if (!isSizes(offsets) || offsets.length !== 2) throw malformed('has data_offsets that are none');
  const [begin, end] = offsets as [number, number];
  const size = shape.reduce((product, axis) => product * axis, elementBytes);
  if (!Number.isSafeInteger(size)) throw malformed('is larger than any file');
  if (end - begin !== size) throw malformed(`is ${dtype} of the shape [${shape.join(', ')}], which takes ${size} bytes, and has the bytes from ${begin} to ${end}`);
  return { name, type: dtype, shape, file, start: start + begin, bytes: size };
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function checkOrder(spans: readonly DescribedSpan[], start: number, fileBytes: number, path: string): void {
  let end = start;
  let previous = 'the header';
  for (const span of spans.toSorted((a, b) => a.start - b.start || a.bytes - b.bytes)) {
    if (span.start < end) throw malformedSafetensors(path, `the tensor ${quoted(span.name)} overlaps ${previous}`);
    if (span.start > end) throw malformedSafetensors(path, `there are ${span.start - end} bytes of no tensor before ${quoted(span.name)}`);
    end = span.start + span.bytes;
    previous = quoted(span.name);
  }
  if (end !== fileBytes) throw malformedSafetensors(path, `its tensors end at byte ${end} of a file of ${fileBytes} bytes (a download cut short?)`);
}

/** A span of a type that weights are read in. Throws UNSUPPORTED_QUANTISATION. */
export function weightSpan(span: DescribedSpan, path: string): Span {
  const { name, type } = span;
  if (isWeightType(type)) return { ...span, type };
  throw new MagicpigError(
    'UNSUPPORTED_QUANTISATION',
    `${path}: the tensor ${quoted(name)} is ${type}; of safetensors, magicpig reads F32, F16 and BF16. Take the model as it was before it was quantised, or as GGUF`,
  );
}

function isWeightType(type: string): type is TensorType & ('F32' | 'F16' | 'BF16') {
  return type === 'F32' || type === 'F16' || type === 'BF16';
}

