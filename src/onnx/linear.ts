import type { Tensor } from '../model/types.js';
import { CONTRIB, type GraphBuilder, type Value } from './graph.js';
import { BLOCK, type PackedWeight, dequantise, isQuantised, packWeights } from './quantised-blocks.js';

/**
 * Activations are quantised to 8 bits a block before they meet quantised weights (MatMulNBits' accuracy level 4), as
 * llama.cpp does. With f32 activations one row takes 2 to 4 times as long at 4 bits, and 100 times at 8 bits, where
 * ONNX Runtime has no other kernel.
 */
const ACCURACY_LEVEL = 4;

/** The input of linear layers, with what several of them share. */
export class Activation {
  #blockSums: Value | undefined;

  constructor(
    readonly graph: GraphBuilder,
    readonly value: Value,
    readonly size: number,
  ) {}

  /** Sums over blocks of 32 elements, [rows, size / 32]: a product with a constant, which is one small operator. */
  blockSums(): Value {
    return (this.#blockSums ??= this.graph.node('MatMul', [this.value, this.#blockIndicator()]));
  }

  #blockIndicator(): Value {
    const blocks = this.size / BLOCK;
    const indicator = new Float32Array(this.size * blocks);
    for (let i = 0; i < this.size; i += 1) indicator[i * blocks + Math.floor(i / BLOCK)] = 1;
    return this.graph.constant('float32', [this.size, blocks], indicator);
  }
}

/**
 * y = x W^T for the weights [outputs_i, inputs] side by side: [rows, sum of outputs]. Lossless: the graph holds what the
 * file holds.
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

/**
 * y = x W^T for logits, where the 8 bits of {@link ACCURACY_LEVEL} are too few: they moved SmolLM2's perplexity by up to 1.5%.
 * Each row goes in twice, as what 8 bits a block can hold and as the remainder, which is rounded to 8 bits of its own;
 * the sum has the precision of about 15. The weights, which are what costs time, are still read once.
 */
export function preciseLinear(x: Activation, ...weight: [Tensor, ...Tensor[]]): Value {
  if (!isQuantised(weight[0].type)) return linear(x, ...weight);
  const { graph, size } = x;
  const shape = (...sizes: number[]) => graph.constant('int64', [sizes.length], BigInt64Array.from(sizes, BigInt));
  const scalar = (value: number) => graph.constant('float32', [], Float32Array.of(value));

  const blocks = graph.node('Reshape', [x.value, shape(-1, size / BLOCK, BLOCK)]);
  const greatest = graph.node('ReduceMax', [graph.node('Abs', [blocks]), shape(-1)]);
  // A block of zeros has no scale; any will do.
  const scale = graph.node('Max', [graph.node('Mul', [greatest, scalar(1 / 127)]), scalar(1e-30)]);
  const rounded = graph.node('Mul', [graph.node('Round', [graph.node('Div', [blocks, scale])]), scale]);
  const remainder = graph.node('Sub', [blocks, rounded]);
  const both = graph.node('Reshape', [graph.node('Concat', [rounded, remainder], { axis: { int: 0 } }), shape(-1, size)]);

  const products = linear(new Activation(graph, both, size), ...weight);
  const halves = graph.nodes('Split', [products], [true, true], { axis: { int: 0 }, num_outputs: { int: 2 } });
  return graph.node('Add', halves);
}

function quantisedLinear(x: Activation, weight: PackedWeight): Value {
  const { graph } = x;
  const { outputs, inputs, bits } = weight;
  const quants = graph.constant('uint8', [outputs, inputs / BLOCK, 4 * bits], weight.quants);
  const scales = graph.constant('float32', [outputs * (inputs / BLOCK)], weight.scales);
  const attributes = {
    K: { int: inputs },
    N: { int: outputs },
    bits: { int: bits },
    block_size: { int: BLOCK },
    accuracy_level: { int: ACCURACY_LEVEL },
  };
  const product = graph.node('MatMulNBits', [x.value, quants, scales], attributes, CONTRIB);
  if (!weight.offsets) return product;
  const offsets = graph.constant('float32', [inputs / BLOCK, outputs], weight.offsets);
  return graph.node('Gemm', [x.blockSums(), offsets, product]);
}

function floatLinear(x: Activation, weight: Tensor): Value {
  const [outputs = 0, inputs = 0] = weight.shape;
  const constant = x.graph.constant('float32', [outputs, inputs], dequantise(weight.type, weight.bytes()));
  return x.graph.node('Gemm', [x.value, constant], { transB: { int: 1 } });
}
