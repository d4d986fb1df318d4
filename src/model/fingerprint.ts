import { createHash } from 'node:crypto';
import type { LayerTensor, ModelFile, Tensor } from './types.js';

/** Tensors up to this many bytes are hashed whole, of larger ones the first, the middle and the last row. */
const WHOLE_BYTES = 1 << 16;

const roles = ['attentionNorm', 'query', 'key', 'value', 'attentionOutput', 'mlpNorm', 'gate', 'up', 'down'] as const satisfies LayerTensor[];

/**
 * What tells one model from another, in named fields: a session made with one must not be continued with another. Of the
 * weights it takes a sample of every tensor, since a digest of all of them would take seconds; models that differ in only a
 * few rows are not told apart.
 */
export function fingerprintOf(file: ModelFile): { name: string; value: string }[] {
  const { config, tokenizer } = file;
  const { theta, dimensions, interleaved, factors } = config.rope;
  return [
    { name: 'architecture', value: config.architecture },
    { name: 'model', value: config.name },
    { name: 'weights', value: digest(weightSamples(file)) },
    { name: 'tokenizer', value: digest([JSON.stringify([tokenizer.tokenizerJson, tokenizer.bosToken, tokenizer.addBosToken])]) },
    { name: 'rope', value: digest([JSON.stringify([theta, dimensions, interleaved, [...(factors ?? [])]])]) },
  ];
}

function* weightSamples(file: ModelFile): Generator<Uint8Array | string> {
  const layers = Array.from({ length: file.config.layers }, (_, layer) => roles.map((role) => file.layerTensor(layer, role)));
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
