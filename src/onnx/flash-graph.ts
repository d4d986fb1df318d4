import type { ModelConfig } from '../model/types.js';
import { CONTRIB, GraphBuilder } from './graph.js';

/**
 * Causal attention of a chunk of tokens over those before it and itself, without weights: any layer's that attends all tokens. In float16 with
 * sums in float32, by ONNX Runtime's GroupQueryAttention, which is flash attention on CUDA: scores never lie in memory. The `first` chunk has no past.
 *
 * Inputs: `q` [1, n, heads * headDim], `k` and `v` [1, n, kvHeads * headDim] in f32, `past_k` and `past_v` [1, m, kvHeads, headDim] in f16, and in int32
 * `last` [1], m + n - 1, and `total` [1], m + n.
 * Outputs: `o` [1, n, heads * headDim] in f32, and `k_half` and `v_half` [1, n, kvHeads * headDim], k and v in f16, which are the past of what follows.
 */
export function flashGraph({ heads, kvHeads, headDim }: ModelConfig, { first }: { first: boolean }): Uint8Array {
  const graph = new GraphBuilder();
  const [wide, narrow] = [heads * headDim, kvHeads * headDim];
  const half = (name: string, width: number) => graph.cast(graph.input(name, 'float32', [1, 'n', width]), 'float16');
  // The operator has the tokens of a head one after the other; whoever gathers the past has the heads of a token so. How many there are has no name:
  // ONNX Runtime takes what has the same name for the same, and on CUDA would write past and chunk together to where only the past has room.
  const past = (name: string) => first ? undefined : graph.node('Transpose', [graph.input(name, 'float16', [1, '', kvHeads, headDim])], { perm: { ints: [0, 2, 1, 3] } });
  const [q, k, v] = [half('q', wide), half('k', narrow), half('v', narrow)];
  const [o] = graph.nodes(
    'GroupQueryAttention',
    [q, k, v, past('past_k'), past('past_v'), graph.input('last', 'int32', [1]), graph.input('total', 'int32', [1])],
    [true, true, true],
    { num_heads: { int: heads }, kv_num_heads: { int: kvHeads } },
    CONTRIB,
  );
  graph.output('o', graph.cast(o ?? q, 'float32'), 'float32', [1, 'n', wide]);
  graph.output('k_half', k, 'float16', [1, 'n', narrow]);
  graph.output('v_half', v, 'float16', [1, 'n', narrow]);
  return graph.build();
}
