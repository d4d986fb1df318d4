import type { ModelConfig, ModelFile, Tensor } from '../model/types.js';
import { CONTRIB, GraphBuilder, type Value } from './graph.js';
import { Activation, Refinement, linear } from './linear.js';
import { dequantise } from './quantised-blocks.js';

/**
 * The dense graph of the llama architecture, cut at its attention calls into `layers + 1` parts:
 *
 * - part 0: norm, q k v and rotary embedding of layer 0;
 * - part l: output projection and MLP of layer l - 1, then norm, q k v and rotary embedding of layer l;
 * - part `layers`: output projection and MLP of the last layer, final norm, lm_head, for the rows asked for.
 *
 * Inputs and outputs, in f32: `x` [rows, hidden] the residual stream, `o` [rows, heads * headDim] attention's output,
 * `cos` and `sin` [rows, rotating dimensions / 2], `q`, `k`, `v`, and `logits` [selected, vocabulary] for the rows that
 * `select` (int64) names. The inputs of {@link Refinement} are there in every part.
 */
export function llamaParts(model: ModelFile): (() => Uint8Array)[] {
  const parts = [];
  for (let layer = 0; layer <= model.config.layers; layer += 1) {
    parts.push(() => llamaPart(model, layer));
  }
  return parts;
}

function llamaPart(model: ModelFile, layer: number): Uint8Array {
  const { config } = model;
  const graph = new GraphBuilder();
  const refinement = new Refinement(graph);
  const last = layer === config.layers;
  let x = graph.input('x', 'float32', ['rows', config.hiddenSize]);
  let normed: Value;

  if (layer === 0) {
    normed = norm(graph, config, x, model.layerTensor(0, 'attentionNorm'));
  } else {
    let o = graph.input('o', 'float32', ['rows', config.heads * config.headDim]);
    if (last) {
      const select = graph.input('select', 'int64', ['selected']);
      x = graph.node('Gather', [x, select]);
      o = graph.node('Gather', [o, select]);
    }
    const nextNorm = last ? model.finalNorm : model.layerTensor(layer, 'attentionNorm');
    ({ x, normed } = afterAttention(graph, refinement, model, layer - 1, x, o, nextNorm));
  }

  if (last) {
    const logits = linear(new Activation(graph, refinement, normed, config.hiddenSize), model.lmHead);
    graph.output('logits', logits, 'float32', ['selected', config.vocabSize]);
  } else {
    if (layer > 0) graph.output('x_out', x, 'float32', ['rows', config.hiddenSize]);
    beforeAttention(graph, refinement, model, layer, normed);
  }
  return graph.build();
}

/** Output projection and MLP of `layer` with both residual sums, then the norm that follows. */
function afterAttention(
  graph: GraphBuilder,
  refinement: Refinement,
  model: ModelFile,
  layer: number,
  x: Value,
  o: Value,
  nextNorm: Tensor,
) {
  const { config } = model;
  const attended = linear(
    new Activation(graph, refinement, o, config.heads * config.headDim),
    model.layerTensor(layer, 'attentionOutput'),
  );
  const mlp = addAndNorm(graph, config, x, attended, model.layerTensor(layer, 'mlpNorm'));
  const gateAndUp = linear(
    new Activation(graph, refinement, mlp.normed, config.hiddenSize),
    model.layerTensor(layer, 'gate'),
    model.layerTensor(layer, 'up'),
  );
  const [gate, up] = split(graph, gateAndUp, [config.intermediateSize, config.intermediateSize]);
  // QuickGelu with alpha 1 is SiLU, in one operator.
  const activated = graph.node('QuickGelu', [gate], { alpha: { float: 1 } }, CONTRIB);
  const hidden = graph.node('Mul', [activated, up]);
  const down = linear(new Activation(graph, refinement, hidden, config.intermediateSize), model.layerTensor(layer, 'down'));
  return addAndNorm(graph, config, mlp.x, down, nextNorm);
}

/** Outputs `q`, `k` (rotated) and `v` of `layer`. */
function beforeAttention(graph: GraphBuilder, refinement: Refinement, model: ModelFile, layer: number, normed: Value): void {
  const { heads, kvHeads, headDim, hiddenSize, rope } = model.config;
  const cos = graph.input('cos', 'float32', ['rows', rope.dimensions / 2]);
  const sin = graph.input('sin', 'float32', ['rows', rope.dimensions / 2]);
  const qkv = linear(
    new Activation(graph, refinement, normed, hiddenSize),
    model.layerTensor(layer, 'query'),
    model.layerTensor(layer, 'key'),
    model.layerTensor(layer, 'value'),
  );
  // Queries and keys rotate together, as so many heads.
  const [qk, v] = split(graph, qkv, [(heads + kvHeads) * headDim, kvHeads * headDim]);
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
  const [q, k] = split(graph, graph.node('Squeeze', [rotated, zero]), [heads * headDim, kvHeads * headDim]);
  graph.output('q', q, 'float32', ['rows', heads * headDim]);
  graph.output('k', k, 'float32', ['rows', kvHeads * headDim]);
  graph.output('v', v, 'float32', ['rows', kvHeads * headDim]);
}

function norm(graph: GraphBuilder, config: ModelConfig, x: Value, weight: Tensor): Value {
  const scale = graph.constant('float32', weight.shape, dequantise(weight.type, weight.bytes()));
  return graph.node('SimplifiedLayerNormalization', [x, scale], {
    axis: { int: -1 },
    epsilon: { float: config.rmsNormEps },
  });
}

/** x + y, and its norm. */
function addAndNorm(graph: GraphBuilder, config: ModelConfig, x: Value, y: Value, weight: Tensor) {
  const scale = graph.constant('float32', weight.shape, dequantise(weight.type, weight.bytes()));
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
