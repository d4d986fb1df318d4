import type { ModelConfig, ModelFile, Tensor } from '../model/types.js';
import { dequantise } from '../native.js';
import { CONTRIB, GraphBuilder, type Value } from './graph.js';
import { Activation, type Precision, linear } from './linear.js';

/**
 * The dense graph of a decoder, cut at the attention calls into a part a layer and what follows the last of them:
 *
 * - part 0: norm, q k v and rotary embedding of layer 0;
 * - part l: output projection and MLP of layer l - 1, then norm, q k v and rotary embedding of layer l;
 * - tail: output projection and MLP of the last layer;
 * - heads: the final norm, and logits. Only the rows whose logits are wanted come this far.
 *
 * Inputs and outputs, in f32: `x` [rows, hidden] the residual stream, `o` [rows, heads * headDim] attention's output,
 * `cos` and `sin` [rows, rotating dimensions / 2], `q`, `k` and `v`, and `logits`. Layer parts give what they have a second time: where tensors
 * `stay` on the device q, k and v for attention there, as `q_stay`, `k_stay` and `v_stay`; else all of a row, q, k, v and the residual stream side by
 * side, as `joined`, for a step, whose every output takes as long to bring to the host.
 */
export function layerParts(model: ModelFile, options: PartOptions = {}): (() => Uint8Array)[] {
  return Array.from({ length: model.config.layers }, (_, layer) => () => layerPart(model, layer, options));
}

export interface PartOptions {
  readonly stay?: boolean;
  /** Of products, but for those of the output head. Default float32. */
  readonly precision?: Precision;
}

/** A part that is being made. */
interface Making {
  readonly graph: GraphBuilder;
  readonly model: ModelFile;
  readonly precision: Precision;
}

function layerPart(model: ModelFile, layer: number, { stay = false, precision = 'float32' }: PartOptions): Uint8Array {
  const { config } = model;
  const graph = new GraphBuilder();
  const making = { graph, model, precision };
  const x = graph.input('x', 'float32', ['rows', config.hiddenSize]);
  const nextNorm = model.layerTensor(layer, 'attentionNorm');
  let normed: Value;
  let next: Value | undefined;
  if (layer === 0) {
    normed = norm(graph, config, x, nextNorm);
  } else {
    const after = afterAttention(making, layer - 1, x);
    ({ normed, x: next } = addAndNorm(graph, config, after.x, after.added, nextNorm));
    graph.output('x_out', next, 'float32', ['rows', config.hiddenSize]);
  }
  const rows = beforeAttention(making, layer, normed);
  for (const [name, { value, width }] of Object.entries(rows)) {
    for (const suffix of stay ? ['', '_stay'] : ['']) graph.output(`${name}${suffix}`, value, 'float32', ['rows', width]);
  }
  if (!stay) {
    const joined = [...Object.values(rows), ...(next ? [{ value: next, width: config.hiddenSize }] : [])];
    const width = joined.reduce((sum, each) => sum + each.width, 0);
    graph.output('joined', graph.node('Concat', joined.map(({ value }) => value), { axis: { int: 1 } }), 'float32', ['rows', width]);
  }
  return graph.build();
}

export function tailPart(model: ModelFile, { precision = 'float32' }: PartOptions = {}): Uint8Array {
  const { layers, hiddenSize } = model.config;
  const graph = new GraphBuilder();
  const after = afterAttention({ graph, model, precision }, layers - 1, graph.input('x', 'float32', ['rows', hiddenSize]));
  graph.output('x_out', graph.node('Add', [after.x, after.added]), 'float32', ['rows', hiddenSize]);
  return graph.build();
}

/** Bytes of f32 that a part of the output head has at most: an ONNX model has to be below 2 GiB. */
const HEAD_BYTES = 2 ** 30;

/** The output head, in as many parts as it takes: the logits of `count` tokens from `first` on. */
export function headParts(model: ModelFile, most = HEAD_BYTES): { first: number; count: number; build: () => Uint8Array }[] {
  const { vocabSize, hiddenSize } = model.config;
  const rows = Math.max(1, Math.floor(most / (4 * hiddenSize)));
  return Array.from({ length: Math.ceil(vocabSize / rows) }, (_, part) => {
    const first = part * rows;
    const count = Math.min(rows, vocabSize - first);
    return { first, count, build: () => headPart(model, first, count) };
  });
}

