import { basename } from 'node:path';
import { MagicpigError } from '../errors.js';
import type { Architecture } from './architectures/architecture.js';
import { architectures } from './architectures/index.js';
import { readConfig, withRopeDivisors } from './gguf-config.js';
import { GgufMetadata, quoted, unsupported } from './gguf-metadata.js';
import type { MetadataValue } from './gguf-metadata.js';
import { HubKeys } from './hub-keys.js';
import { hubRope, llama3Divisors } from './hub-rope.js';
import type { JsonObject } from './json-file.js';
import { malformedSafetensors } from './safetensors-error.js';
import type { ModelConfig } from './types.js';

export interface HubModel {
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  /** Whether the embedding is the output head. */
  readonly tied: boolean;
}

/** config.json's keys by GGUF's, which follow the architecture's name there. */
const keyNames: Readonly<Record<string, string>> = {
  block_count: 'num_hidden_layers',
  context_length: 'max_position_embeddings',
  embedding_length: 'hidden_size',
  feed_forward_length: 'intermediate_size',
  vocab_size: 'vocab_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'rope.freq_base': 'rope_theta',
};

/** Keys that are made of others, and what errors call them. */
const madeNames: Readonly<Record<string, string>> = {
  'attention.sliding_window': 'sliding_window',
  'attention.sliding_window_pattern': 'layer_types',
  'attention.scale': 'query_pre_attn_scalar',
  attn_logit_softcapping: 'attn_logit_softcapping',
  final_logit_softcapping: 'final_logit_softcapping',
  'rope.freq_base_swa': 'rope_local_base_freq',
  'rope.scaling.type': 'rope_scaling.rope_type',
  'rope.scaling.factor': 'rope_scaling.factor',
  'rope.scaling.original_context_length': 'rope_scaling.original_max_position_embeddings',
  'rope.scaling.attn_factor': 'rope_scaling.attention_factor',
  'rope.scaling.yarn_beta_fast': 'rope_scaling.beta_fast',
  'rope.scaling.yarn_beta_slow': 'rope_scaling.beta_slow',
};

const activations = { silu: ['silu', 'swish'], gelu: ['gelu_pytorch_tanh', 'gelu_new'] } as const;

/**
 * What a config.json of the hub says of its model. It is translated into GGUF's metadata, so that one reader holds both to the
 * same ranges, and one description of each architecture serves both.
 *
 * Throws SAFETENSORS_MALFORMED, UNSUPPORTED_ARCHITECTURE or UNSUPPORTED_QUANTISATION, in config.json's own words.
 */
export function readHubConfig(json: JsonObject, path: string): HubModel {
  const outer = new HubKeys(json, path);
  const modelType = outer.string('model_type');
  if (modelType === undefined) throw malformedSafetensors(path, 'model_type is missing');
  const architecture = architectures.find(({ hub }) => Object.hasOwn(hub.modelTypes, modelType));
  if (architecture === undefined) {
    const known = architectures.flatMap(({ hub }) => Object.keys(hub.modelTypes)).join(', ');
    throw unsupported(path, `the model_type ${quoted(modelType)}; magicpig reads ${known}`);
  }
  if (outer.present('quantization_config') || outer.present('compression_config')) {
    throw new MagicpigError('UNSUPPORTED_QUANTISATION', `${path} is of a model that was quantised for another program; take the model as it was before (magicpig rounds weights itself, if asked to), or as GGUF`);
  }
  const own = outer.object('text_config') ?? json;
  const keys = new HubKeys({ ...architecture.hub.modelTypes[modelType], rms_norm_eps: 1e-6, ...own }, path);
  refuseOthers(keys, architecture);

  const rope = hubRope(keys);
  const metadata = metadataOf(keys, architecture, rope.pairs);
  const { hub, name } = architecture;
  const layout = { interleaved: false, normOffset: hub.normOffset ?? 0, vocabSize: metadata.count(`${name}.vocab_size`, { min: 1, max: 2 ** 31 - 1 }) };
  const config = readConfig(metadata, architecture, layout);
  const divisors = rope.llama3 && llama3Divisors(rope.llama3, config.rope);
  return {
    architecture,
    config: divisors ? withRopeDivisors(config, divisors) : config,
    // A model that sees says it outside, where there is no word on it inside.
    tied: keys.boolean('tie_word_embeddings') ?? outer.boolean('tie_word_embeddings') ?? hub.tied ?? false,
  };
}

