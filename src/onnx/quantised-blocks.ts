import type { Tensor, TensorType } from '../model/types.js';

/** Weights per block, along the input axis, in every quantised type read here. */
export const BLOCK = 32;

/** Bytes of a GGUF block: scales and minima are f16, quants 4 or 8 bits each. */
const blockBytes = { Q8_0: 34, Q4_0: 18, Q4_1: 20 } as const satisfies Partial<Record<TensorType, number>>;

export type QuantisedType = keyof typeof blockBytes;

export function isQuantised(type: TensorType): type is QuantisedType {
  return type in blockBytes;
}

/**
 * A weight [outputs, inputs] as ONNX Runtime's MatMulNBits takes it: w = scale * (quant - 2^(bits - 1)) + offset, for
 * blocks of 32 inputs. Holds exactly what the file's blocks hold.
 */
export interface PackedWeight {
  readonly outputs: number;
  readonly inputs: number;
  readonly bits: 4 | 8;
  /** [outputs, inputs / 32, 4 * bits]; of two 4-bit quants in a byte the earlier is the low one. */
  readonly quants: Uint8Array;
  /** [outputs, inputs / 32] */
  readonly scales: Float32Array;
  /** [inputs / 32, outputs], or undefined where all are zero. */
  readonly offsets: Float32Array | undefined;
}

/** Packs weights that share their inputs, one after the other along the outputs. */
export function packWeights(tensors: readonly Tensor[], type: QuantisedType): PackedWeight {
  const inputs = tensors[0]?.shape[1] ?? 0;
  const outputs = tensors.reduce((sum, tensor) => sum + (tensor.shape[0] ?? 0), 0);
  const blocks = inputs / BLOCK;
  const bits = type === 'Q8_0' ? 8 : 4;
  const packed = {
    outputs,
    inputs,
    bits,
    quants: new Uint8Array(outputs * blocks * 4 * bits),
    scales: new Float32Array(outputs * blocks),
    offsets: type === 'Q4_1' ? new Float32Array(blocks * outputs) : undefined,
  } as const;
  let firstOutput = 0;
  for (const tensor of tensors) {
    packTensor(tensor.bytes(), type, packed, firstOutput);
    firstOutput += tensor.shape[0] ?? 0;
  }
  return packed;
}

function packTensor(bytes: Uint8Array, type: QuantisedType, packed: PackedWeight, firstOutput: number): void {
  const { inputs, outputs, quants, scales, offsets } = packed;
  const blocks = inputs / BLOCK;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.length / blockBytes[type];
  for (let block = 0; block < count; block += 1) {
    const from = block * blockBytes[type];
    const place = firstOutput * blocks + block;
    const scale = halfToFloat(view.getUint16(from, true));
    scales[place] = scale;
    if (type === 'Q8_0') {
      // Signed quants become unsigned around 128.
      for (let i = 0; i < BLOCK; i += 1) quants[place * BLOCK + i] = (bytes[from + 2 + i] ?? 0) ^ 0x80;
      continue;
    }
    if (offsets) {
      // GGUF counts Q4_1's quants from 0, MatMulNBits from -8: the difference goes into the offset.
      const offset = halfToFloat(view.getUint16(from + 2, true)) + 8 * scale;
      offsets[(place % blocks) * outputs + Math.floor(place / blocks)] = offset;
    }
    packNibbles(bytes, from + (type === 'Q4_1' ? 4 : 2), quants, place * (BLOCK / 2));
  }
}

/** GGUF has element i and i + 16 of a block in byte i; MatMulNBits has 2i and 2i + 1. */
function packNibbles(bytes: Uint8Array, from: number, quants: Uint8Array, to: number): void {
  for (let i = 0; i < 8; i += 1) {
    const a = bytes[from + 2 * i] ?? 0;
    const b = bytes[from + 2 * i + 1] ?? 0;
    quants[to + i] = (a & 0x0f) | ((b & 0x0f) << 4);
    quants[to + 8 + i] = (a >> 4) | (b & 0xf0);
  }
}

const floatBits = new Uint32Array(1);
const floatValue = new Float32Array(floatBits.buffer);

/** The exact value of an IEEE half. */
export function halfToFloat(half: number): number {
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  floatBits[0] = ((exponent + 112) << 23) | (mantissa << 13);
  return sign * (floatValue[0] ?? 0);
}

function bfloatToFloat(bits: number): number {
  floatBits[0] = bits << 16;
  return floatValue[0] ?? 0;
}

/** The exact f32 values of a tensor's bytes, whatever their type. */
export function dequantise(type: TensorType, bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = (size: number, read: (at: number) => number) =>
    Float32Array.from({ length: bytes.length / size }, (_, index) => read(size * index));
  switch (type) {
    case 'F32':
      return values(4, (at) => view.getFloat32(at, true));
    case 'F16':
      return values(2, (at) => halfToFloat(view.getUint16(at, true)));
    case 'BF16':
      return values(2, (at) => bfloatToFloat(view.getUint16(at, true)));
    default:
      return dequantiseBlocks(type, bytes, view);
  }
}

function dequantiseBlocks(type: QuantisedType, bytes: Uint8Array, view: DataView): Float32Array {
  const size = blockBytes[type];
  const values = new Float32Array((bytes.length / size) * BLOCK);
  for (let from = 0, to = 0; from < bytes.length; from += size, to += BLOCK) {
    const scale = halfToFloat(view.getUint16(from, true));
    if (type === 'Q8_0') {
      for (let i = 0; i < BLOCK; i += 1) values[to + i] = scale * view.getInt8(from + 2 + i);
      continue;
    }
    const offset = type === 'Q4_1' ? halfToFloat(view.getUint16(from + 2, true)) : -8 * scale;
    const quants = from + (type === 'Q4_1' ? 4 : 2);
    for (let i = 0; i < BLOCK / 2; i += 1) {
      const pair = bytes[quants + i] ?? 0;
      values[to + i] = scale * (pair & 0x0f) + offset;
      values[to + BLOCK / 2 + i] = scale * (pair >> 4) + offset;
    }
  }
  return values;
}
