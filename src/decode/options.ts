import { availableParallelism } from 'node:os';
import { MagicpigError } from '../errors.js';
import { shown } from '../shown.js';
import type { OptionNames } from './option-names.js';

/** Where the dense layers run; `auto` is the best of those that are there. */
export const devices = ['cpu', 'webgpu', 'cuda', 'auto'] as const;
export type Device = (typeof devices)[number];
export type DeviceName = Exclude<Device, 'auto'>;

/** How keys and values are stored. */
export const rowTypes = ['bf16', 'int8'] as const;
export type RowType = (typeof rowTypes)[number];

/** Bits of weights in memory: as the file has them, or rounded. */
export const weightBits = ['file', '8', '4'] as const;
export type WeightBits = (typeof weightBits)[number];

/** Names of the policies. The last four are there to compare with: they are not made for speed, and some look at every key. */
export const policyNames = ['sketch', 'lsh', 'exact', 'topk', 'oracle', 'quest', 'static'] as const;
export type PolicyName = (typeof policyNames)[number];

/** What the others read, which no budget changes. */
const unbudgeted: { readonly [Name in PolicyName]?: string } = {
  exact: 'reads every key',
  lsh: 'reads the keys that collide with the query in two of its tables',
  static: 'reads no indexed key',
};

/** Whether a policy reads as many keys as a budget says. */
export function takesBudget(policy: PolicyName): boolean {
  return unbudgeted[policy] === undefined;
}

/** How attention is computed while generating. */
export interface PolicyOptions {
  /**
   * `exact` reads every key; `sketch` samples keys by estimates from a small copy of all of them; `lsh` samples keys by hash
   * collisions. To compare with: `topk` takes the keys with the greatest true scores, `oracle` draws keys by their true weights,
   * `quest` takes pages of 16 keys by bounds of their scores, `static` reads only what every policy does. Default `sketch`.
   */
  readonly policy?: PolicyName | undefined;
  /**
   * `sketch`, `topk`, `oracle`, `quest`: mean fraction of the indexed keys that a step reads, above 0 and up to 1. Default: 0.02 of 8,192 keys, and a
   * number of keys that goes with the root of the text's length, which keeps the fidelity about the same.
   */
  readonly budget?: number | undefined;
  /**
   * `sketch`, in place of a budget: as many keys are read as make this the mean relative error of attention's outputs, as the samples
   * themselves predict it; above 0 and below 1. It is reached within some tens of steps.
   */
  readonly targetError?: number | undefined;
  /**
   * `sketch`, in place of a budget: in every step each head estimates an interval of its output's relative error from its sample, and
   * reads more keys until the interval ends below this, or all; above 0 and below 1. See docs/verified.md for what it promises.
   */
  readonly epsilon?: number | undefined;
  /** With `epsilon`: how often such an interval may be wrong, above 0 and up to 0.2. Default 0.05. */
  readonly delta?: number | undefined;
  /** `sketch`: bits of the copy for each element of a key: 1, 2, 4 or 8. More bits, less noise and a larger index. Default 4, and 8 with `residual`. */
  readonly sketchBits?: number | undefined;
  /**
   * `sketch`: keep a copy of the values too, of 4 bits an element at most, take from both copies what they say of all keys, and let the sampled
   * keys correct it. Reads more of copies and needs a fraction of the keys for the same error: for keys on disk, or behind a slow bus. Default false.
   */
  readonly residual?: boolean | undefined;
  /**
   * Tokens of the text that `budget` is meant for: at other lengths the number of keys goes with the root of theirs.
   * @internal
   */
  readonly budgetTokens?: number | undefined;
  /** Layers that read every key whatever the policy, counted from 0. Default none. */
  readonly denseLayers?: readonly number[] | undefined;
  /** `lsh`: bits a table, 1 to 16. More bits, fewer keys read. Default 10. */
  readonly lshK?: number | undefined;
  /** `lsh`: tables, 2 to 1000. More tables, more keys read and a larger index. Default 150. */
  readonly lshL?: number | undefined;
}

export const policyOptionNames: OptionNames<PolicyOptions> = {
  policy: true,
  budget: true,
  targetError: true,
  epsilon: true,
  delta: true,
  sketchBits: true,
  residual: true,
  budgetTokens: false,
  denseLayers: true,
  lshK: true,
  lshL: true,
};

/** Of wider options those of a policy. */
export function policyOptionsOf(options: PolicyOptions): PolicyOptions {
  return Object.fromEntries(Object.entries(options).filter(([name]) => Object.hasOwn(policyOptionNames, name)));
}

export type Policy = { readonly denseLayers?: number[] } & (
  | { readonly kind: 'exact' }
  | { readonly kind: 'lsh'; readonly k: number; readonly l: number }
  | ({ readonly kind: 'sketch'; readonly bits: number; readonly residual: boolean } & SketchBudget)
  | ({ readonly kind: 'topk' | 'oracle' | 'quest' | 'static' } & Budget)
);

interface Budget {
  readonly budget?: number;
  readonly budgetTokens?: number;
}

