import { tensorLayouts } from '../model/tensor-types.js';
import type { Tensor, TensorType } from '../model/types.js';
import { type NativePackedBlocks, packBlocks } from '../native.js';

/** A type whose elements are in blocks with a scale. */
export type QuantisedType = Exclude<TensorType, 'F32' | 'F16' | 'BF16'>;

export function isQuantised(type: TensorType): type is QuantisedType {
  return tensorLayouts[type].block > 1;
}

/** Weights [outputs, inputs] in the blocks of ONNX Runtime's MatMulNBits. Hold exactly what the file's blocks hold. */
export interface PackedWeight extends Readonly<NativePackedBlocks> {
  readonly outputs: number;
  readonly inputs: number;
}

/** Packs weights that share their inputs, one after the other along the outputs. Throws INVALID_OPTION if they do not. */
export function packWeights(tensors: readonly Tensor[], type: QuantisedType): PackedWeight {
  const inputs = tensors[0]?.shape[1] ?? 0;
  const outputs = tensors.reduce((sum, tensor) => sum + (tensor.shape[0] ?? 0), 0);
  return { outputs, inputs, ...packBlocks(type, tensors.map((tensor) => tensor.bytes()), outputs, inputs) };
}
