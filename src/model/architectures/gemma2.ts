import type { Architecture } from './architecture.js';
import { gemmaScales } from './gemma.js';

/** Gemma 2: every other layer is local, scores and logits are capped softly. */
export const gemma2: Architecture = {
  name: 'gemma2',
  tensors: ['attentionPostNorm', 'mlpPostNorm'],
  interleaved: false,
  activation: 'gelu',
  hub: {
    modelTypes: {
      gemma2: { num_key_value_heads: 4, head_dim: 256, sliding_window: 4096, query_pre_attn_scalar: 256, attn_logit_softcapping: 50, final_logit_softcapping: 30 },
    },
    tied: true,
    normOffset: 1,
  },
  traits(keys) {
    const window = keys.window(4096);
    return {
      ...gemmaScales(keys, 46),
      scoreCap: keys.cap('attn_logit_softcapping', 50),
      logitCap: keys.cap('final_logit_softcapping', 30),
      local: window === undefined ? undefined : { window, layers: keys.localLayers(2) },
    };
  },
};
