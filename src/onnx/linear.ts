import type { Tensor } from '../model/types.js';
import { CONTRIB, type GraphBuilder, type Value } from './graph.js';
import { BLOCK, type PackedWeight, dequantise, isQuantised, packWeights } from './quantised-blocks.js';

/**
 * Activations are quantised to 8 bits a block before they meet quantised weights (MatMulNBits' accuracy level 4), as
 * llama.cpp does. With f32 activations one row takes 2 to 4 times as long at 4 bits, and 100 times at 8 bits, where
 * ONNX Runtime has no other kernel.
 */
const ACCURACY_LEVEL = 4;

/**
 * Graph inputs that refine the 8 bits of {@link ACCURACY_LEVEL}, which alone move logits by 0.1 and SmolLM2's perplexity
 * by up to 1.5%. Rows that are refined go in twice, as they are and as what quantising them loses, which is quantised to
 * 8 bits of its own: together about 15 bits. The weights, which are what a few rows cost time for, are still read once.
 */
export class Refinement {
  /** int64 [refined, 1], at least one. */
  readonly rows: Value;
  /** int64 [2]: how many rows there are, and how many are refined. */
  readonly counts: Value;

  constructor(graph: GraphBuilder) {
    this.rows = graph.input('refined_rows', 'int64', ['refined', 1]);
    this.counts = graph.input('row_counts', 'int64', [2]);
  }

  /** The tensors for those inputs in a run of `rows` rows, of which the last `count` (at least one) are refined. */
  static inputs(rows: number, count: number) {
    const refined = Array.from({ length: count }, (_, row) => BigInt(rows - count + row));
    return {
      refined_rows: { data: BigInt64Array.from(refined), shape: [refined.length, 1] },
      row_counts: { data: BigInt64Array.of(BigInt(rows), BigInt(refined.length)), shape: [2] },
    };
  }
}

/** The input of linear layers, with what several of them share. */
export class Activation {
  #blockSums: Value | undefined;
  #withRemainders: Value | undefined;

  constructor(
    readonly graph: GraphBuilder,
    readonly refinement: Refinement,
    readonly value: Value,
    readonly size: number,
  ) {}

  /** Sums over blocks of 32 elements, [rows, size / 32]: a product with a constant, which is one small operator. */
  blockSums(): Value {
    return (this.#blockSums ??= this.graph.node('MatMul', [this.value, this.#blockIndicator()]));
  }

  /** The rows, and below them the remainders of the refined ones: [rows + refined, size]. */
  withRemainders(): Value {
    return (this.#withRemainders ??= this.graph.node('Concat', [this.value, this.#remainders()], { axis: { int: 0 } }));
  }

  #blockIndicator(): Value {
    const blocks = this.size / BLOCK;
    const indicator = new Float32Array(this.size * blocks);
    for (let i = 0; i < this.size; i += 1) indicator[i * blocks + Math.floor(i / BLOCK)] = 1;
    return this.graph.constant('float32', [this.size, blocks], indicator);
  }

  /** What rounding to 8 bits a block takes from the refined rows, [refined, size]. */
  #remainders(): Value {
    const { graph, size } = this;
    const refined = graph.node('GatherND', [this.value, this.refinement.rows]);
    const blocks = graph.node('Reshape', [refined, graph.shape(0, size / BLOCK, BLOCK)]);
    const greatest = graph.node('ReduceMax', [graph.node('Abs', [blocks]), graph.shape(-1)], { keepdims: { int: 0 } });
    // The scale of a block of zeros is 0, and so is what comes back of it.
    const scale = graph.node('Mul', [greatest, graph.constant('float32', [], Float32Array.of(1 / 127))]);
    const blockwise = { axis: { int: 1 }, block_size: { int: BLOCK } };
    const quantised = graph.node('QuantizeLinear', [refined, scale], { ...blockwise, output_dtype: { int: 3 } });
    return graph.node('Sub', [refined, graph.node('DequantizeLinear', [quantised, scale], blockwise)]);
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
  const products = graph.node('MatMulNBits', [x.withRemainders(), quants, scales], attributes, CONTRIB);
  const [own, ofRemainders] = graph.nodes('Split', [products, x.refinement.counts], [true, true], { axis: { int: 0 } }) as [Value, Value];
  const product = graph.node('ScatterND', [own, x.refinement.rows, ofRemainders], { reduction: { string: 'add' } });
  if (!weight.offsets) return product;
  const offsets = graph.constant('float32', [inputs / BLOCK, outputs], weight.offsets);
  return graph.node('Gemm', [x.blockSums(), offsets, product]);
}

function floatLinear(x: Activation, weight: Tensor): Value {
  const [outputs = 0, inputs = 0] = weight.shape;
  const constant = x.graph.constant('float32', [outputs, inputs], dequantise(weight.type, weight.bytes()));
  return x.graph.node('Gemm', [x.value, constant], { transB: { int: 1 } });
}