/** How many keys `sketch` reads: one of these, or its default. */
interface SketchBudget extends Budget {
  readonly targetError?: number;
  readonly epsilon?: number;
  readonly delta?: number;
}

/** How the next token is chosen from the logits, in this order: penalty, top-k, top-p, min-p, temperature. */
export interface SamplingOptions {
  /** Divides logits; 0 always takes the most likely token. Default 0. */
  readonly temperature?: number | undefined;
  /** Keeps this many of the most likely tokens; 0 keeps all. Default 0. */
  readonly topK?: number | undefined;
  /** Keeps the fewest most likely tokens that together have this probability, above 0 and up to 1. Default 1. */
  readonly topP?: number | undefined;
  /** Keeps tokens with at least this fraction of the most likely one's probability, 0 to 1. Default 0. */
  readonly minP?: number | undefined;
  /** Makes tokens among the last 64 less likely; 1 is none, up to 10. Default 1. */
  readonly repetitionPenalty?: number | undefined;
  /** Seed of the draws, an unsigned 32-bit number: the same seed gives the same text. Default 0. */
  readonly seed?: number | undefined;
}

export const samplingOptionNames: OptionNames<SamplingOptions> = {
  temperature: true,
  topK: true,
  topP: true,
  minP: true,
  repetitionPenalty: true,
  seed: true,
};

export type Sampling = { readonly [Name in keyof SamplingOptions]-?: number };

/** Bits of the copy of each key element where none are named. With `residual` what keys' copies get wrong is most of the error that is left. */
export function defaultBits(residual: boolean): number {
  return residual ? 8 : 4;
}

/** `layers` are those of the model, where it is known. Throws INVALID_OPTION. */
export function policyFrom(options: PolicyOptions, layers = 2 ** 12): Policy {
  const { policy = 'sketch', budget, budgetTokens, denseLayers = [], residual = false, sketchBits = defaultBits(residual), lshK = 10, lshL = 150, ...errors } = options;
  // All are checked, whichever policy takes them: what is wrong now would surprise at the next change of policy.
  const [k, l] = [integer('lshK', lshK, 1, 16), integer('lshL', lshL, 2, 1000)];
  if (![1, 2, 4, 8].includes(sketchBits)) throw outOfRange('sketchBits', sketchBits, '1, 2, 4 or 8');
  if (typeof residual !== 'boolean') throw outOfRange('residual', residual, 'true or false');
  if (budget !== undefined && !(isNumber(budget) && budget > 0 && budget <= 1)) throw outOfRange('budget', budget, 'above 0, up to 1');
  const asked = errorFrom(errors, policy, budget);
  if (!Array.isArray(denseLayers)) throw outOfRange('denseLayers', denseLayers, 'a list of layers');
  const dense = denseLayers.length > 0 && { denseLayers: denseLayers.map((layer: number) => integer('a layer of denseLayers', layer, 0, layers - 1)) };
  const drawn = {
    ...(budget !== undefined && { budget }),
    ...(budgetTokens !== undefined && { budgetTokens: integer('budgetTokens', budgetTokens, 1, 2 ** 31) }),
  };
  // Types are no promise where options come from JavaScript or a command line.
  const kind = policyNames.find((name) => name === policy);
  if (budget !== undefined && kind !== undefined && !takesBudget(kind)) {
    throw new MagicpigError('INVALID_OPTION', `budget is for the policies ${policyNames.filter(takesBudget).join(', ')}; the policy is ${kind}, which ${unbudgeted[kind]}`);
  }
  switch (kind) {
    case 'exact':
      return { kind, ...dense };
    case 'lsh':
      return { kind, k, l, ...dense };
    case 'sketch':
      if (residual && Object.keys(asked).length > 0) {
        throw new MagicpigError('INVALID_OPTION', 'residual corrects what a sample says, and errors are estimated without it; ask for a budget with residual');
      }
      return { kind, bits: sketchBits, residual, ...drawn, ...asked, ...dense };
    case 'topk':
    case 'oracle':
    case 'quest':
    case 'static':
      return { kind, ...drawn, ...dense };
    case undefined:
      throw new MagicpigError('INVALID_OPTION', `policy ${JSON.stringify(policy)} is unknown; there are ${policyNames.join(', ')}`);
  }
}

/**
 * The policy `options` ask for in the place of `own`, over the index that the session has: what they leave open is as `own` has
 * it, so without any it is `own`. Throws INVALID_OPTION where it would need another index.
 */
export function overSameIndex(own: Policy, options: PolicyOptions, layers: number): Policy {
  const { policy = own.kind, denseLayers, budget, targetError, epsilon, delta } = options;
  if (policy !== 'exact' && policy !== own.kind) {
    throw new MagicpigError('INVALID_OPTION', `policy is ${policy}, which needs another index than ${own.kind}, the session's; there are ${own.kind} and exact`);
  }
  const index = own.kind === 'sketch' ? { sketchBits: own.bits, residual: own.residual } : own.kind === 'lsh' ? { lshK: own.k, lshL: own.l } : {};
  const asked = policyFrom({ policy, denseLayers, budget, targetError, epsilon, delta, ...index }, layers);
  const replaced = policy !== own.kind || budget !== undefined || targetError !== undefined || epsilon !== undefined;
  return replaced ? { ...(own.denseLayers && { denseLayers: own.denseLayers }), ...asked } : ({ ...own, ...asked });
}

