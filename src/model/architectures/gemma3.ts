import type { Architecture } from './architecture.js';
import { gemmaScales } from './gemma.js';

/** Config files of the models that see leave out all of this. */
const text = {
  vocab_size: 262_208, max_position_embeddings: 131_072, num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256, sliding_window: 4096,
  query_pre_attn_scalar: 256, rope_theta: 1_000_000, rope_local_base_freq: 10_000,
};

/** Gemma 3: five of six layers are local, with a rotary base of their own; heads of queries and keys are normalised. */
export const gemma3: Architecture = {
  name: 'gemma3',
  tensors: ['queryNorm', 'keyNorm', 'attentionPostNorm', 'mlpPostNorm'],
  interleaved: false,
  activation: 'gelu',
  hub: { modelTypes: { gemma3_text: text, gemma3: text }, tied: true, normOffset: 1 },
  traits(keys) {
    const layers = keys.localLayers(6);
    return {
      ...gemmaScales(keys, 62),
      logitCap: keys.cap('final_logit_softcapping'),
      // Also where the window holds the whole context: the rotary base is another one.
      local: { window: keys.window() ?? keys.shape.contextLength, layers, theta: keys.positive('rope.freq_base_swa', 1e12) ?? 10_000 },
    };
  },
};
