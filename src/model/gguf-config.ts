import { ArchitectureKeys } from './architectures/architecture.js';
import type { Architecture } from './architectures/architecture.js';
import { architectures } from './architectures/index.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { malformed, quoted, unsupported } from './gguf-metadata.js';
import { readRope } from './gguf-rope.js';
import type { ExtraLayerTensor, LayerTensor, ModelConfig, RopeConfig } from './types.js';

/** The one file-wide name of each tensor outside the layers. */
export const embeddingName = 'token_embd.weight';
export const finalNormName = 'output_norm.weight';
export const lmHeadName = 'output.weight';
export const ropeFactorsName = 'rope_freqs.weight';

const layerTensorNames: Readonly<Record<LayerTensor | ExtraLayerTensor, string>> = {
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

export function layerTensorName(layer: number, role: LayerTensor | ExtraLayerTensor): string {
  return `blk.${layer}.${layerTensorNames[role]}`;
}

/** The architecture that a file says it has. */
export function readArchitecture(metadata: GgufMetadata): Architecture {
  const name = metadata.string('general.architecture');
  if (name === undefined) throw malformed(metadata.path, 'general.architecture is missing');
  const architecture = architectures.find((known) => known.name === name);
  if (architecture !== undefined) return architecture;
  const known = architectures.map((one) => one.name).join(', ');
  throw unsupported(metadata.path, `the architecture ${quoted(name)}; magicpig reads ${known}`);
}

/** What a file says about its model, each number held to a range that a real model can have. */
export function readConfig(metadata: GgufMetadata, architecture: Architecture): ModelConfig {
  const { path } = metadata;
  const { name, interleaved } = architecture;
  const shards = metadata.count('split.count', { min: 0, max: 65535, otherwise: 0 });
  if (shards > 1) throw malformed(path, `it is one of ${shards} parts; join them with llama.cpp's gguf-split --merge first`);

  const hiddenSize = metadata.count(`${name}.embedding_length`, { min: 1, max: 1 << 17 });
  const heads = metadata.count(`${name}.attention.head_count`, { min: 1, max: 1024 });
  const kvHeads = kvHeadCount(metadata, name, heads);
  const headDim = metadata.count(`${name}.attention.key_length`, { min: 2, max: 1024, otherwise: hiddenSize / heads });
  const valueDim = metadata.count(`${name}.attention.value_length`, { min: 2, max: 1024, otherwise: headDim });
  if (valueDim !== headDim) throw unsupported(path, `values of ${valueDim} dimensions beside keys of ${headDim}; magicpig reads models where they are equal`);
  const layers = metadata.count(`${name}.block_count`, { min: 1, max: 1024 });
  const contextLength = metadata.count(`${name}.context_length`, { min: 1, max: 2 ** 31 - 1 });
  const rope = readRope(metadata, name, headDim, interleaved, contextLength);
  const traits = architecture.traits(new ArchitectureKeys(metadata, name, { layers, hiddenSize, heads, headDim, contextLength }));

  return {
    architecture: name,
    name: metadata.string('general.name') ?? '',
    layers,
    hiddenSize,
    intermediateSize: metadata.count(`${name}.feed_forward_length`, { min: 1, max: 1 << 20 }),
    heads,
    kvHeads,
    headDim,
    vocabSize: vocabularySize(metadata, name),
    contextLength,
    rmsNormEps: metadata.positive(`${name}.attention.layer_norm_rms_epsilon`, { max: 1 }),
    rope,
    activation: architecture.activation,
    embeddingScale: traits.embeddingScale ?? 1,
    scoreScale: traits.scoreScale ?? 1 / Math.sqrt(headDim),
    scoreCap: traits.scoreCap,
    logitCap: traits.logitCap,
    local: traits.local && { window: traits.local.window, layers: traits.local.layers, rope: localRope(rope, traits.local.theta) },
  };
}

/** A base of their own means that local layers are not scaled for long contexts, which they do not see. */
function localRope(rope: RopeConfig, theta: number | undefined): RopeConfig {
  if (theta === undefined) return rope;
  return { theta, dimensions: rope.dimensions, interleaved: rope.interleaved };
}

/** Every tensor that a model of this shape has, with its shape (outermost axis first). The head may be absent: then it is the embedding. */
export function* expectedTensors(
  config: ModelConfig,
  architecture: Architecture,
): Generator<{ name: string; shape: readonly number[]; optional?: true }> {
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
  const extraShapes: Readonly<Record<ExtraLayerTensor, readonly number[]>> = {
    queryBias: [queries],
    keyBias: [keys],
    valueBias: [keys],
    queryNorm: [headDim],
    keyNorm: [headDim],
    attentionPostNorm: [hiddenSize],
    mlpPostNorm: [hiddenSize],
  };
  yield { name: embeddingName, shape: [vocabSize, hiddenSize] };
  yield { name: finalNormName, shape: [hiddenSize] };
  yield { name: lmHeadName, shape: [vocabSize, hiddenSize], optional: true };
  if (architecture.ropeFactors) yield { name: ropeFactorsName, shape: [config.rope.dimensions / 2], optional: true };
  for (let layer = 0; layer < config.layers; layer++) {
    for (const role of Object.keys(shapes) as LayerTensor[]) yield { name: layerTensorName(layer, role), shape: shapes[role] };
    for (const role of architecture.tensors) yield { name: layerTensorName(layer, role), shape: extraShapes[role] };
    for (const role of architecture.optionalTensors ?? []) yield { name: layerTensorName(layer, role), shape: extraShapes[role], optional: true };
  }
}

function kvHeadCount(metadata: GgufMetadata, architecture: string, heads: number): number {
  const key = `${architecture}.attention.head_count_kv`;
  const perLayer = metadata.pairs.get(key);
  if (ArrayBuffer.isView(perLayer)) throw unsupported(metadata.path, 'a number of KV heads that differs by layer; magicpig reads models where it does not');
  const kvHeads = metadata.count(key, { min: 1, max: heads, otherwise: heads });
  if (heads % kvHeads !== 0) throw malformed(metadata.path, `${heads} heads do not divide among ${kvHeads} KV heads`);
  return kvHeads;
}

/** The token list decides, as it does in llama.cpp; the architecture's `vocab_size` may only agree. */
function vocabularySize(metadata: GgufMetadata, architecture: string): number {
  const tokens = metadata.strings('tokenizer.ggml.tokens')?.length ?? 0;
  if (tokens === 0) throw malformed(metadata.path, 'tokenizer.ggml.tokens is missing');
  const key = `${architecture}.vocab_size`;
  const claimed = metadata.count(key, { min: 1, max: 2 ** 31 - 1, otherwise: tokens });
  if (claimed !== tokens) throw malformed(metadata.path, `${key} is ${claimed}, but there are ${tokens} tokens`);
  return tokens;
}
