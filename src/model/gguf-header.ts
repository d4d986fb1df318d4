import { ByteCursor, OutOfBytes } from './byte-cursor.js';
import { GgufMetadata, malformed, quoted } from './gguf-metadata.js';
import type { MetadataValue, NumberArray } from './gguf-metadata.js';

/**
 * The header of a GGUF file: key-value pairs, then what tensors there are. Every length and count is held
 * against the bytes that are left before anything is allocated for it, so a hostile file costs no more
 * than its own size. (@huggingface/gguf reads the same format, and the tests compare the two. It is not
 * used here because it pads a truncated file with zeros instead of failing, drops a byte order mark that
 * begins a token, and cuts the last string of an array that crosses its 2 MB chunks.)
 * Format: ggml's docs/gguf.md.
 */
export interface GgufHeader {
  readonly metadata: GgufMetadata;
  readonly tensors: readonly TensorInfo[];
  /** Where the tensors' bytes begin; their offsets count from here. */
  readonly dataStart: number;
  /** Power of two that every tensor's offset is a multiple of. */
  readonly alignment: number;
}

export interface TensorInfo {
  readonly name: string;
  /** ggml's order: innermost axis first. */
  readonly dimensions: readonly number[];
  readonly type: number;
  readonly offset: number;
}

/** The largest header in use (vocabularies of 256,000 tokens and their merges) is about a quarter of this. */
const maxHeaderBytes = 32 * 2 ** 20;
const maxPairs = 1 << 16;
const maxTensors = 1 << 16;
const maxArrayLength = 1 << 21;

/** The fewest bytes that a pair or a tensor's description can take: what bounds their counts by the file's size. */
const minPairBytes = 8 + 4 + 1;
const minTensorInfoBytes = 8 + 4 + 8 + 4 + 8;

/** The format's numbers for types of values. */
const ValueType = { U8: 0, I8: 1, U16: 2, I16: 3, U32: 4, I32: 5, F32: 6, Bool: 7, String: 8, Array: 9, U64: 10, I64: 11, F64: 12 } as const;

/** Arrays of numbers stay in the file's own width: as JavaScript arrays they would take eight times the file's size. */
const numberArrays: Partial<Record<number, { new (buffer: ArrayBuffer): NumberArray; readonly BYTES_PER_ELEMENT: number }>> = {
  [ValueType.U8]: Uint8Array,
  [ValueType.I8]: Int8Array,
  [ValueType.U16]: Uint16Array,
  [ValueType.I16]: Int16Array,
  [ValueType.U32]: Uint32Array,
  [ValueType.I32]: Int32Array,
  [ValueType.F32]: Float32Array,
  [ValueType.Bool]: Uint8Array,
  [ValueType.U64]: BigUint64Array,
  [ValueType.I64]: BigInt64Array,
  [ValueType.F64]: Float64Array,
};

/** Throws GGUF_MALFORMED naming the path and what is wrong. */
export function readGgufHeader(fd: number, path: string, fileBytes: number): GgufHeader {
  const reader = new HeaderReader(path, new ByteCursor(fd, Math.min(fileBytes, maxHeaderBytes)), fileBytes);
  try {
    return reader.read();
  } catch (error) {
    if (!(error instanceof OutOfBytes)) throw error;
    throw malformed(path, fileBytes > maxHeaderBytes ? `its header is longer than ${maxHeaderBytes} bytes` : 'it ends within its header (a download cut short?)');
  }
}

class HeaderReader {
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

  constructor(
    readonly path: string,
    readonly cursor: ByteCursor,
    readonly fileBytes: number,
  ) {}

