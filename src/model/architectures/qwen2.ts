import type { Architecture } from './architecture.js';
import { refuseWindow } from './qwen.js';

/** Qwen 2 and 2.5: queries, keys and values have biases. */
export const qwen2: Architecture = {
  name: 'qwen2',
  tensors: ['queryBias', 'keyBias', 'valueBias'],
  interleaved: false,
  activation: 'silu',
  hub: { modelTypes: { qwen2: { num_key_value_heads: 32 } } },
  traits: refuseWindow,
};
