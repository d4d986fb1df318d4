import { bool, f32, i32s, randomTensor, string, strings, u32 } from './gguf-writer.js';
import type { GgufSpec, TensorSpec, Value } from './gguf-writer.js';
import type { TensorType } from '../../src/model/types.js';

export interface TinyShape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly feedForward: number;
  readonly context: number;
  /** Of the matrices; norms are F32. */
  readonly type: TensorType;
  readonly tied: boolean;
}

export const tinyDefaults: TinyShape = { layers: 2, hidden: 64, heads: 4, kvHeads: 2, headDim: 16, feedForward: 96, context: 256, type: 'F32', tied: true };

export const tinyTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** The 256 letters in which byte-level BPE spells bytes (GPT-2's), in the order of the bytes. */
export const byteLetters: readonly string[] = (() => {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
})();

export const tinyTokens = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', ...byteLetters, 'he', 'll', 'hell', 'hello', 'Ġw'];
const tinyMerges = ['h e', 'l l', 'he ll', 'hell o', 'Ġ w'];

/** A whole model of the `llama` architecture, a few hundred kilobytes large, with random weights from a seed. */
export function tinyLlama(shape: Partial<TinyShape> = {}, seed = 1): GgufSpec {
  const s = { ...tinyDefaults, ...shape };
  const metadata: Record<string, Value> = {
    'general.architecture': string('llama'),
    'general.name': string('tiny'),
    'llama.block_count': u32(s.layers),
    'llama.context_length': u32(s.context),
    'llama.embedding_length': u32(s.hidden),
    'llama.feed_forward_length': u32(s.feedForward),
    'llama.attention.head_count': u32(s.heads),
    'llama.attention.head_count_kv': u32(s.kvHeads),
    'llama.attention.key_length': u32(s.headDim),
    'llama.attention.value_length': u32(s.headDim),
    'llama.attention.layer_norm_rms_epsilon': f32(1e-5),
    'llama.rope.freq_base': f32(10_000),
    'llama.rope.dimension_count': u32(s.headDim),
    'tokenizer.ggml.model': string('gpt2'),
    'tokenizer.ggml.pre': string('smollm'),
    'tokenizer.ggml.tokens': strings(tinyTokens),
    'tokenizer.ggml.token_type': i32s(tinyTokens.map((_, id) => (id < 3 ? 3 : 1))),
    'tokenizer.ggml.merges': strings(tinyMerges),
    'tokenizer.ggml.bos_token_id': u32(1),
    'tokenizer.ggml.eos_token_id': u32(2),
    'tokenizer.ggml.add_bos_token': bool(false),
    'tokenizer.chat_template': string(tinyTemplate),
  };
  let next = seed * 1000;
  const matrix = (name: string, ...size: number[]) => randomTensor(name, s.type, size, next++);
  const norm = (name: string) => randomTensor(name, 'F32', [s.hidden], next++, 1);
  const tensors: TensorSpec[] = [matrix('token_embd.weight', tinyTokens.length, s.hidden), norm('output_norm.weight')];
  if (!s.tied) tensors.push(matrix('output.weight', tinyTokens.length, s.hidden));
  for (let layer = 0; layer < s.layers; layer++) {
    tensors.push(
      norm(`blk.${layer}.attn_norm.weight`),
      matrix(`blk.${layer}.attn_q.weight`, s.heads * s.headDim, s.hidden),
      matrix(`blk.${layer}.attn_k.weight`, s.kvHeads * s.headDim, s.hidden),
      matrix(`blk.${layer}.attn_v.weight`, s.kvHeads * s.headDim, s.hidden),
      matrix(`blk.${layer}.attn_output.weight`, s.hidden, s.heads * s.headDim),
      norm(`blk.${layer}.ffn_norm.weight`),
      matrix(`blk.${layer}.ffn_gate.weight`, s.feedForward, s.hidden),
      matrix(`blk.${layer}.ffn_up.weight`, s.feedForward, s.hidden),
      matrix(`blk.${layer}.ffn_down.weight`, s.hidden, s.feedForward),
    );
  }
  return { metadata, tensors };
}

/** The same model with some metadata replaced, or removed where the value is undefined. */
export function withMetadata(spec: GgufSpec, changes: Readonly<Record<string, Value | undefined>>): GgufSpec {
  const merged = Object.entries({ ...spec.metadata, ...changes }).filter((entry): entry is [string, Value] => entry[1] !== undefined);
  return { ...spec, metadata: Object.fromEntries(merged) };
}

/** The same model with one tensor changed, or removed where the change is undefined. */
export function withTensor(spec: GgufSpec, name: string, change: Partial<TensorSpec> | undefined): GgufSpec {
  const tensors = spec.tensors.flatMap((tensor) => (tensor.name !== name ? [tensor] : change ? [{ ...tensor, ...change }] : []));
  return { ...spec, tensors };
}

/** A text never ends by itself: the special tokens have rows of zeros, so that another's logit is always the largest. For the F32 model, whose embedding is tied. */
export function endless(spec: GgufSpec): GgufSpec {
  const name = 'token_embd.weight';
  const { shape, data } = spec.tensors.find((tensor) => tensor.name === name)!;
  return withTensor(spec, name, { data: Buffer.from(data).fill(0, 0, 3 * 4 * (shape[1] as number)) });
}