  read(): GgufHeader {
    this.#magicAndVersion();
    const tensorCount = this.#count('tensors', maxTensors, minTensorInfoBytes);
    const pairCount = this.#count('metadata pairs', maxPairs, minPairBytes);
    const metadata = new GgufMetadata(this.path, this.#pairs(pairCount));
    const tensors = this.#tensors(tensorCount);
    const alignment = metadata.count('general.alignment', { min: 1, max: 1 << 20, otherwise: 32 });
    if ((alignment & (alignment - 1)) !== 0) throw malformed(this.path, `general.alignment ${alignment} is not a power of two`);
    const dataStart = Math.ceil(this.cursor.position / alignment) * alignment;
    return { metadata, tensors, dataStart, alignment };
  }

  #magicAndVersion(): void {
    if (this.fileBytes < 4 || this.cursor.take(4).toString('latin1') !== 'GGUF') {
      throw malformed(this.path, 'it does not begin with "GGUF"');
    }
    const version = this.cursor.u32();
    if (version === 0x02000000 || version === 0x03000000) {
      throw malformed(this.path, 'it is big-endian; convert it to the little-endian form');
    }
    if (version !== 2 && version !== 3) throw malformed(this.path, `it has version ${version} of the format; versions 2 and 3 are read`);
  }

  #pairs(count: number): Map<string, MetadataValue> {
    const pairs = new Map<string, MetadataValue>();
    for (let i = 0; i < count; i++) {
      const key = this.#string();
      if (pairs.has(key)) throw malformed(this.path, `the key ${quoted(key)} is there twice`);
      pairs.set(key, this.#value(key, this.cursor.u32()));
    }
    return pairs;
  }

  #value(key: string, type: number): MetadataValue {
    switch (type) {
      case ValueType.Bool:
        return this.cursor.u8() !== 0;
      case ValueType.String:
        return this.#string();
      case ValueType.Array: {
        const elements = this.cursor.u32();
        if (elements === ValueType.String) return this.#strings(key);
        return this.#numbers(key, elements, this.#count(`elements of ${quoted(key)}`, maxArrayLength, 1));
      }
      default: {
        const value = this.#numbers(key, type, 1)[0];
        // 64-bit integers that a double holds become one; the others (hashes) are of no use here but allowed.
        return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : (value as number | bigint);
      }
    }
  }

  #strings(key: string): string[] {
    const strings = new Array<string>(this.#count(`elements of ${quoted(key)}`, maxArrayLength, 8));
    for (let i = 0; i < strings.length; i++) strings[i] = this.#string();
    return strings;
  }

  #numbers(key: string, type: number, count: number): NumberArray {
    const numbers = numberArrays[type];
    if (numbers === undefined) throw malformed(this.path, `${quoted(key)} holds values of the unknown type ${type}`);
    const bytes = this.cursor.take(count * numbers.BYTES_PER_ELEMENT);
    return new numbers(new Uint8Array(bytes).buffer);
  }

  #tensors(count: number): TensorInfo[] {
    const seen = new Set<string>();
    const tensors: TensorInfo[] = [];
    for (let i = 0; i < count; i++) {
      const name = this.#string();
      if (seen.has(name)) throw malformed(this.path, `the tensor ${quoted(name)} is there twice`);
      seen.add(name);
      const axes = this.cursor.u32();
      if (axes < 1 || axes > 4) throw malformed(this.path, `the tensor ${quoted(name)} has ${axes} dimensions`);
      const dimensions = Array.from({ length: axes }, () => this.#safe(this.cursor.u64(), `a dimension of ${quoted(name)}`));
      tensors.push({ name, dimensions, type: this.cursor.u32(), offset: this.#safe(this.cursor.u64(), `the offset of ${quoted(name)}`) });
    }
    return tensors;
  }

  #string(): string {
    const length = this.cursor.u64();
    if (length > BigInt(this.cursor.remaining)) throw new OutOfBytes();
    try {
      return this.#utf8.decode(this.cursor.take(Number(length)));
    } catch (error) {
      if (error instanceof TypeError) throw malformed(this.path, `a string that ends at byte ${this.cursor.position} is not UTF-8`);
      throw error;
    }
  }

  /** A count of things that take at least `bytesEach` bytes each of what is left of the file. */
  #count(what: string, max: number, bytesEach: number): number {
    const count = this.cursor.u64();
    if (count > BigInt(max) || Number(count) * bytesEach > this.fileBytes - this.cursor.position) {
      throw malformed(this.path, `it claims ${count.toString()} ${what}, more than it has room for`);
    }
    return Number(count);
  }

  #safe(value: bigint, what: string): number {
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(this.path, `${what} is ${value.toString()}`);
    return Number(value);
  }
}
