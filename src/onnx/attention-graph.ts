import type { ModelConfig } from '../model/types.js';
import { GraphBuilder, type Value } from './graph.js';

/** Below every score, and no infinity, whose differences are not numbers. */
const LEAST = -1e30;

/**
 * Attention of a block of tokens' queries over a block of keys and values, without weights: any layer's. What has been attended before comes as
 * `max`, `den` and `num`, relative to the greatest score so far, and goes out with this block's keys merged into it; `first` has none before. A
 * row's own key must be in the first block, so that its greatest score is one of a key that it sees.
 *
 * Inputs, in f32: `q` [n, heads * headDim], `k` and `v` [m, kvHeads * headDim], `q_at` [group * n, 1] positions of the queries, once for each query head
 * of a KV head, `k_at` [1, m] those of the keys, `window` [1] how many tokens up to its own a query sees.
 * Outputs: `max_out` and `den_out` [kvHeads, group * n, 1], `num_out` [kvHeads, group * n, headDim], and `o` [n, heads * headDim], which is attention's
 * output once every block was merged.
 */
export function attentionGraph({ heads, kvHeads, headDim, scoreCap }: ModelConfig, { first }: { first: boolean }): Uint8Array {
  const graph = new GraphBuilder();
  const group = heads / kvHeads;
  const queries = graph.input('q', 'float32', ['n', heads * headDim]);
  const keys = graph.input('k', 'float32', ['m', kvHeads * headDim]);
  const values = graph.input('v', 'float32', ['m', kvHeads * headDim]);
  const queriesAt = graph.input('q_at', 'float32', ['gn', 1]);
  const keysAt = graph.input('k_at', 'float32', [1, 'm']);
  const window = graph.input('window', 'float32', [1]);
  const scalar = (value: number) => graph.constant('float32', [], Float32Array.of(value));
  const reshape = (x: Value, ...sizes: number[]) => graph.node('Reshape', [x, graph.shape(...sizes)]);
  const transpose = (x: Value, ...perm: number[]) => graph.node('Transpose', [x], { perm: { ints: perm } });
  const overKeys = (operator: string, x: Value) => graph.node(operator, [x, graph.shape(-1)], { keepdims: { int: 1 } });

  const scaled = graph.node('Mul', [queries, scalar(1 / Math.sqrt(headDim))]);
  // A KV head's queries are rows of one product.
  const q = reshape(transpose(reshape(scaled, 0, kvHeads, group, headDim), 1, 2, 0, 3), kvHeads, -1, headDim);
  const k = transpose(reshape(keys, 0, kvHeads, headDim), 1, 2, 0);
  const v = transpose(reshape(values, 0, kvHeads, headDim), 1, 0, 2);
  let scores = graph.node('MatMul', [q, k]);
  if (scoreCap !== undefined) scores = graph.node('Mul', [graph.node('Tanh', [graph.node('Mul', [scores, scalar(1 / scoreCap)])]), scalar(scoreCap)]);
  const back = graph.node('Sub', [queriesAt, keysAt]);
  const past = graph.node('Where', [graph.node('Less', [back, scalar(0)]), scalar(LEAST), scores]);
  const seen = graph.node('Where', [graph.node('GreaterOrEqual', [back, window]), scalar(LEAST), past]);

  const blockMax = overKeys('ReduceMax', seen);
  let max = blockMax;
  let before: { den: Value; num: Value } | undefined;
  if (!first) {
    const maxBefore = graph.input('max', 'float32', [kvHeads, 'gn', 1]);
    const den = graph.input('den', 'float32', [kvHeads, 'gn', 1]);
    const num = graph.input('num', 'float32', [kvHeads, 'gn', headDim]);
    max = graph.node('Max', [maxBefore, blockMax]);
    const factor = graph.node('Exp', [graph.node('Sub', [maxBefore, max])]);
    before = { den: graph.node('Mul', [den, factor]), num: graph.node('Mul', [num, factor]) };
  }
  const weights = graph.node('Exp', [graph.node('Sub', [seen, max])]);
  const merged = (own: Value, earlier: Value | undefined) => (earlier === undefined ? own : graph.node('Add', [earlier, own]));
  const den = merged(overKeys('ReduceSum', weights), before?.den);
  const num = merged(graph.node('MatMul', [weights, v]), before?.num);
  graph.output('max_out', max, 'float32', [kvHeads, 'gn', 1]);
  graph.output('den_out', den, 'float32', [kvHeads, 'gn', 1]);
  graph.output('num_out', num, 'float32', [kvHeads, 'gn', headDim]);
  const o = transpose(reshape(graph.node('Div', [num, den]), kvHeads, group, -1, headDim), 2, 0, 1, 3);
  graph.output('o', reshape(o, 0, heads * headDim), 'float32', ['n', heads * headDim]);
  return graph.build();
}
