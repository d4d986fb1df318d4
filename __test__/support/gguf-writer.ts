import { writeFileSync } from 'node:fs';
import { tensorLayouts } from '../../src/model/tensor-types.js';
import type { TensorType } from '../../src/model/types.js';

/** A metadata value with the format's number for its type. */
export interface Value {
  readonly type: number;
  readonly bytes: Buffer;
}

export interface TensorSpec {
  readonly name: string;
  readonly type: TensorType | number;
  /** Outermost axis first, as in the program; the file has them the other way round. */
  readonly shape: readonly number[];
  readonly data: Buffer;
  /** In the data section. Default: behind the tensor before it. */
  readonly offset?: number | bigint;
}

/** What a file holds. The last fields are for files that lie about it. */
export interface GgufSpec {
  readonly metadata: Readonly<Record<string, Value>>;
  readonly tensors: readonly TensorSpec[];
  readonly magic?: string;
  readonly version?: number;
  readonly tensorCount?: bigint;
  readonly pairCount?: bigint;
}

const typeNumbers: Record<TensorType, number> = {
  F32: 0, F16: 1, BF16: 30, Q8_0: 8, Q4_0: 2, Q4_1: 3, Q5_0: 6, Q5_1: 7, IQ4_NL: 20, Q2_K: 10, Q3_K: 11, Q4_K: 12, Q5_K: 13, Q6_K: 14,
};

/** Where a block has its f16 numbers, and such that elements have a mean of about 0 and a deviation of 0.031 to 0.037. */
const blockHalves: Partial<Record<TensorType, readonly (readonly [at: number, half: number])[]>> = {
  Q8_0: [[0, 0x1000]],
  Q4_0: [[0, 0x2000]],
  Q4_1: [[0, 0x2000], [2, 0xab80]],
  Q5_0: [[0, 0x1c00]],
  Q5_1: [[0, 0x1c00], [2, 0xabc0]],
  IQ4_NL: [[0, 0x1000]],
  Q2_K: [[80, 0x1980], [82, 0x1c20]],
  Q3_K: [[108, 0x1300]],
  Q4_K: [[0, 0x0800], [2, 0x1380]],
  Q5_K: [[0, 0x0400], [2, 0x13c0]],
  Q6_K: [[208, 0x0180]],
};
const alignment = 32;

const sized = (bytes: number, write: (buffer: Buffer) => void): Buffer => {
  const buffer = Buffer.alloc(bytes);
  write(buffer);
  return buffer;
};
const u32Bytes = (n: number) => sized(4, (b) => b.writeUInt32LE(n));
const u64Bytes = (n: number | bigint) => sized(8, (b) => b.writeBigUInt64LE(BigInt(n)));
const stringBytes = (text: string | Buffer) => {
  const bytes = Buffer.from(text as string);
  return Buffer.concat([u64Bytes(bytes.length), bytes]);
};

export const u32 = (n: number): Value => ({ type: 4, bytes: u32Bytes(n) });
export const u64 = (n: bigint): Value => ({ type: 10, bytes: u64Bytes(n) });
export const f32 = (n: number): Value => ({ type: 6, bytes: sized(4, (b) => b.writeFloatLE(n)) });
export const bool = (yes: boolean): Value => ({ type: 7, bytes: Buffer.of(yes ? 1 : 0) });
export const string = (text: string | Buffer): Value => ({ type: 8, bytes: stringBytes(text) });
export const array = (element: number, count: number | bigint, bytes: Buffer): Value => ({
  type: 9,
  bytes: Buffer.concat([u32Bytes(element), u64Bytes(count), bytes]),
});
export const strings = (texts: readonly string[]): Value => array(8, texts.length, Buffer.concat(texts.map((text) => stringBytes(text))));
export const i32s = (numbers: readonly number[]): Value => array(5, numbers.length, Buffer.from(Int32Array.from(numbers).buffer));
export const f32s = (numbers: readonly number[]): Value => array(6, numbers.length, Buffer.from(Float32Array.from(numbers).buffer));

export function encodeGguf(spec: GgufSpec): Buffer {
  const pairs = Object.entries(spec.metadata).map(([key, value]) => Buffer.concat([stringBytes(key), u32Bytes(value.type), value.bytes]));
  const infos: Buffer[] = [];
  const data: Buffer[] = [];
  let offset = 0;
  for (const tensor of spec.tensors) {
    const type = typeof tensor.type === 'number' ? tensor.type : typeNumbers[tensor.type];
    const dimensions = tensor.shape.toReversed().map((size) => u64Bytes(size));
    infos.push(Buffer.concat([stringBytes(tensor.name), u32Bytes(dimensions.length), ...dimensions, u32Bytes(type), u64Bytes(tensor.offset ?? offset)]));
    const padded = Math.ceil(tensor.data.length / alignment) * alignment;
    data.push(tensor.data, Buffer.alloc(padded - tensor.data.length));
    offset += padded;
  }
  const header = Buffer.concat([
    Buffer.from(spec.magic ?? 'GGUF', 'latin1'),
    u32Bytes(spec.version ?? 3),
    u64Bytes(spec.tensorCount ?? spec.tensors.length),
    u64Bytes(spec.pairCount ?? pairs.length),
    ...pairs,
    ...infos,
  ]);
  return Buffer.concat([header, Buffer.alloc((alignment - (header.length % alignment)) % alignment), ...data]);
}

export function writeGguf(path: string, spec: GgufSpec): string {
  writeFileSync(path, encodeGguf(spec));
  return path;
}

/** A generator of numbers in [0, 1), the same for the same seed (Steele and Vigna's splitmix, 32 bits). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** Weights within (-amplitude, amplitude); of the block types, within a few times that. */
export function randomTensor(name: string, type: TensorType, shape: readonly number[], seed: number, amplitude = 0.1): TensorSpec {
  const random = seededRandom(seed);
  const elements = shape.reduce((product, size) => product * size, 1);
  const layout = tensorLayouts[type];
  const data = Buffer.alloc((elements / layout.block) * layout.bytes);
  const value = () => (random() * 2 - 1) * amplitude;
  if (type === 'F32') {
    for (let at = 0; at < data.length; at += 4) data.writeFloatLE(value(), at);
  } else if (type === 'BF16' || type === 'F16') {
    // Exponent and sign of about the amplitude, the rest at random: good enough as a weight in either format.
    const high = type === 'BF16' ? 0x3d : 0x2c;
    for (let at = 0; at < data.length; at += 2) data.writeUInt16LE(((high | (random() < 0.5 ? 0x80 : 0)) << 8) | Math.floor(random() * 256), at);
  } else {
    for (let at = 0; at < data.length; at++) data[at] = Math.floor(random() * 256);
    for (let at = 0; at < data.length; at += layout.bytes) {
      for (const [place, half] of blockHalves[type] ?? []) data.writeUInt16LE(half, at + place);
    }
  }
  return { name, type, shape, data };
}
