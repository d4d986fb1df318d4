// A small random model of every architecture, that llama.cpp reads too. Scores and logits have a spread of one to two, so that
// windows, caps and positions all make a difference within 64 tokens.
import { f32, i32s, randomTensor, string, strings, u32 } from './gguf-writer.js';
import type { GgufSpec, TensorSpec, Value } from './gguf-writer.js';
import { tensorLayouts } from '../../src/model/tensor-types.js';
import type { TensorType } from '../../src/model/types.js';

interface Shape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** The type of a matrix, by its name. */
type TypeOf = (name: string) => TensorType;

const FEED_FORWARD = 96;
/** Rows of large blocks. */
const QUANTISED_WIDTH = 256;
const CONTEXT = 256;

const tokens = ['<|endoftext|>', 'Ġ', 'Ċ', ...Array.from('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?-:'), 'he', 'll', 'in'];
export const architectureVocabulary = tokens.length;

/** The tokens of which logits are recorded. */
export const architectureText = Array.from({ length: 64 }, (_, i) => (i * 37 + 11 + (i >> 3)) % architectureVocabulary);

class TinyModel {
  readonly tensors: TensorSpec[] = [];
  #seed: number;

  constructor(readonly shape: Shape, seed: number, readonly types: TypeOf | undefined) {
    this.#seed = seed * 1000;
  }

  /** Weights that make products with a spread of `gain` times that of what goes in; of quantised ones, of about 0.6 with 256 inputs. */
  matrix(name: string, outputs: number, inputs: number, gain = 1): void {
    this.tensors.push(randomTensor(name, this.types?.(name) ?? 'F32', [outputs, inputs], this.#seed++, gain * Math.sqrt(3 / inputs)));
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

type Options = { readonly untied?: boolean; readonly factors?: boolean };

function model(architecture: string, usual: Shape, extras: readonly Extras[], metadata: Record<string, Value>, { untied, factors }: Options, types?: TypeOf): GgufSpec {
  const shape = types === undefined ? usual : { ...usual, hidden: QUANTISED_WIDTH };
  const feedForward = types === undefined ? FEED_FORWARD : QUANTISED_WIDTH;
  const tiny = new TinyModel(shape, architecture.length + shape.headDim, types);
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
    tiny.matrix(name('ffn_gate.weight'), feedForward, hidden);
    tiny.matrix(name('ffn_up.weight'), feedForward, hidden);
    tiny.matrix(name('ffn_down.weight'), hidden, feedForward);
    for (const [role, size, middle] of extras.flatMap((extra) => extra(shape))) tiny.vector(name(role), size, middle);
  }
  const own = Object.entries({
    block_count: u32(layers),
    context_length: u32(CONTEXT),
    embedding_length: u32(hidden),
    feed_forward_length: u32(feedForward),
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

interface Tiny {
  readonly spec: GgufSpec;
  /** The same with matrices of other types and rows of 256 elements. */
  readonly quantised: (types: TypeOf) => GgufSpec;
  /** The metadata without which it says something else: what a reader must not pass over. */
  readonly matters: readonly string[];
}

function tiny(matters: readonly string[], architecture: string, shape: Shape, extras: readonly Extras[], metadata: Record<string, Value>, options: Options = {}): Tiny {
  const of = (types?: TypeOf) => model(architecture, shape, extras, metadata, options, types);
  return { spec: of(), quantised: of, matters: matters.map((key) => `${architecture}.${key}`) };
}

export const tinyArchitectures: Readonly<Record<string, Tiny>> = {
  llama: tiny([], 'llama', small, [], {}, { untied: true }),
  'llama-3.1': tiny(['rope.freq_base'], 'llama', small, [], { 'rope.freq_base': f32(500_000) }, { factors: true }),
  'llama-linear': tiny(['rope.scaling.factor'], 'llama', small, [], { 'rope.scaling.type': string('linear'), 'rope.scaling.factor': f32(4) }),
  'llama-yarn': tiny(['rope.scaling.type', 'rope.scaling.original_context_length'], 'llama', { ...small, headDim: 128 }, [], yarn),
  qwen2: tiny(['rope.freq_base'], 'qwen2', { ...small, hidden: 256 }, [biases], { 'rope.freq_base': f32(1_000_000) }),
  'qwen2-yarn': tiny(['rope.scaling.factor'], 'qwen2', { hidden: 256, layers: 2, heads: 2, kvHeads: 1, headDim: 128 }, [biases], yarn, { untied: true }),
  qwen3: tiny(['rope.freq_base'], 'qwen3', { ...small, headDim: 128 }, [headNorms], { 'rope.freq_base': f32(1_000_000) }),
  gemma2: tiny(
    ['attention.sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping'],
    'gemma2', { hidden: 64, layers: 4, heads: 2, kvHeads: 1, headDim: 256 }, [postNorms], gemma2Own,
  ),
  gemma3: tiny(
    ['attention.sliding_window', 'rope.freq_base', 'rope.scaling.factor'],
    'gemma3', { hidden: 64, layers: 7, heads: 2, kvHeads: 1, headDim: 256 }, [headNorms, postNorms], gemma3Own,
  ),
};

/** Every type of matrices, and one mixture, as files have them: the name is that of the file's type. */
export const tinyQuantisations: Readonly<Record<string, TypeOf>> = {
  ...Object.fromEntries((Object.keys(tensorLayouts) as TensorType[]).map((type) => [type, () => type])),
  Q4_K_M: (name) => (/attn_v|ffn_down|token_embd|^output/.test(name) ? 'Q6_K' : 'Q4_K'),
};
