import { quoted, unsupported } from './gguf-metadata.js';
import type { MetadataValue } from './gguf-metadata.js';
import { HubKeys } from './hub-keys.js';
import { malformedSafetensors } from './safetensors-error.js';
import type { RopeConfig } from './types.js';

/** What Llama 3.1's scaling is made of. */
export interface Llama3Scaling {
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly original: number;
}

interface HubRope {
  /** GGUF's keys under the architecture's name. */
  readonly pairs: Readonly<Record<string, MetadataValue>>;
  /** GGUF has the divisors that follow from it as a tensor. */
  readonly llama3?: Llama3Scaling;
}

/**
 * Rotary positions of a config.json, in its older form (`rope_theta`, `rope_scaling`) or its newer one (`rope_parameters`, which may
 * be split by kinds of layers). Throws SAFETENSORS_MALFORMED, or UNSUPPORTED_ARCHITECTURE for a scaling that is not read.
 */
export function hubRope(keys: HubKeys): HubRope {
  const { path } = keys;
  const parameters = keys.object('rope_parameters');
  const part = (name: string) => new HubKeys(new HubKeys(parameters ?? {}, path).object(name) ?? {}, path);
  const split = parameters !== undefined && 'full_attention' in parameters;
  const whole = split ? part('full_attention') : new HubKeys(parameters ?? keys.object('rope_scaling') ?? {}, path);
  const local = part('sliding_attention');
  if (scalingType(local) !== 'default') throw unsupported(path, 'scaled positions in layers with a window');

  const theta = whole.scalar('rope_theta') ?? keys.scalar('rope_theta');
  const localTheta = (split ? local.scalar('rope_theta') : undefined) ?? keys.scalar('rope_local_base_freq');
  const bases = { ...(theta !== undefined && { 'rope.freq_base': theta }), ...(localTheta !== undefined && { 'rope.freq_base_swa': localTheta }) };
  switch (scalingType(whole)) {
    case 'default':
      return { pairs: { ...bases, 'rope.scaling.type': 'none' } };
    case 'linear':
      return { pairs: { ...bases, 'rope.scaling.type': 'linear', 'rope.scaling.factor': needed(whole, 'factor') } };
    case 'yarn':
      return { pairs: { ...bases, ...yarn(whole) } };
    case 'llama3':
      return { pairs: { ...bases, 'rope.scaling.type': 'none' }, llama3: llama3(whole) };
    default:
      throw unsupported(path, `the rotary scaling ${quoted(scalingType(whole))}; magicpig reads "default", "linear", "yarn" and "llama3"`);
  }
}

function scalingType(keys: HubKeys): string {
  return keys.string('rope_type') ?? keys.string('type') ?? 'default';
}

function yarn(keys: HubKeys): Record<string, MetadataValue> {
  if (keys.present('mscale') || keys.present('mscale_all_dim')) throw unsupported(keys.path, 'the rotary scaling "yarn" with mscale; magicpig reads it without');
  if (keys.boolean('truncate') === false) throw unsupported(keys.path, 'the rotary scaling "yarn" without truncation; magicpig reads it with');
  const factor = needed(keys, 'factor');
  const optional = (key: string, hubKey: string) => {
    const value = keys.scalar(hubKey);
    return value === undefined ? {} : { [key]: value };
  };
  const attention = keys.number('attention_factor');
  return {
    'rope.scaling.type': 'yarn',
    'rope.scaling.factor': factor,
    ...optional('rope.scaling.original_context_length', 'original_max_position_embeddings'),
    ...optional('rope.scaling.yarn_beta_fast', 'beta_fast'),
    ...optional('rope.scaling.yarn_beta_slow', 'beta_slow'),
    // GGUF's is a factor of what follows from the scaling, and this one replaces it.
    ...(attention !== undefined && { 'rope.scaling.attn_factor': attention / (1 + 0.1 * Math.log(Math.max(factor, 1))) }),
  };
}

function llama3(keys: HubKeys): Llama3Scaling {
  const scaling = {
    factor: needed(keys, 'factor'),
    lowFreqFactor: needed(keys, 'low_freq_factor'),
    highFreqFactor: needed(keys, 'high_freq_factor'),
    original: needed(keys, 'original_max_position_embeddings'),
  };
  if (scaling.highFreqFactor <= scaling.lowFreqFactor) throw malformedSafetensors(keys.path, 'rope_scaling.high_freq_factor is not above low_freq_factor');
  return scaling;
}

function needed(keys: HubKeys, name: string): number {
  const value = keys.number(name);
  if (value === undefined) throw malformedSafetensors(keys.path, `rope_scaling.${name} is missing`);
  if (!(value > 0 && value <= 1e9)) throw malformedSafetensors(keys.path, `rope_scaling.${name} is ${value}, not above 0 and at most 1e9`);
  return value;
}

/**
 * Llama 3.1's divisors: pairs that turn more than `highFreqFactor` times within the original context keep their frequency, those
 * that turn less than `lowFreqFactor` times have it divided by `factor`, and between them it is a mean of the two
 * (transformers' modeling_rope_utils.py).
 */
export function llama3Divisors(of: Llama3Scaling, { theta, dimensions }: RopeConfig): Float64Array {
  return Float64Array.from({ length: dimensions / 2 }, (_, pair) => {
    const turns = (of.original * theta ** ((-2 * pair) / dimensions)) / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - of.lowFreqFactor) / (of.highFreqFactor - of.lowFreqFactor)));
    return 1 / (kept + (1 - kept) / of.factor);
  });
}
