import type { Architecture } from './architecture.js';
import { refuseWindow } from './qwen.js';

/** Qwen 3: each head of queries and keys is normalised before it rotates. */
export const qwen3: Architecture = {
  name: 'qwen3',
  tensors: ['queryNorm', 'keyNorm'],
  interleaved: false,
  activation: 'silu',
  hub: { modelTypes: { qwen3: { num_key_value_heads: 32, head_dim: 128 } } },
  traits: refuseWindow,
};
