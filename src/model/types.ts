/** The tensor types that are read, by GGUF's names. Quantised ones hold blocks of 32 along the last axis. */
export type TensorType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1';

export interface Tensor {
  readonly name: string;
  readonly type: TensorType;
  /** Row-major, outermost axis first: a linear layer's weight is [outputs, inputs]. */
  readonly shape: readonly number[];
  /** Bytes before it in the file. */
  readonly offset: number;
  /** The bytes as they lie in the file, in the file's own block format. Valid until the model file is closed. */
  bytes(): Uint8Array;
  /** The bytes of one row, shape[0] of which there are: what an embedding needs of a token. Likewise. */
  row(index: number): Uint8Array;
}

/** Rotary position embedding: angle of pair i at position p is p * theta^(-2i/dimensions) / factors[i]. */
export interface RopeConfig {
  readonly theta: number;
  /** Leading dimensions of a head that rotate; the rest pass through. */
  readonly dimensions: number;
  /** True: pairs are (2i, 2i+1), as GGUF's llama stores them. False: (i, i + dimensions/2). */
  readonly interleaved: boolean;
  /** Divisors per pair (Llama 3.1's long-context scaling), or undefined for all ones. */
  readonly factors?: Float32Array;
}

export interface ModelConfig {
  readonly architecture: 'llama';
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
  readonly rope: RopeConfig;
}

/** The roles of tensors within a layer, whatever the file calls them. */
export type LayerTensor =
  | 'attentionNorm'
  | 'query'
  | 'key'
  | 'value'
  | 'attentionOutput'
  | 'mlpNorm'
  | 'gate'
  | 'up'
  | 'down';

/** An opened model file: its shape, tokenizer and tensors. Close it once the weights are loaded. */
export interface ModelFile extends AsyncDisposable {
  readonly path: string;
  readonly config: ModelConfig;
  /** Predominant quantisation, for people ("Q4_1"). */
  readonly quantisation: string;
  readonly fileBytes: number;
  readonly tokenizer: TokenizerSource;
  readonly chatTemplate: string | undefined;
  layerTensor(layer: number, role: LayerTensor): Tensor;
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
