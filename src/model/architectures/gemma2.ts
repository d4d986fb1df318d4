import type { Architecture } from './architecture.js';
import { gemmaScales } from './gemma.js';

/** Gemma 2: every other layer is local, scores and logits are capped softly. */
export const gemma2: Architecture = {
  name: 'gemma2',
  tensors: ['attentionPostNorm', 'mlpPostNorm'],
  interleaved: false,
  activation: 'gelu',
  traits(keys) {
    const window = keys.window(4096);
    return {
      ...gemmaScales(keys, 46),
      scoreCap: keys.positive('attn_logit_softcapping', 1e6) ?? 50,
      logitCap: keys.positive('final_logit_softcapping', 1e6) ?? 30,
      local: window === undefined ? undefined : { window, layers: keys.localLayers(2) },
    };
  },
};
