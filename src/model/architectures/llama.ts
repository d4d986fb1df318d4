import type { Architecture } from './architecture.js';

/** Llama, and what GGUF stores as it: Mistral, whose layers may all attend a window, SmolLM2 and others. */
export const llama: Architecture = {
  name: 'llama',
  tensors: [],
  optionalTensors: ['queryBias', 'keyBias', 'valueBias'],
  interleaved: true,
  ropeFactors: true,
  activation: 'silu',
  hub: {
    modelTypes: {
      llama: { max_position_embeddings: 2048 },
      mistral: { num_key_value_heads: 8, sliding_window: 4096 },
    },
  },
  traits(keys) {
    const window = keys.window();
    return window === undefined ? {} : { local: { window, layers: new Array<boolean>(keys.shape.layers).fill(true) } };
  },
};
