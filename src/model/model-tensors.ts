import type { Architecture } from './architectures/architecture.js';
import { quoted, unsupported } from './gguf-metadata.js';
import type { TensorFiles } from './tensor-files.js';
import type { ExtraLayerTensor, LayerTensor, ModelConfig, ModelFile, TokenizerSource } from './types.js';

/** What a kind of file calls the tensors of a model. */
export interface TensorNames {
  readonly embedding: string;
  readonly finalNorm: string;
  readonly lmHead: string;
  /** Divisors of the rotary frequencies, where the kind keeps them as a tensor. */
  readonly ropeFactors?: string;
  layer(layer: number, role: LayerTensor | ExtraLayerTensor): string;
}

/** What is known of a model once its files are open. */
export interface Described {
  readonly architecture: Architecture;
  readonly format: ModelFile['format'];
  readonly config: ModelConfig;
  readonly tokenizer: TokenizerSource;
  readonly chatTemplate: string | undefined;
  /** Whether the embedding is the output head, also where the files have one. */
  readonly tied: boolean;
}

export function modelFile(tensors: TensorFiles, names: TensorNames, { tied, architecture, ...described }: Described): ModelFile {
  const extras = new Set([...architecture.tensors, ...(architecture.optionalTensors ?? [])]);
  const embedding = tensors.tensor(names.embedding);
  const { weightBytes } = tensors;
  return {
    ...described,
    path: tensors.path,
    files: tensors.files.map(({ path }) => path),
    fileBytes: tensors.bytes,
    quantisation: Object.keys(weightBytes)[0] ?? 'F32',
    weightBytes,
    embedding,
    finalNorm: tensors.tensor(names.finalNorm),
    lmHead: tied ? embedding : tensors.tensor(names.lmHead),
    layerTensor: (layer, role) => tensors.tensor(names.layer(layer, role)),
    extraTensor: (layer, role) => {
      const name = names.layer(layer, role);
      // A kind of file may give one name to what is one thing in one architecture and another in the next.
      return extras.has(role) && tensors.spans.has(name) ? tensors.tensor(name) : undefined;
    },
    [Symbol.asyncDispose]: () => tensors[Symbol.asyncDispose](),
  };
}

/**
 * All that the configuration calls for is there, in its shape, and nothing that it does not know of: a bias or an expert that
 * went unused would change what the model says without a word. The head may be absent where `tied` says so.
 */
export function checkShapes(tensors: TensorFiles, names: TensorNames, config: ModelConfig, architecture: Architecture, tied: boolean): void {
  const { path, spans, malformed } = tensors;
  const unknown = new Set(spans.keys());
  for (const { name, shape, optional } of expectedTensors(names, config, architecture, tied)) {
    unknown.delete(name);
    const span = spans.get(name);
    if (span === undefined) {
      if (optional) continue;
      throw malformed(path, `the tensor ${quoted(name)} is missing`);
    }
    if (span.shape.length !== shape.length || span.shape.some((size, axis) => size !== shape[axis])) {
      throw malformed(path, `the tensor ${quoted(name)} has the shape [${span.shape.join(', ')}], but the metadata call for [${shape.join(', ')}]`);
    }
  }
  for (const name of unknown) throw unsupported(path, `the tensor ${quoted(name)}, which magicpig's ${architecture.name} does not use`);
}

/** Every tensor that a model of this shape has, with its shape (outermost axis first). */
function* expectedTensors(
  names: TensorNames,
  config: ModelConfig,
  architecture: Architecture,
  tied: boolean,
): Generator<{ name: string; shape: readonly number[]; optional?: boolean }> {
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
  yield { name: names.embedding, shape: [vocabSize, hiddenSize] };
  yield { name: names.finalNorm, shape: [hiddenSize] };
  yield { name: names.lmHead, shape: [vocabSize, hiddenSize], optional: tied };
  if (architecture.ropeFactors && names.ropeFactors !== undefined) {
    yield { name: names.ropeFactors, shape: [config.rope.dimensions / 2], optional: true };
  }
  for (let layer = 0; layer < config.layers; layer++) {
    for (const role of Object.keys(shapes) as LayerTensor[]) yield { name: names.layer(layer, role), shape: shapes[role] };
    for (const role of architecture.tensors) yield { name: names.layer(layer, role), shape: extraShapes[role] };
    for (const role of architecture.optionalTensors ?? []) yield { name: names.layer(layer, role), shape: extraShapes[role], optional: true };
  }
}
