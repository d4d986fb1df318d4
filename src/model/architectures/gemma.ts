import type { ArchitectureKeys, Traits } from './architecture.js';

/**
 * What Gemmas have in common. Scores are multiplied with what the file says; else they are divided by the root of the head's
 * dimensions but for the largest model, known by its layers, where it is the root of the hidden size's share of a head. GGUF
 * stores norms as what is multiplied with, the hub less 1.
 */
export function gemmaScales(keys: ArchitectureKeys, largest: number): Pick<Traits, 'embeddingScale' | 'scoreScale'> {
  const { layers, hiddenSize, heads, headDim } = keys.shape;
  return {
    embeddingScale: Math.sqrt(hiddenSize),
    scoreScale: keys.positive('attention.scale', 1e6) ?? 1 / Math.sqrt(layers === largest ? Math.floor(hiddenSize / heads) : headDim),
  };
}
