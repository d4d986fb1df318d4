// The tiny models of every architecture as folders of the hub: other names, heads not permuted, Gemma's norms less 1.
import type { GgufSpec, TensorSpec, Value } from './gguf-writer.js';
import { unpermuted } from './safetensors-writer.js';
import type { HubFolderSpec, HubTensor } from './safetensors-writer.js';

const layerNames: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};
const gemmaNames = { ...layerNames, post_attention_norm: 'post_attention_layernorm', ffn_norm: 'pre_feedforward_layernorm', post_ffw_norm: 'post_feedforward_layernorm' };
const otherNames: Readonly<Record<string, string>> = { 'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight', 'output.weight': 'lm_head.weight' };

const configKeys: Readonly<Record<string, string>> = {
  block_count: 'num_hidden_layers',
  context_length: 'max_position_embeddings',
  embedding_length: 'hidden_size',
  feed_forward_length: 'intermediate_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'attention.sliding_window': 'sliding_window',
  'rope.freq_base': 'rope_theta',
  attn_logit_softcapping: 'attn_logit_softcapping',
  final_logit_softcapping: 'final_logit_softcapping',
};

/** What config.json says besides; the scaling of rotary positions by the names of the tests' models. */
const more: Readonly<Record<string, Record<string, unknown>>> = {
  'llama-linear': { rope_scaling: { rope_type: 'linear', factor: 4 } },
  'llama-yarn': { rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32 } },
  'qwen2-yarn': { rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 } },
  gemma3: { rope_scaling: { rope_type: 'linear', factor: 8 }, sliding_window_pattern: 6, rope_local_base_freq: 10_000 },
};

const modelTypes: Readonly<Record<string, string>> = { llama: 'llama', qwen2: 'qwen2', qwen3: 'qwen3', gemma2: 'gemma2', gemma3: 'gemma3_text' };

const numberOf = ({ type, bytes }: Value) => (type === 6 ? bytes.readFloatLE() : bytes.readUInt32LE());
const textsOf = ({ bytes }: Value) => {
  const texts: string[] = [];
  for (let at = 12; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    texts.push(bytes.toString('utf8', at + 8, at + 8 + length));
    at += 8 + length;
  }
  return texts;
};

/** A model of the tests in the hub's words. `name` is its name among them. */
export function hubFolder(name: string, { metadata, tensors }: GgufSpec): HubFolderSpec {
  const architecture = metadata['general.architecture']!.bytes.toString('utf8', 8);
  const gemma = architecture.startsWith('gemma');
  const config: Record<string, unknown> = {};
  for (const [key, hubKey] of Object.entries(configKeys)) {
    const value = metadata[`${architecture}.${key}`];
    if (value !== undefined) config[hubKey] = numberOf(value);
  }
  const tokens = textsOf(metadata['tokenizer.ggml.tokens']!);
  const headDim = config.head_dim as number;
  return {
    config: {
      ...config,
      model_type: modelTypes[architecture],
      hidden_act: gemma ? 'gelu_pytorch_tanh' : 'silu',
      vocab_size: tokens.length,
      tie_word_embeddings: !tensors.some((tensor) => tensor.name === 'output.weight'),
      ...(gemma && { query_pre_attn_scalar: headDim }),
      ...more[name],
      eos_token_id: 0,
    },
    tensors: tensors.filter((tensor) => tensor.name !== 'rope_freqs.weight').map((tensor) => hubTensor(tensor, architecture === 'llama' ? headDim : undefined, gemma)),
    files: {
      'tokenizer.json': {
        model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: textsOf(metadata['tokenizer.ggml.merges']!) },
        added_tokens: [{ id: 0, content: tokens[0], special: true }],
        pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
        decoder: { type: 'ByteLevel' },
      },
      'tokenizer_config.json': { bos_token: tokens[0], eos_token: { content: tokens[0] }, add_bos_token: false },
    },
  };
}

function hubTensor(tensor: TensorSpec, permutedDim: number | undefined, gemma: boolean): HubTensor {
  const [, layer, role = '', kind = ''] = /^blk\.(\d+)\.(\w+)\.(\w+)$/.exec(tensor.name) ?? [];
  const name = layer === undefined ? otherNames[tensor.name]! : `model.layers.${layer}.${(gemma ? gemmaNames : layerNames)[role as keyof typeof gemmaNames]}.${kind}`;
  const { data, shape } = permutedDim !== undefined && (role === 'attn_q' || role === 'attn_k') ? unpermuted(tensor, permutedDim) : tensor;
  return { name, dtype: 'F32', shape, data: gemma && name.includes('norm') ? lessOne(data) : data };
}

function lessOne(data: Buffer): Buffer {
  return Buffer.from(new Float32Array(new Uint8Array(data).buffer).map((weight) => weight - 1).buffer);
}
