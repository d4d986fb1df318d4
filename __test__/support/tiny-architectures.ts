// A small random model of every architecture, that llama.cpp reads too. Scores and logits have a spread of one to two, so that
// windows, caps and positions all make a difference within 64 tokens.
import { f32, i32s, randomTensor, string, strings, u32 } from './gguf-writer.js';
import type { GgufSpec, TensorSpec, Value } from './gguf-writer.js';

interface Shape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

const FEED_FORWARD = 96;
const CONTEXT = 256;

const tokens = ['<|endoftext|>', 'Ġ', 'Ċ', ...Array.from('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?-:'), 'he', 'll', 'in'];
export const architectureVocabulary = tokens.length;

/** The tokens of which logits are recorded. */
export const architectureText = Array.from({ length: 64 }, (_, i) => (i * 37 + 11 + (i >> 3)) % architectureVocabulary);

class TinyModel {
  readonly tensors: TensorSpec[] = [];
  #seed: number;

  constructor(readonly shape: Shape, seed: number) {
    this.#seed = seed * 1000;
  }

  /** Weights that make products with a spread of `gain` times that of what goes in. */
  matrix(name: string, outputs: number, inputs: number, gain = 1): void {
    this.tensors.push(randomTensor(name, 'F32', [outputs, inputs], this.#seed++, gain * Math.sqrt(3 / inputs)));
  }

  /** Elements of `middle`, give or take a half. */
  vector(name: string, size: number, middle: number): void {
    const tensor = randomTensor(name, 'F32', [size], this.#seed++, 0.5);
    for (let at = 0; at < tensor.data.length; at += 4) tensor.data.writeFloatLE(tensor.data.readFloatLE(at) + middle, at);
    this.tensors.push(tensor);
  }

  ropeFactors(): void {
    const count = this.shape.headDim / 2;
    const data = Buffer.from(Float32Array.from({ length: count }, (_, pair) => 1 + (7 * pair) / count).buffer);
    this.tensors.push({ name: 'rope_freqs.weight', type: 'F32', shape: [count], data });
  }
}

/** Per layer: names of what it has besides the usual, each with its size and the middle of its elements. */
type Extras = (shape: Shape) => readonly (readonly [name: string, size: number, middle: number])[];

const biases: Extras = ({ heads, kvHeads, headDim }) => [
  ['attn_q.bias', heads * headDim, 0],
  ['attn_k.bias', kvHeads * headDim, 0],
  ['attn_v.bias', kvHeads * headDim, 0],
];
const headNorms: Extras = ({ headDim }) => [['attn_q_norm.weight', headDim, 1.2], ['attn_k_norm.weight', headDim, 1.2]];
const postNorms: Extras = ({ hidden }) => [['post_attention_norm.weight', hidden, 0.8], ['post_ffw_norm.weight', hidden, 0.8]];

function model(architecture: string, shape: Shape, extras: readonly Extras[], metadata: Record<string, Value>, { untied = false, factors = false } = {}): GgufSpec {
  const tiny = new TinyModel(shape, architecture.length + shape.headDim);
  const { hidden, layers, heads, kvHeads, headDim } = shape;
  tiny.matrix('token_embd.weight', architectureVocabulary, hidden);
  tiny.vector('output_norm.weight', hidden, 1);
  if (untied) tiny.matrix('output.weight', architectureVocabulary, hidden);
  if (factors) tiny.ropeFactors();
  for (let layer = 0; layer < layers; layer += 1) {
    const name = (role: string) => `blk.${layer}.${role}`;
    tiny.vector(name('attn_norm.weight'), hidden, 1);
    tiny.matrix(name('attn_q.weight'), heads * headDim, hidden, 1.2);
    tiny.matrix(name('attn_k.weight'), kvHeads * headDim, hidden, 1.2);
    tiny.matrix(name('attn_v.weight'), kvHeads * headDim, hidden);
    tiny.matrix(name('attn_output.weight'), hidden, heads * headDim);
    tiny.vector(name('ffn_norm.weight'), hidden, 1);
    tiny.matrix(name('ffn_gate.weight'), FEED_FORWARD, hidden);
    tiny.matrix(name('ffn_up.weight'), FEED_FORWARD, hidden);
    tiny.matrix(name('ffn_down.weight'), hidden, FEED_FORWARD);
    for (const [role, size, middle] of extras.flatMap((extra) => extra(shape))) tiny.vector(name(role), size, middle);
  }
  const own = Object.entries({
    block_count: u32(layers),
    context_length: u32(CONTEXT),
    embedding_length: u32(hidden),
    feed_forward_length: u32(FEED_FORWARD),
    'attention.head_count': u32(heads),
    'attention.head_count_kv': u32(kvHeads),
    'attention.key_length': u32(headDim),
    'attention.value_length': u32(headDim),
    'attention.layer_norm_rms_epsilon': f32(1e-5),
    'rope.dimension_count': u32(headDim),
    ...metadata,
  }).map(([key, value]) => [`${architecture}.${key}`, value] as const);
  return {
    metadata: {
      'general.architecture': string(architecture),
      'general.name': string('tiny'),
      ...Object.fromEntries(own),
      'tokenizer.ggml.model': string('gpt2'),
      'tokenizer.ggml.pre': string('gpt-2'),
      'tokenizer.ggml.tokens': strings(tokens),
      'tokenizer.ggml.token_type': i32s(tokens.map((_, id) => (id === 0 ? 3 : 1))),
      'tokenizer.ggml.merges': strings(['h e', 'l l', 'i n']),
      'tokenizer.ggml.bos_token_id': u32(0),
      'tokenizer.ggml.eos_token_id': u32(0),
    },
    tensors: tiny.tensors,
  };
}

const small = { hidden: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 64 };
const yarn = { 'rope.scaling.type': string('yarn'), 'rope.scaling.factor': f32(4), 'rope.scaling.original_context_length': u32(32) };
const gemma2Own = { 'attention.sliding_window': u32(16), attn_logit_softcapping: f32(2), final_logit_softcapping: f32(3) };
const gemma3Own = { 'attention.sliding_window': u32(16), 'rope.freq_base': f32(1_000_000), 'rope.scaling.type': string('linear'), 'rope.scaling.factor': f32(8) };

/** Models by name, and of each the metadata without which it says something else: what a reader must not pass over. */
export const tinyArchitectures: Readonly<Record<string, { spec: GgufSpec; matters: readonly string[] }>> = {
  llama: { spec: model('llama', small, [], {}, { untied: true }), matters: [] },
  'llama-3.1': { spec: model('llama', small, [], { 'rope.freq_base': f32(500_000) }, { factors: true }), matters: ['llama.rope.freq_base'] },
  'llama-linear': { spec: model('llama', small, [], { 'rope.scaling.type': string('linear'), 'rope.scaling.factor': f32(4) }), matters: ['llama.rope.scaling.factor'] },
  'llama-yarn': { spec: model('llama', { ...small, headDim: 128 }, [], yarn), matters: ['llama.rope.scaling.type', 'llama.rope.scaling.original_context_length'] },
  qwen2: { spec: model('qwen2', { ...small, hidden: 256 }, [biases], { 'rope.freq_base': f32(1_000_000) }), matters: ['qwen2.rope.freq_base'] },
  'qwen2-yarn': { spec: model('qwen2', { hidden: 256, layers: 2, heads: 2, kvHeads: 1, headDim: 128 }, [biases], yarn, { untied: true }), matters: ['qwen2.rope.scaling.factor'] },
  qwen3: { spec: model('qwen3', { ...small, headDim: 128 }, [headNorms], { 'rope.freq_base': f32(1_000_000) }), matters: ['qwen3.rope.freq_base'] },
  gemma2: {
    spec: model('gemma2', { hidden: 64, layers: 4, heads: 2, kvHeads: 1, headDim: 256 }, [postNorms], gemma2Own),
    matters: ['gemma2.attention.sliding_window', 'gemma2.attn_logit_softcapping', 'gemma2.final_logit_softcapping'],
  },
  gemma3: {
    spec: model('gemma3', { hidden: 64, layers: 7, heads: 2, kvHeads: 1, headDim: 256 }, [headNorms, postNorms], gemma3Own),
    matters: ['gemma3.attention.sliding_window', 'gemma3.rope.freq_base', 'gemma3.rope.scaling.factor'],
  },
};