function headPart(model: ModelFile, first: number, count: number): Uint8Array {
  const { config, lmHead } = model;
  const graph = new GraphBuilder();
  const normed = norm(graph, config, graph.input('x', 'float32', ['rows', config.hiddenSize]), model.finalNorm);
  const products = linear(new Activation(graph, normed, config.hiddenSize, 'float32'), rowsOf(lmHead, first, count));
  graph.output('logits', capped(graph, products, config.logitCap), 'float32', ['rows', count]);
  return graph.build();
}

/** Consecutive rows of a matrix, as one of its own. */
function rowsOf(matrix: Tensor, first: number, count: number): Tensor {
  const [rows = 0, ...rest] = matrix.shape;
  if (count === rows) return matrix;
  return {
    ...matrix,
    shape: [count, ...rest],
    bytes: () => {
      const bytes = matrix.bytes();
      const row = bytes.length / rows;
      return bytes.subarray(first * row, (first + count) * row);
    },
  };
}

/** cap * tanh(x / cap), where there is a cap. */
function capped(graph: GraphBuilder, x: Value, cap: number | undefined): Value {
  if (cap === undefined) return x;
  const scalar = (value: number) => graph.constant('float32', [], Float32Array.of(value));
  return graph.node('Mul', [graph.node('Tanh', [graph.node('Mul', [x, scalar(1 / cap)])]), scalar(cap)]);
}

/** Output projection and MLP of `layer`: the residual stream between them, and what the MLP adds to it. */
function afterAttention(making: Making, layer: number, x: Value): { x: Value; added: Value } {
  const { graph, model, precision } = making;
  const { config } = model;
  const { hiddenSize, intermediateSize } = config;
  const width = config.heads * config.headDim;
  const o = graph.input('o', 'float32', ['rows', width]);
  const projected = inFloat32(making, linear(new Activation(graph, o, width, precision), model.layerTensor(layer, 'attentionOutput')));
  const attended = normIf(graph, config, projected, model.extraTensor(layer, 'attentionPostNorm'));
  const mlp = addAndNorm(graph, config, x, attended, model.layerTensor(layer, 'mlpNorm'));
  const gateAndUp = linear(new Activation(graph, mlp.normed, hiddenSize, precision), model.layerTensor(layer, 'gate'), model.layerTensor(layer, 'up'));
  const [gate, up] = split(graph, gateAndUp, [intermediateSize, intermediateSize]);
  const hidden = graph.node('Mul', [activation(graph, config, gate), up]);
  const down = inFloat32(making, linear(new Activation(graph, hidden, intermediateSize, precision, precision), model.layerTensor(layer, 'down')));
  return { x: mlp.x, added: normIf(graph, config, down, model.extraTensor(layer, 'mlpPostNorm')) };
}

/** Queries, keys (both rotated) and values of `layer`. */
function beforeAttention(making: Making, layer: number, normed: Value): Readonly<Record<'q' | 'k' | 'v', { value: Value; width: number }>> {
  const { graph, model, precision } = making;
  const { heads, kvHeads, headDim, hiddenSize, local } = model.config;
  const rope = local?.layers[layer] ? local.rope : model.config.rope;
  const cos = graph.input('cos', 'float32', ['rows', rope.dimensions / 2]);
  const sin = graph.input('sin', 'float32', ['rows', rope.dimensions / 2]);
  const qkv = linear(
    new Activation(graph, normed, hiddenSize, precision),
    model.layerTensor(layer, 'query'),
    model.layerTensor(layer, 'key'),
    model.layerTensor(layer, 'value'),
  );
  const [wide, narrow] = [heads * headDim, kvHeads * headDim];
  // Queries and keys rotate together, as so many heads.
  const [products, v] = split(graph, biased(graph, model, layer, inFloat32(making, qkv)), [wide + narrow, narrow]);
  const qk = headNorms(graph, model, layer, products);
  const zero = graph.shape(0);
  const batched = graph.node('Unsqueeze', [qk, zero]);
  const rotated = graph.node(
    'RotaryEmbedding',
    // One position id means: rows 0, 1, 2, ... of cos and sin, which are this run's own.
    [batched, zero, cos, sin],
    {
      interleaved: { int: rope.interleaved ? 1 : 0 },
      num_heads: { int: heads + kvHeads },
      rotary_embedding_dim: { int: rope.dimensions === headDim ? 0 : rope.dimensions },
    },
    CONTRIB,
  );
  const [q, k] = split(graph, graph.node('Squeeze', [rotated, zero]), [wide, narrow]);
  return { q: { value: scaledQueries(graph, model.config, q), width: wide }, k: { value: k, width: narrow }, v: { value: v, width: narrow } };
}

