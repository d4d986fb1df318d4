import { MagicpigError } from '../errors.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { malformed, quoted } from './gguf-metadata.js';
import type { LayerTensor, ModelConfig, RopeConfig } from './types.js';

/** The one file-wide name of each tensor outside the layers. */
export const embeddingName = 'token_embd.weight';
export const finalNormName = 'output_norm.weight';
export const lmHeadName = 'output.weight';
export const ropeFactorsName = 'rope_freqs.weight';

const layerTensorNames: Readonly<Record<LayerTensor, string>> = {
  attentionNorm: 'attn_norm',
  query: 'attn_q',
  key: 'attn_k',
  value: 'attn_v',
  attentionOutput: 'attn_output',
  mlpNorm: 'ffn_norm',
  gate: 'ffn_gate',
  up: 'ffn_up',
  down: 'ffn_down',
};

export function layerTensorName(layer: number, role: LayerTensor): string {
  return `blk.${layer}.${layerTensorNames[role]}.weight`;
}

/** What GGUF's `llama` architecture says about itself, each number held to a range that a real model can have. */
export function readLlamaConfig(metadata: GgufMetadata): ModelConfig {
  const { path } = metadata;
  const architecture = metadata.string('general.architecture');
  if (architecture === undefined) throw malformed(path, 'general.architecture is missing');
  if (architecture !== 'llama') throw unsupported(path, `the architecture ${quoted(architecture)}; magicpig reads "llama"`);
  const shards = metadata.count('split.count', { min: 0, max: 65535, otherwise: 0 });
  if (shards > 1) throw malformed(path, `it is one of ${shards} parts; join them with llama.cpp's gguf-split --merge first`);

  const hiddenSize = metadata.count('llama.embedding_length', { min: 1, max: 1 << 17 });
  const heads = metadata.count('llama.attention.head_count', { min: 1, max: 1024 });
  const kvHeads = kvHeadCount(metadata, heads);
  const headDim = metadata.count('llama.attention.key_length', { min: 2, max: 1024, otherwise: hiddenSize / heads });
  const valueDim = metadata.count('llama.attention.value_length', { min: 2, max: 1024, otherwise: headDim });
  if (valueDim !== headDim) throw unsupported(path, `values of ${valueDim} dimensions beside keys of ${headDim}`);

  return {
    architecture,
    name: metadata.string('general.name') ?? '',
    layers: metadata.count('llama.block_count', { min: 1, max: 1024 }),
    hiddenSize,
    intermediateSize: metadata.count('llama.feed_forward_length', { min: 1, max: 1 << 20 }),
    heads,
    kvHeads,
    headDim,
    vocabSize: vocabularySize(metadata),
    contextLength: metadata.count('llama.context_length', { min: 1, max: 2 ** 31 - 1 }),
    rmsNormEps: metadata.positive('llama.attention.layer_norm_rms_epsilon', { max: 1 }),
    rope: readRope(metadata, headDim),
  };
}

/** Every tensor that a model of this shape has, with its shape (outermost axis first). The head may be absent: then it is the embedding. */
export function* expectedTensors(config: ModelConfig): Generator<{ name: string; shape: readonly number[]; optional?: true }> {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = config;
  const queries = config.heads * headDim;
  const keys = config.kvHeads * headDim;
  const shapes: Readonly<Record<LayerTensor, readonly number[]>> = {
    attentionNorm: [hiddenSize],
    query: [queries, hiddenSize],
    key: [keys, hiddenSize],
    value: [keys, hiddenSize],
    attentionOutput: [hiddenSize, queries],
    mlpNorm: [hiddenSize],
    gate: [intermediateSize, hiddenSize],
    up: [intermediateSize, hiddenSize],
    down: [hiddenSize, intermediateSize],
  };
  yield { name: embeddingName, shape: [vocabSize, hiddenSize] };
  yield { name: finalNormName, shape: [hiddenSize] };
  yield { name: lmHeadName, shape: [vocabSize, hiddenSize], optional: true };
  yield { name: ropeFactorsName, shape: [config.rope.dimensions / 2], optional: true };
  for (let layer = 0; layer < config.layers; layer++) {
    for (const role of Object.keys(shapes) as LayerTensor[]) yield { name: layerTensorName(layer, role), shape: shapes[role] };
  }
}

export function unsupported(path: string, what: string): MagicpigError {
  return new MagicpigError('UNSUPPORTED_ARCHITECTURE', `${path} has ${what}`);
}

function kvHeadCount(metadata: GgufMetadata, heads: number): number {
  const key = 'llama.attention.head_count_kv';
  const perLayer = metadata.pairs.get(key);
  if (ArrayBuffer.isView(perLayer)) throw unsupported(metadata.path, 'a number of KV heads that differs by layer');
  const kvHeads = metadata.count(key, { min: 1, max: heads, otherwise: heads });
  if (heads % kvHeads !== 0) throw malformed(metadata.path, `${heads} heads do not divide among ${kvHeads} KV heads`);
  return kvHeads;
}

/** The token list decides, as it does in llama.cpp; `llama.vocab_size` may only agree. */
function vocabularySize(metadata: GgufMetadata): number {
  const tokens = metadata.strings('tokenizer.ggml.tokens')?.length ?? 0;
  if (tokens === 0) throw malformed(metadata.path, 'tokenizer.ggml.tokens is missing');
  const claimed = metadata.count('llama.vocab_size', { min: 1, max: 2 ** 31 - 1, otherwise: tokens });
  if (claimed !== tokens) throw malformed(metadata.path, `llama.vocab_size is ${claimed}, but there are ${tokens} tokens`);
  return tokens;
}

function readRope(metadata: GgufMetadata, headDim: number): RopeConfig {
  const theta = metadata.positive('llama.rope.freq_base', { max: 1e12, otherwise: 10_000 });
  const dimensions = metadata.count('llama.rope.dimension_count', { min: 2, max: headDim, otherwise: headDim });
  if (dimensions % 2 !== 0) throw malformed(metadata.path, `llama.rope.dimension_count is ${dimensions}, which does not make pairs`);
  const scale = linearScale(metadata);
  const factors = scale === 1 ? {} : { factors: new Float32Array(dimensions / 2).fill(scale) };
  return { theta, dimensions, interleaved: true, ...factors };
}

/** Linear scaling divides every position, which is the same divisor for every pair. */
function linearScale(metadata: GgufMetadata): number {
  const type = metadata.string('llama.rope.scaling.type') ?? 'linear';
  if (type === 'none') return 1;
  if (type !== 'linear') throw unsupported(metadata.path, `the rotary scaling ${quoted(type)}; magicpig reads "none" and "linear"`);
  const legacy = metadata.positive('llama.rope.scale_linear', { max: 1e6, otherwise: 1 });
  return metadata.positive('llama.rope.scaling.factor', { max: 1e6, otherwise: legacy });
}
