import { createHash } from 'node:crypto';
import { extraLayerTensors, layerTensors } from './layer-tensors.js';
import type { ModelConfig, ModelFile, Tensor } from './types.js';

/** Tensors up to this many bytes are hashed whole, of larger ones the first, the middle and the last row. */
const WHOLE_BYTES = 1 << 16;

/**
 * What tells one model from another, in named fields: a session made with one must not be continued with another. Of the
 * weights it takes a sample of every tensor, since a digest of all of them would take seconds; models that differ in only a
 * few rows are not told apart. Weights that are rounded to fewer `bits` when they are loaded make another model.
 */
export function fingerprintOf(file: ModelFile, bits = 'file'): { name: string; value: string }[] {
  const { config, tokenizer } = file;
  return [
    { name: 'architecture', value: config.architecture },
    { name: 'model', value: config.name },
    { name: 'weights', value: digest([...weightSamples(file), ...(bits === 'file' ? [] : [bits])]) },
    { name: 'tokenizer', value: digest([JSON.stringify([tokenizer.tokenizerJson, tokenizer.bosToken, tokenizer.addBosToken])]) },
    { name: 'rope', value: digest([JSON.stringify([config.rope, config.local?.rope].map(ropeNumbers))]) },
    { name: 'attention', value: digest([JSON.stringify(attentionNumbers(config))]) },
  ];
}

function ropeNumbers(rope: ModelConfig['rope'] | undefined): unknown {
  return rope && [rope.theta, rope.dimensions, rope.interleaved, [...(rope.factors ?? [])], rope.magnitude ?? 1];
}

function attentionNumbers({ scoreScale, scoreCap, local, embeddingScale, activation }: ModelConfig): unknown {
  return [scoreScale, scoreCap, local?.window, local?.layers, embeddingScale, activation];
}

function* weightSamples(file: ModelFile): Generator<Uint8Array | string> {
  const layers = Array.from({ length: file.config.layers }, (_, layer) => [
    ...layerTensors.map((role) => file.layerTensor(layer, role)),
    ...extraLayerTensors.flatMap((role) => file.extraTensor(layer, role) ?? []),
  ]);
  for (const tensor of [file.embedding, file.finalNorm, file.lmHead, ...layers.flat()]) {
    const { name, type, shape } = tensor;
    yield JSON.stringify([name, type, shape]);
    yield* samples(tensor);
  }
}

function* samples(tensor: Tensor): Generator<Uint8Array> {
  const rows = tensor.shape.length > 1 ? (tensor.shape[0] ?? 0) : 1;
  const elements = tensor.shape.reduce((product, size) => product * size, 1);
  // No type has more than 4 bytes an element.
  if (rows === 1 || 4 * elements <= WHOLE_BYTES) {
    yield tensor.bytes();
  } else {
    for (const row of [0, rows >> 1, rows - 1]) yield tensor.row(row);
  }
}

/** 128 bits of SHA-256 in hexadecimal. */
function digest(parts: Iterable<Uint8Array | string>): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex').slice(0, 32);
}
