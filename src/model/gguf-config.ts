import { ArchitectureKeys } from './architectures/architecture.js';
import type { Architecture } from './architectures/architecture.js';
import { architectures } from './architectures/index.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { quoted, unsupported } from './gguf-metadata.js';
import { readRope } from './gguf-rope.js';
import type { ModelConfig, RopeConfig } from './types.js';

/** How a kind of file stores weights, where kinds differ. */
export interface Layout {
  /** Whether elements that rotate together are neighbours; else they are half the dimensions apart. */
  readonly interleaved: boolean;
  /** What the model adds to the weights of its norms. */
  readonly normOffset: number;
  readonly vocabSize: number;
}

/** The architecture that a file says it has. */
export function readArchitecture(metadata: GgufMetadata): Architecture {
  const name = metadata.string('general.architecture');
  if (name === undefined) throw metadata.malformed('general.architecture is missing');
  const architecture = architectures.find((known) => known.name === name);
  if (architecture !== undefined) return architecture;
  const known = architectures.map((one) => one.name).join(', ');
  throw unsupported(metadata.path, `the architecture ${quoted(name)}; magicpig reads ${known}`);
}

/** How GGUF stores the weights of an architecture. */
export function ggufLayout(metadata: GgufMetadata, { name, interleaved }: Architecture): Layout {
  const shards = metadata.count('split.count', { min: 0, max: 65535, otherwise: 0 });
  if (shards > 1) throw metadata.malformed(`it is one of ${shards} parts; join them with llama.cpp's gguf-split --merge first`);
  return { interleaved, normOffset: 0, vocabSize: vocabularySize(metadata, name) };
}

/** What a file says about its model, each number held to a range that a real model can have. */
export function readConfig(metadata: GgufMetadata, architecture: Architecture, { interleaved, normOffset, vocabSize }: Layout): ModelConfig {
  const { path } = metadata;
  const { name } = architecture;
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
    vocabSize,
    contextLength,
    rmsNormEps: metadata.positive(`${name}.attention.layer_norm_rms_epsilon`, { max: 1 }),
    normOffset,
    rope,
    activation: architecture.activation,
    embeddingScale: traits.embeddingScale ?? 1,
    scoreScale: traits.scoreScale ?? 1 / Math.sqrt(headDim),
    scoreCap: traits.scoreCap,
    logitCap: traits.logitCap,
    local: traits.local && { window: traits.local.window, layers: traits.local.layers, rope: localRope(rope, traits.local.theta) },
  };
}

/** Divisors of the rotary frequencies that come on top of the scaling that `config` has. */
export function withRopeDivisors(config: ModelConfig, divisors: Float64Array): ModelConfig {
  const rope = { ...config.rope, factors: divisors.map((divisor, i) => divisor * (config.rope.factors?.[i] ?? 1)) };
  return { ...config, rope, local: config.local && { ...config.local, rope } };
}

/** A base of their own means that local layers are not scaled for long contexts, which they do not see. */
function localRope(rope: RopeConfig, theta: number | undefined): RopeConfig {
  if (theta === undefined) return rope;
  return { theta, dimensions: rope.dimensions, interleaved: rope.interleaved };
}

function kvHeadCount(metadata: GgufMetadata, architecture: string, heads: number): number {
  const key = `${architecture}.attention.head_count_kv`;
  const perLayer = metadata.pairs.get(key);
  if (ArrayBuffer.isView(perLayer)) throw unsupported(metadata.path, 'a number of KV heads that differs by layer; magicpig reads models where it does not');
  const kvHeads = metadata.count(key, { min: 1, max: heads, otherwise: heads });
  if (heads % kvHeads !== 0) throw metadata.malformed(`${heads} heads do not divide among ${kvHeads} KV heads`);
  return kvHeads;
}

/** The token list decides, as it does in llama.cpp; the architecture's `vocab_size` may only agree. */
function vocabularySize(metadata: GgufMetadata, architecture: string): number {
  const tokens = metadata.strings('tokenizer.ggml.tokens')?.length ?? 0;
  if (tokens === 0) throw metadata.malformed('tokenizer.ggml.tokens is missing');
  const key = `${architecture}.vocab_size`;
  const claimed = metadata.count(key, { min: 1, max: 2 ** 31 - 1, otherwise: tokens });
  if (claimed !== tokens) throw metadata.malformed(`${key} is ${claimed}, but there are ${tokens} tokens`);
  return tokens;
}
