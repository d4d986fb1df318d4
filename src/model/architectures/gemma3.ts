import type { Architecture } from './architecture.js';
import { gemmaScales } from './gemma.js';

/** Gemma 3: five of six layers are local, with a rotary base of their own; heads of queries and keys are normalised. */
export const gemma3: Architecture = {
  name: 'gemma3',
  tensors: ['queryNorm', 'keyNorm', 'attentionPostNorm', 'mlpPostNorm'],
  interleaved: false,
  activation: 'gelu',
  traits(keys) {
    const layers = keys.localLayers(6);
    return {
      ...gemmaScales(keys, 62),
      logitCap: keys.positive('final_logit_softcapping', 1e6),
      // Also where the window holds the whole context: the rotary base is another one.
      local: { window: keys.window() ?? keys.shape.contextLength, layers, theta: keys.positive('rope.freq_base_swa', 1e12) ?? 10_000 },
    };
  },
};
