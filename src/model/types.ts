import type { ExtraLayerTensor, LayerTensor } from './layer-tensors.js';
import type { tensorLayouts } from './tensor-types.js';

export type { ExtraLayerTensor, LayerTensor };

/** The tensor types that are read, by GGUF's names. Quantised ones hold blocks of 32 or 256 along the last axis. */
export type TensorType = keyof typeof tensorLayouts;

export interface Tensor {
  readonly name: string;
  readonly type: TensorType;
  /** Row-major, outermost axis first: a linear layer's weight is [outputs, inputs]. */
  readonly shape: readonly number[];
  /** Which of the model's files it is in. */
  readonly file: number;
  /** Bytes before it in the file. */
  readonly offset: number;
  /** The bytes as they lie in the file, in the file's own block format. Valid until the model file is closed. */
  bytes(): Uint8Array;
  /** The bytes of one row, shape[0] of which there are: what an embedding needs of a token. Likewise. */
  row(index: number): Uint8Array;
}

/**
 * Rotary position embedding: angle of pair i at position p is p * theta^(-2i/dimensions) / factors[i], and what has rotated is
 * multiplied with `magnitude`.
 */
export interface RopeConfig {
  readonly theta: number;
  /** Leading dimensions of a head that rotate; the rest pass through. */
  readonly dimensions: number;
  /** True: pairs are (2i, 2i+1), as GGUF's llama stores them. False: (i, i + dimensions/2). */
  readonly interleaved: boolean;
  /** Divisors per pair (scaling for long contexts), or undefined for all ones. */
  readonly factors?: Float64Array;
  /** YaRN's attention factor; default 1. */
  readonly magnitude?: number;
}

/** Layers that attend the newest tokens alone. */
export interface LocalAttention {
  /** How many, a token's own among them. */
  readonly window: number;
  /** For each layer whether it is one of them. */
  readonly layers: readonly boolean[];
  readonly rope: RopeConfig;
}

export interface ModelConfig {
  /** GGUF's name: src/model/architectures has a file for each. */
  readonly architecture: string;
  readonly name: string;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Positions the model was trained for. */
  readonly contextLength: number;
  readonly rmsNormEps: number;
  /** What is added to the weights of norms: 1 where a file has Gemma's as the hub does, else 0. */
  readonly normOffset: number;
  /** Positions in layers that are not local. */
  readonly rope: RopeConfig;
  /** What the gate of the MLP goes through; `gelu` is its approximation with a tanh. */
  readonly activation: 'silu' | 'gelu';
  /** What embeddings are multiplied with. */
  readonly embeddingScale: number;
  /** What products of queries and keys are multiplied with. */
  readonly scoreScale: number;
  /** Soft caps: a score, or a logit, x becomes cap * tanh(x / cap). */
  readonly scoreCap: number | undefined;
  readonly logitCap: number | undefined;
  readonly local: LocalAttention | undefined;
}

/** An opened model: its shape, tokenizer and tensors. Close it once the weights are loaded. */
export interface ModelFile extends AsyncDisposable {
  /** The GGUF file, or the folder of safetensors files. */
  readonly path: string;
  readonly format: 'gguf' | 'safetensors';
  /** Paths of the files that hold tensors. */
  readonly files: readonly string[];
  readonly config: ModelConfig;
  /** Predominant quantisation, for people ("Q4_1"). */
  readonly quantisation: string;
  /** Bytes of the matrices of each type, the predominant one first. */
  readonly weightBytes: Readonly<Record<string, number>>;
  /** Bytes of all files. */
  readonly fileBytes: number;
  readonly tokenizer: TokenizerSource;
  readonly chatTemplate: string | undefined;
  layerTensor(layer: number, role: LayerTensor): Tensor;
  /** Undefined where the model has no such tensor. */
  extraTensor(layer: number, role: ExtraLayerTensor): Tensor | undefined;
  readonly embedding: Tensor;
  readonly finalNorm: Tensor;
  /** The embedding again where the two are tied. */
  readonly lmHead: Tensor;
}

/** What Hugging Face's tokenizer.json and tokenizer_config.json hold, read or made from GGUF metadata. */
export interface TokenizerSource {
  readonly tokenizerJson: object;
  readonly tokenizerConfig: object;
  readonly bosToken: number | undefined;
  /** Every token that ends a turn or a text; the one that the model names as its end first. */
  readonly endTokens: readonly number[];
  readonly addBosToken: boolean;
}