/** What would change the model's words without a word, were it passed over. */
function refuseOthers(keys: HubKeys, { name, activation }: Architecture): void {
  const gate = keys.string('hidden_activation') ?? keys.string('hidden_act') ?? activations[activation][0];
  if (!activations[activation].some((known) => known === gate)) throw unsupported(keys.path, `the activation ${quoted(gate)}; magicpig's ${name} has ${activations[activation][0]}`);
  const rotated = keys.number('partial_rotary_factor') ?? 1;
  if (rotated !== 1) throw unsupported(keys.path, `heads of which a part of ${rotated} rotates; magicpig reads models whose heads rotate as a whole`);
  if (keys.boolean('use_bidirectional_attention') === true) throw unsupported(keys.path, 'attention to tokens that are still to come');
  if (name !== 'gemma2' && keys.present('attn_logit_softcapping')) throw unsupported(keys.path, `capped scores, which magicpig's ${name} does not have`);
}

function metadataOf(keys: HubKeys, { name }: Architecture, rope: Readonly<Record<string, MetadataValue>>): GgufMetadata {
  const pairs = new Map<string, MetadataValue>([['general.architecture', name]]);
  const set = (key: string, value: MetadataValue | undefined) => {
    if (value !== undefined) pairs.set(`${name}.${key}`, value);
  };
  for (const [key, hubKey] of Object.entries(keyNames)) set(key, keys.scalar(hubKey));
  for (const [key, value] of Object.entries(rope)) set(key, value);
  const model = keys.string('_name_or_path');
  if (model !== undefined) pairs.set('general.name', basename(model.replaceAll('\\', '/')));

  set('attention.sliding_window', slidingWindow(keys, name));
  if (name === 'gemma2' || name === 'gemma3') {
    const scalar = keys.number('query_pre_attn_scalar');
    if (scalar !== undefined) set('attention.scale', scalar > 0 ? 1 / Math.sqrt(scalar) : scalar);
    set('attention.sliding_window_pattern', localLayers(keys));
    // That there is none is said by null, where GGUF has 0.
    for (const cap of ['attn_logit_softcapping', 'final_logit_softcapping']) set(cap, keys.values[cap] === null ? 0 : keys.scalar(cap));
  }
  return new GgufMetadata(keys.path, pairs, {
    malformed: malformedSafetensors,
    key: (key) => {
      const own = key.slice(name.length + 1);
      return keyNames[own] ?? madeNames[own] ?? key;
    },
  });
}

/** Of all layers in a Mistral, of some in a Gemma, and of a Qwen's later layers only if it says so besides. */
function slidingWindow(keys: HubKeys, architecture: string): MetadataValue | undefined {
  const window = keys.scalar('sliding_window');
  if (architecture === 'llama') return keys.string('model_type') === 'mistral' ? window : undefined;
  if (architecture !== 'qwen2' && architecture !== 'qwen3') return window;
  const [first, layers] = [keys.number('max_window_layers') ?? 0, keys.number('num_hidden_layers') ?? 0];
  return keys.boolean('use_sliding_window') === true && first < layers ? window : undefined;
}

/** Which layers of a Gemma have a window: as they are listed, or by the period that older files have. */
function localLayers(keys: HubKeys): MetadataValue | undefined {
  const { layer_types: types } = keys.values;
  if (types === undefined || types === null) return keys.scalar('sliding_window_pattern') ?? keys.scalar('_sliding_window_pattern');
  if (!Array.isArray(types)) throw malformedSafetensors(keys.path, 'layer_types is not a list');
  return Uint8Array.from(types, (type: unknown) => {
    if (type !== 'full_attention' && type !== 'sliding_attention') throw unsupported(keys.path, `a layer of the type ${quoted(String(type))}`);
    return type === 'sliding_attention' ? 1 : 0;
  });
}
