import type { TensorNames } from './model-tensors.js';
import type { ExtraLayerTensor, LayerTensor } from './types.js';

export const ropeFactorsName = 'rope_freqs.weight';

const layerNames: Readonly<Record<LayerTensor | ExtraLayerTensor, string>> = {
  attentionNorm: 'attn_norm.weight',
  query: 'attn_q.weight',
  queryBias: 'attn_q.bias',
  queryNorm: 'attn_q_norm.weight',
  key: 'attn_k.weight',
  keyBias: 'attn_k.bias',
  keyNorm: 'attn_k_norm.weight',
  value: 'attn_v.weight',
  valueBias: 'attn_v.bias',
  attentionOutput: 'attn_output.weight',
  attentionPostNorm: 'post_attention_norm.weight',
  mlpNorm: 'ffn_norm.weight',
  gate: 'ffn_gate.weight',
  up: 'ffn_up.weight',
  down: 'ffn_down.weight',
  mlpPostNorm: 'post_ffw_norm.weight',
};

/** GGUF's names of tensors. */
export const ggufNames: TensorNames = {
  embedding: 'token_embd.weight',
  finalNorm: 'output_norm.weight',
  lmHead: 'output.weight',
  ropeFactors: ropeFactorsName,
  layer: (layer, role) => `blk.${layer}.${layerNames[role]}`,
};