/** What came of a product, as everything between products is. */
function inFloat32({ graph, precision }: Making, product: Value): Value {
  return precision === 'float32' ? product : graph.cast(product, 'float32');
}

/** What the addon's attention, which multiplies scores with 1/sqrt(headDim), lacks of the model's scale. */
function scaledQueries(graph: GraphBuilder, { scoreScale, headDim }: ModelConfig, q: Value): Value {
  const scale = Math.fround(scoreScale * Math.sqrt(headDim));
  return scale === 1 ? q : graph.node('Mul', [q, graph.constant('float32', [], Float32Array.of(scale))]);
}

function activation(graph: GraphBuilder, config: ModelConfig, gate: Value): Value {
  if (config.activation === 'gelu') return graph.node('Gelu', [gate], { approximate: { string: 'tanh' } });
  // QuickGelu with alpha 1 is SiLU, in one operator.
  return graph.node('QuickGelu', [gate], { alpha: { float: 1 } }, CONTRIB);
}

/** q, k and v with their biases, where there are any. */
function biased(graph: GraphBuilder, model: ModelFile, layer: number, qkv: Value): Value {
  const { heads, kvHeads, headDim } = model.config;
  const widths = { queryBias: heads * headDim, keyBias: kvHeads * headDim, valueBias: kvHeads * headDim };
  const biases = Object.entries(widths).map(([role, width]) => {
    const tensor = model.extraTensor(layer, role as keyof typeof widths);
    return tensor && { values: dequantise(tensor.type, tensor.bytes()), width };
  });
  if (biases.every((bias) => bias === undefined)) return qkv;
  const all = Object.values(widths).flatMap((width, i) => [...(biases[i]?.values ?? new Float32Array(width))]);
  return graph.node('Add', [qkv, graph.constant('float32', [all.length], Float32Array.from(all))]);
}

/** Each head of queries and keys [rows, (heads + kvHeads) * headDim] divided by its root mean square and times its weights. */
function headNorms(graph: GraphBuilder, model: ModelFile, layer: number, qk: Value): Value {
  const { heads, kvHeads, headDim } = model.config;
  const weights = [model.extraTensor(layer, 'queryNorm'), model.extraTensor(layer, 'keyNorm')] as const;
  if (weights[0] === undefined || weights[1] === undefined) return qk;
  const parts = split(graph, qk, [heads * headDim, kvHeads * headDim]).map((part, i) => {
    const count = i === 0 ? heads : kvHeads;
    const apart = graph.node('Reshape', [part, graph.shape(-1, count, headDim)]);
    return graph.node('Reshape', [norm(graph, model.config, apart, weights[i] as Tensor), graph.shape(-1, count * headDim)]);
  });
  return graph.node('Concat', parts, { axis: { int: 1 } });
}

function normIf(graph: GraphBuilder, config: ModelConfig, x: Value, weight: Tensor | undefined): Value {
  return weight === undefined ? x : norm(graph, config, x, weight);
}

function norm(graph: GraphBuilder, config: ModelConfig, x: Value, weight: Tensor): Value {
  const scale = normWeights(graph, config, weight);
  return graph.node('SimplifiedLayerNormalization', [x, scale], {
    axis: { int: -1 },
    epsilon: { float: config.rmsNormEps },
  });
}

function normWeights(graph: GraphBuilder, { normOffset }: ModelConfig, weight: Tensor): Value {
  return graph.constant('float32', weight.shape, dequantise(weight.type, weight.bytes()).map((element) => element + normOffset));
}

/** x + y, and its norm. */
function addAndNorm(graph: GraphBuilder, config: ModelConfig, x: Value, y: Value, weight: Tensor) {
  const scale = normWeights(graph, config, weight);
  const [normed, sum] = graph.nodes(
    'SkipSimplifiedLayerNormalization',
    [x, y, scale],
    [true, false, false, true],
    { epsilon: { float: config.rmsNormEps } },
    CONTRIB,
  );
  return { x: sum as Value, normed: normed as Value };
}

/** Cuts columns into consecutive parts. */
function split(graph: GraphBuilder, x: Value, sizes: readonly [number, number]): [Value, Value] {
  return graph.nodes('Split', [x, graph.shape(...sizes)], [true, true], { axis: { int: 1 } }) as [Value, Value];
}
