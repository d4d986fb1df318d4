import type { GgufMetadata } from './gguf-metadata.js';
import { quoted, unsupported } from './gguf-metadata.js';
import type { RopeConfig } from './types.js';

/** How the heads of `architecture` rotate by its metadata: base, dimensions and scaling for long contexts. */
export function readRope(metadata: GgufMetadata, architecture: string, headDim: number, interleaved: boolean, contextLength: number): RopeConfig {
  const key = (name: string) => `${architecture}.rope.${name}`;
  const theta = metadata.positive(key('freq_base'), { max: 1e12, otherwise: 10_000 });
  const dimensions = metadata.count(key('dimension_count'), { min: 2, max: headDim, otherwise: headDim });
  if (dimensions % 2 !== 0) throw metadata.malformed(`${metadata.spelled(key('dimension_count'))} is ${dimensions}, which does not make pairs`);
  const plain: RopeConfig = { theta, dimensions, interleaved };

  const type = metadata.string(key('scaling.type')) ?? 'linear';
  if (type === 'none') return plain;
  const legacy = metadata.positive(key('scale_linear'), { max: 1e6, otherwise: 1 });
  const factor = metadata.positive(key('scaling.factor'), { max: 1e6, otherwise: legacy });
  if (type === 'linear') return factor === 1 ? plain : { ...plain, factors: new Float64Array(dimensions / 2).fill(factor) };
  if (type !== 'yarn') throw unsupported(metadata.path, `the rotary scaling ${quoted(type)}; magicpig reads "none", "linear" and "yarn"`);

  if (metadata.has(key('scaling.yarn_log_multiplier'))) {
    throw unsupported(metadata.path, 'the rotary scaling "yarn" with a log multiplier; magicpig reads it without');
  }
  if (theta <= 1) throw metadata.malformed(`${metadata.spelled(key('freq_base'))} is ${theta}, which YaRN cannot scale`);
  const attention = metadata.positive(key('scaling.attn_factor'), { max: 1e6, otherwise: 1 });
  return {
    ...plain,
    factors: yarnFactors({
      theta,
      dimensions,
      factor,
      original: metadata.count(key('scaling.original_context_length'), { min: 1, max: 2 ** 31 - 1, otherwise: contextLength }),
      fast: metadata.positive(key('scaling.yarn_beta_fast'), { max: 1e6, otherwise: 32 }),
      slow: metadata.positive(key('scaling.yarn_beta_slow'), { max: 1e6, otherwise: 1 }),
    }),
    magnitude: attention * (1 + 0.1 * Math.log(Math.max(factor, 1))),
  };
}

/**
 * YaRN (Peng et al. 2023, section 3.2): pairs that turn more than `fast` times within the original context keep their
 * frequency, those that turn less than `slow` times have it divided by `factor`, and between them it is a mean of the two.
 */
function yarnFactors(of: { theta: number; dimensions: number; factor: number; original: number; fast: number; slow: number }): Float64Array {
  const { theta, dimensions, factor, original } = of;
  const pairThatTurns = (times: number) => (dimensions * Math.log(original / (times * 2 * Math.PI))) / (2 * Math.log(theta));
  const first = Math.max(0, Math.floor(pairThatTurns(of.fast)));
  const last = Math.min(dimensions - 1, Math.ceil(pairThatTurns(of.slow)));
  return Float64Array.from({ length: dimensions / 2 }, (_, pair) => {
    const kept = 1 - Math.min(1, Math.max(0, (pair - first) / Math.max(0.001, last - first)));
    return 1 / (kept + (1 - kept) / factor);
  });
}
