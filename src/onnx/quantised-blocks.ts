import { tensorLayouts } from '../model/tensor-types.js';
import type { Tensor, TensorType } from '../model/types.js';
import { blockFormats, halfToFloat, largest } from './block-formats.js';
import type { BlockFormat, QuantisedType, Unpacked } from './block-formats.js';

export type { QuantisedType };

export function isQuantised(type: TensorType): type is QuantisedType {
  return type in blockFormats;
}

/**
 * A weight [outputs, inputs] as ONNX Runtime's MatMulNBits takes it: w = scale * (quant - 2^(bits - 1)) + offset, for
 * blocks of 16 or 32 inputs. Holds exactly what the file's blocks hold.
 */
export interface PackedWeight {
  readonly outputs: number;
  readonly inputs: number;
  readonly block: 16 | 32;
  readonly bits: 4 | 8;
  /** [outputs, inputs / block, block * bits / 8]; of two 4-bit quants in a byte the earlier is the low one. */
  readonly quants: Uint8Array;
  /** [outputs, inputs / block] */
  readonly scales: Float32Array;
  /** [inputs / block, outputs], or undefined where all are zero. */
  readonly offsets: Float32Array | undefined;
}

/** Packs weights that share their inputs, one after the other along the outputs. */
export function packWeights(tensors: readonly Tensor[], type: QuantisedType): PackedWeight {
  const inputs = tensors[0]?.shape[1] ?? 0;
  const outputs = tensors.reduce((sum, tensor) => sum + (tensor.shape[0] ?? 0), 0);
  const { group: block, bits, offsets }: BlockFormat = blockFormats[type];
  const blocks = inputs / block;
  const packed = {
    outputs,
    inputs,
    block,
    bits,
    quants: new Uint8Array((outputs * inputs * bits) / 8),
    scales: new Float32Array(outputs * blocks),
    offsets: offsets ? new Float32Array(blocks * outputs) : undefined,
  };
  let firstOutput = 0;
  for (const tensor of tensors) {
    packTensor(tensor.bytes(), type, packed, firstOutput);
    firstOutput += tensor.shape[0] ?? 0;
  }
  return packed;
}

function packTensor(bytes: Uint8Array, type: QuantisedType, packed: PackedWeight, firstOutput: number): void {
  const { inputs, outputs, block, bits, quants, scales, offsets } = packed;
  const { bias } = blockFormats[type];
  const blocks = inputs / block;
  let place = firstOutput * blocks;
  eachBlock(type, bytes, (unpacked, groups) => {
    for (let g = 0; g < groups; g += 1, place += 1) {
      const scale = unpacked.scales[g] ?? 0;
      scales[place] = scale;
      // What quants are counted from there and is not taken from them goes into the offset.
      if (offsets) offsets[(place % blocks) * outputs + Math.floor(place / blocks)] = (unpacked.offsets[g] ?? 0) + (2 ** (bits - 1) - bias) * scale;
      for (let i = 0; i < block; i += 1) {
        const quant = (unpacked.quants[g * block + i] ?? 0) + bias;
        const to = place * block + i;
        if (bits === 8) quants[to] = quant;
        else quants[to >> 1] = (quants[to >> 1] ?? 0) | (quant << (to & 1 ? 4 : 0));
      }
    }
  });
}

function eachBlock(type: QuantisedType, bytes: Uint8Array, take: (unpacked: Unpacked, groups: number, elements: number) => void): void {
  const { elements, group, unpack } = blockFormats[type];
  const unpacked = { quants: new Int8Array(largest.elements), scales: new Float32Array(largest.groups), offsets: new Float32Array(largest.groups) };
  for (let at = 0; at < bytes.length; at += tensorLayouts[type].bytes) {
    unpack(bytes, at, unpacked);
    take(unpacked, elements / group, elements);
  }
}

const floatBits = new Uint32Array(1);
const floatValue = new Float32Array(floatBits.buffer);

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
      return dequantiseBlocks(type, bytes);
  }
}

function dequantiseBlocks(type: QuantisedType, bytes: Uint8Array): Float32Array {
  const { group } = blockFormats[type];
  const { block, bytes: blockBytes } = tensorLayouts[type];
  const values = new Float32Array((bytes.length / blockBytes) * block);
  let to = 0;
  eachBlock(type, bytes, ({ quants, scales, offsets }, _, elements) => {
    for (let i = 0; i < elements; i += 1) {
      const g = Math.floor(i / group);
      values[to + i] = (scales[g] ?? 0) * (quants[i] ?? 0) + (offsets[g] ?? 0);
    }
    to += elements;
  });
  return values;
}