/** What asks for an error instead of a budget, which only `sketch` can be asked for, and in one way at a time. */
function errorFrom({ targetError, epsilon, delta }: Pick<PolicyOptions, 'targetError' | 'epsilon' | 'delta'>, policy: string, budget: number | undefined): Omit<SketchBudget, keyof Budget> {
  const asked = Object.entries({ targetError, epsilon, delta }).filter(([, value]) => value !== undefined).map(([name]) => name);
  const [first] = asked;
  if (first === undefined) return {};
  if (policy !== 'sketch') throw new MagicpigError('INVALID_OPTION', `${first} is for the policy sketch, which alone estimates its error; the policy is ${policy}`);
  const ways = Object.entries({ budget, targetError, epsilon }).filter(([, value]) => value !== undefined).map(([name]) => name);
  if (ways.length > 1) throw new MagicpigError('INVALID_OPTION', `${ways.join(' and ')} exclude each other: each says how many keys are read; give one`);
  for (const [name, value] of Object.entries({ targetError, epsilon })) {
    if (value !== undefined && !(isNumber(value) && value > 0 && value < 1)) throw outOfRange(name, value, 'above 0 and below 1');
  }
  if (targetError !== undefined && delta === undefined) return { targetError };
  if (epsilon === undefined) throw new MagicpigError('INVALID_OPTION', 'delta says how often an interval of epsilon may be wrong; give epsilon too');
  if (delta !== undefined && !(isNumber(delta) && delta > 0 && delta <= 0.2)) throw outOfRange('delta', delta, 'above 0, up to 0.2');
  return { epsilon, delta: delta ?? 0.05 };
}

export function samplingFrom(options: SamplingOptions): Sampling {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0 } = options;
  if (topP === 0) throw outOfRange('topP', topP, 'above 0, up to 1');
  return {
    temperature: number('temperature', temperature, 0, 100),
    topK: integer('topK', topK, 0, 2 ** 31),
    topP: number('topP', topP, 0, 1),
    minP: number('minP', minP, 0, 1),
    repetitionPenalty: number('repetitionPenalty', repetitionPenalty, 1, 10),
    seed: seedFrom(seed),
  };
}

export function seedFrom(seed: number | undefined): number {
  return integer('seed', seed ?? 0, 0, 2 ** 32 - 1);
}

/** As many threads as there are cores, unless told otherwise. */
export function threadsFrom(threads: number | undefined): number {
  return integer('threads', threads ?? availableParallelism(), 1, 1024);
}

export function deviceFrom(device: string | undefined): Device {
  if (device === undefined) return 'cpu';
  const known = devices.find((name) => name === device);
  if (known !== undefined) return known;
  throw new MagicpigError('INVALID_OPTION', `device ${JSON.stringify(device)} is not supported; there are ${devices.join(', ')}`);
}

export function lmHeadFrom(bits: string | undefined): 'file' | '8' {
  if (bits === undefined || bits === 'file') return 'file';
  if (bits === '8') return bits;
  throw outOfRange('lmHead', bits, 'file or 8');
}

export function weightsFrom(bits: string | undefined): WeightBits {
  if (bits === undefined) return 'file';
  const known = weightBits.find((name) => name === bits);
  if (known !== undefined) return known;
  throw outOfRange('weights', bits, 'file, 8 or 4');
}

export function rowsFrom(rows: string | undefined): RowType {
  if (rows === undefined) return 'bf16';
  const known = rowTypes.find((name) => name === rows);
  if (known !== undefined) return known;
  throw new MagicpigError('INVALID_OPTION', `rows is ${JSON.stringify(rows)}; it must be ${rowTypes.join(' or ')}`);
}

export function integer(name: string, value: number, low: number, high: number): number {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw outOfRange(name, value, `a whole number from ${low} to ${high}`);
  }
  return value;
}

/** Refuses an array that a caller gives for logits to be written to, unless it has a place for each token. */
export function checkLogits(name: string, value: Float32Array, vocabSize: number): void {
  // Types are no promise where the caller is JavaScript.
  const given: unknown = value;
  if (given instanceof Float32Array && given.length === vocabSize) return;
  const what = given instanceof Float32Array ? `a Float32Array of ${given.length} elements` : shown(given);
  throw new MagicpigError('INVALID_OPTION', `${name} is ${what}; it must be a Float32Array of ${vocabSize}, one for each token that the model knows`);
}

function number(name: string, value: number, low: number, high: number): number {
  if (!(isNumber(value) && value >= low && value <= high)) throw outOfRange(name, value, `from ${low} to ${high}`);
  return value;
}

/** Types are no promise: JavaScript compares the text "0.5" as though it were a number. */
function isNumber(value: unknown): boolean {
  return typeof value === 'number';
}

function outOfRange(name: string, value: unknown, range: string): MagicpigError {
  return new MagicpigError('INVALID_OPTION', `${name} is ${shown(value)}; it must be ${range}`);
}
