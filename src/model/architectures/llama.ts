import type { Architecture } from './architecture.js';

/** Llama, and what GGUF stores as it: Mistral, whose layers may all attend a window, SmolLM2 and others. */
export const llama: Architecture = {
  name: 'llama',
  tensors: [],
  optionalTensors: ['queryBias', 'keyBias', 'valueBias'],
  interleaved: true,
  ropeFactors: true,
  activation: 'silu',
  traits(keys) {
    const window = keys.window();
    return window === undefined ? {} : { local: { window, layers: new Array<boolean>(keys.shape.layers).fill(true) } };
  },
};
