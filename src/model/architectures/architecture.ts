import type { GgufMetadata } from '../gguf-metadata.js';
import type { ExtraLayerTensor, LocalAttention, ModelConfig } from '../types.js';

/** What tells one architecture from another: a file beside this one for each, and its place in index.ts. */
export interface Architecture {
  /** GGUF's `general.architecture`. */
  readonly name: string;
  /** What every layer has besides the tensors that layers of all architectures have. */
  readonly tensors: readonly ExtraLayerTensor[];
  /** What a layer may have. */
  readonly optionalTensors?: readonly ExtraLayerTensor[];
  /** Whether GGUF stores the elements that rotate together as neighbours; else they are half the dimensions apart. */
  readonly interleaved: boolean;
  /** Whether a file may have a tensor of divisors of the rotary frequencies. */
  readonly ropeFactors?: true;
  readonly activation: ModelConfig['activation'];
  readonly hub: HubForm;
  /** What a file of it says beyond its shape. */
  traits(keys: ArchitectureKeys): Traits;
}

/** How the hub's folders of safetensors have an architecture, where they differ from GGUF. */
export interface HubForm {
  /** config.json's `model_type`s of it, each with what it means where its config.json does not say it. */
  readonly modelTypes: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Whether the embedding is the output head where config.json does not say it. Default false. */
  readonly tied?: true;
  /** What the model adds to the weights of its norms. Default 0. */
  readonly normOffset?: 1;
}

export interface Traits {
  /** What embeddings are multiplied with. Default 1. */
  readonly embeddingScale?: number;
  /** What products of queries and keys are multiplied with. Default 1/sqrt(headDim). */
  readonly scoreScale?: number;
  readonly scoreCap?: number | undefined;
  readonly logitCap?: number | undefined;
  /** Layers that attend a window alone, with a rotary base of their own where it is not the model's. */
  readonly local?: (Omit<LocalAttention, 'rope'> & { readonly theta?: number }) | undefined;
}

/** GGUF's metadata under an architecture's name, and the shape that was read from them. */
export class ArchitectureKeys {
  constructor(
    readonly metadata: GgufMetadata,
    readonly name: string,
    readonly shape: Pick<ModelConfig, 'layers' | 'hiddenSize' | 'heads' | 'headDim' | 'contextLength'>,
  ) {}

  /** A number above 0, or undefined where there is none. */
  positive(key: string, max: number): number | undefined {
    const full = `${this.name}.${key}`;
    return this.metadata.has(full) ? this.metadata.positive(full, { max }) : undefined;
  }

  /** The tokens of a window that does not hold the whole context, or undefined. */
  window(otherwise?: number): number | undefined {
    const key = `${this.name}.attention.sliding_window`;
    const range = { min: 0, max: 2 ** 31 - 1 };
    const window = this.metadata.has(key) || otherwise === undefined ? this.metadata.count(key, { ...range, otherwise: 0 }) : otherwise;
    return window > 0 && window < this.shape.contextLength ? window : undefined;
  }

  /** A soft cap, of which 0 says that there is none. */
  cap(key: string, otherwise?: number): number | undefined {
    return this.metadata.pairs.get(`${this.name}.${key}`) === 0 ? undefined : (this.positive(key, 1e6) ?? otherwise);
  }

  /** Which layers are local: as the file lists them, or all but the last of every `period`. */
  localLayers(period: number): boolean[] {
    const { layers } = this.shape;
    const key = `${this.name}.attention.sliding_window_pattern`;
    const pattern = this.metadata.pairs.get(key);
    if (pattern instanceof Uint8Array || pattern instanceof Int32Array || pattern instanceof Uint32Array) {
      if (pattern.length !== layers) throw this.metadata.malformed(`${this.metadata.spelled(key)} lists ${pattern.length} layers of ${layers}`);
      return Array.from(pattern, (local) => local !== 0);
    }
    const length = this.metadata.count(key, { min: 1, max: 1024, otherwise: period });
    return Array.from({ length: layers }, (_, layer) => layer % length < length - 1);
  }
}
