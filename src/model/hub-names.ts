import type { Architecture } from './architectures/architecture.js';
import type { TensorNames } from './model-tensors.js';
import type { ExtraLayerTensor, LayerTensor } from './types.js';

/** Of architectures that normalise what goes into attention and into the MLP. */
const layerNames: Readonly<Record<LayerTensor | ExtraLayerTensor, string>> = {
  attentionNorm: 'input_layernorm.weight',
  query: 'self_attn.q_proj.weight',
  queryBias: 'self_attn.q_proj.bias',
  queryNorm: 'self_attn.q_norm.weight',
  key: 'self_attn.k_proj.weight',
  keyBias: 'self_attn.k_proj.bias',
  keyNorm: 'self_attn.k_norm.weight',
  value: 'self_attn.v_proj.weight',
  valueBias: 'self_attn.v_proj.bias',
  attentionOutput: 'self_attn.o_proj.weight',
  attentionPostNorm: 'post_attention_layernorm.weight',
  mlpNorm: 'post_attention_layernorm.weight',
  gate: 'mlp.gate_proj.weight',
  up: 'mlp.up_proj.weight',
  down: 'mlp.down_proj.weight',
  mlpPostNorm: 'post_feedforward_layernorm.weight',
};

/** Of those that also normalise what comes out: there the norm after attention is another one. */
const mlpNormBetween = 'pre_feedforward_layernorm.weight';

/**
 * The names that transformers gives the tensors of a language model: of one by itself, or of the one inside a model that sees
 * images, whose two spellings are told apart by what is there.
 */
export function hubNames({ tensors }: Architecture, present: { has(name: string): boolean }): TensorNames {
  const between = tensors.includes('attentionPostNorm');
  const [body, head] = prefixes.find(([prefix]) => present.has(`${prefix}embed_tokens.weight`)) ?? prefixes[0];
  return {
    embedding: `${body}embed_tokens.weight`,
    finalNorm: `${body}norm.weight`,
    lmHead: `${head}lm_head.weight`,
    layer: (layer, role) => `${body}layers.${layer}.${between && role === 'mlpNorm' ? mlpNormBetween : layerNames[role]}`,
  };
}

const prefixes = [
  ['model.', ''],
  ['language_model.model.', 'language_model.'],
  ['model.language_model.', ''],
] as const;

/** Tensors that are no weights of the language model: frequencies that old files keep, and the eyes of a model that sees. */
export function isPassedOver(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq') || /^(?:model\.)?(?:vision_tower|multi_modal_projector)\./.test(name);
}
