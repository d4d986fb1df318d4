import type { Tensor } from '../model/types.js';
import { dequantise } from '../native.js';
import { CONTRIB, type GraphBuilder, type Value } from './graph.js';
import { type PackedWeight, isQuantised, packWeights } from './quantised-blocks.js';

/** What products are made of: float16 halves their time where several rows go together. Sums are float32 either way. */
export type Precision = 'float32' | 'float16';

/** The input of linear layers, with what several of them share. Given in `from`, and multiplied in `precision`. */
export class Activation {
  readonly value: Value;
  readonly #blockSums = new Map<number, Value>();

  constructor(
    readonly graph: GraphBuilder,
    value: Value,
    readonly size: number,
    readonly precision: Precision,
    from: Precision = 'float32',
  ) {
    this.value = from === precision ? value : graph.cast(value, precision);
  }

  /** A constant of products. */
  constant(shape: readonly number[], data: Float32Array): Value {
    const constant = this.graph.constant('float32', shape, data);
    // ONNX Runtime casts what is constant once, when it loads the graph.
    return this.precision === 'float32' ? constant : this.graph.cast(constant, this.precision);
  }

  /** Sums over blocks of so many elements, [rows, size / block]: a product with a constant, which is one small operator. */
  blockSums(block: number): Value {
    const known = this.#blockSums.get(block);
    if (known !== undefined) return known;
    const sums = this.graph.node('MatMul', [this.value, this.#blockIndicator(block)]);
    this.#blockSums.set(block, sums);
    return sums;
  }

  #blockIndicator(block: number): Value {
    const blocks = this.size / block;
    const indicator = new Float32Array(this.size * blocks);
    for (let i = 0; i < this.size; i += 1) indicator[i * blocks + Math.floor(i / block)] = 1;
    return this.constant([this.size, blocks], indicator);
  }
}

/**
 * y = x W^T for the weights [outputs_i, inputs] side by side: [rows, sum of outputs], in the precision of `x`. In float32 lossless: the graph
 * holds what the file holds. Quants are so in float16 as well, and their scales rounded. MatMulNBits would round activations to 8 bits a block, if
 * asked to (accuracy level 4), which is faster, and moves the predictions of steps by more than a step may.
 */
export function linear(x: Activation, ...weights: [Tensor, ...Tensor[]]): Value {
  const { type } = weights[0];
  if (isQuantised(type) && weights.every((weight) => weight.type === type)) {
    return quantisedLinear(x, packWeights(weights, type));
  }
  const parts = weights.map((weight) =>
    isQuantised(weight.type) ? quantisedLinear(x, packWeights([weight], weight.type)) : floatLinear(x, weight),
  );
  return parts.length === 1 ? (parts[0] as Value) : x.graph.node('Concat', parts, { axis: { int: 1 } });
}

function quantisedLinear(x: Activation, weight: PackedWeight): Value {
  const { graph } = x;
  const { outputs, inputs, block, bits } = weight;
  const quants = graph.constant('uint8', [outputs, inputs / block, (block * bits) / 8], weight.quants);
  const scales = x.constant([outputs * (inputs / block)], weight.scales);
  const attributes = {
    K: { int: inputs },
    N: { int: outputs },
    bits: { int: bits },
    block_size: { int: block },
  };
  const product = graph.node('MatMulNBits', [x.value, quants, scales], attributes, CONTRIB);
  if (!weight.offsets) return product;
  const offsets = x.constant([inputs / block, outputs], weight.offsets);
  return graph.node('Gemm', [x.blockSums(block), offsets, product]);
}

function floatLinear(x: Activation, weight: Tensor): Value {
  const [outputs = 0, inputs = 0] = weight.shape;
  const constant = x.constant([outputs, inputs], dequantise(weight.type, weight.bytes()));
  return x.graph.node('Gemm', [x.value, constant], { transB: { int: 1 } });
}
