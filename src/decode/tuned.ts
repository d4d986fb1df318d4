import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { cacheError, cacheFromEnvironment, replaceFile } from '../model/cache.js';
import { errorCode } from '../model/file-error.js';
import { type PolicyOptions, policyFrom } from './options.js';

/** The form of the files. Another one is not read. */
const VERSION = 1;

/** The policy that `tune` chose for a model, and what it measured of it. */
export interface TunedDefaults {
  /** As options of a session. */
  readonly policy: PolicyOptions;
  /** KL(exact || policy) of the next token that was asked for, in nats. */
  readonly targetKl: number;
  /** What was measured, and the upper end of its 95% interval. */
  readonly klToExact: number;
  readonly klHigh: number;
  readonly top1Agreement: number;
  /** Bytes of rows and index that a step reads, by those of rows that an exact one does. */
  readonly bytesReadFraction: number;
  /** Tokens that were read before, and those that were compared after them. */
  readonly prefix: number;
  readonly steps: number;
  readonly seeds: number;
  /** When, in ISO 8601. */
  readonly date: string;
}

/** The options of a session's policy, and whether `tune` chose them. */
export interface Chosen {
  readonly policy: PolicyOptions;
  readonly tuned: boolean;
}

type Fingerprint = readonly { readonly name: string; readonly value: string }[];

/** Where the choice for a model is kept: beside the models, by a digest of what tells the model from others. */
export function tunedPath(fingerprint: Fingerprint): string {
  const digest = createHash('sha256').update(JSON.stringify(fingerprint.map(({ name, value }) => [name, value]))).digest('hex');
  return join(cacheFromEnvironment().own, 'tuned', `${digest.slice(0, 32)}.json`);
}

/** The choice for a model, if there is one. Throws TUNED_DAMAGED. */
export function readTuned(fingerprint: Fingerprint): TunedDefaults | undefined {
  const path = tunedPath(fingerprint);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return undefined;
    throw damaged(path, errorCode(error) ?? String(error), error);
  }
  try {
    return checked(JSON.parse(text));
  } catch (error) {
    throw damaged(path, error instanceof Error ? error.message : String(error), error);
  }
}

/** Keeps the choice for a model: whole or not at all. Returns the file. Throws CACHE_UNWRITABLE. */
export async function writeTuned(fingerprint: Fingerprint, tuned: TunedDefaults): Promise<string> {
  const path = tunedPath(fingerprint);
  const model = fingerprint.find(({ name }) => name === 'model')?.value;
  await replaceFile(path, `${JSON.stringify({ version: VERSION, model, ...tuned }, null, 2)}\n`);
  return path;
}

/** Forgets the choice for a model; false if there was none. Throws CACHE_UNWRITABLE. */
export async function removeTuned(fingerprint: Fingerprint): Promise<boolean> {
  const path = tunedPath(fingerprint);
  try {
    await rm(path);
    return true;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return false;
    throw cacheError(error, path);
  }
}

/**
 * What `tune` chose where the options leave it open. They may name another budget and other dense layers; with another index its
 * choice does not fit together any more, and is put aside.
 */
export function choose(options: PolicyOptions & { readonly tuned?: boolean | undefined }, read: () => TunedDefaults | undefined): Chosen {
  const named = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as PolicyOptions;
  const untuned = { policy: options, tuned: false };
  // Who asks for an error has asked for something else than a budget.
  if (options.tuned === false || named.policy === 'exact' || (named.targetError ?? named.epsilon ?? named.delta) !== undefined) return untuned;
  const chosen = read()?.policy;
  if (chosen === undefined) return untuned;
  const index = (policy: PolicyOptions) => JSON.stringify(policyFrom({ ...policy, budget: undefined, budgetTokens: undefined, denseLayers: undefined }));
  if (index({ ...chosen, ...named }) !== index(chosen)) return untuned;
  const { budgetTokens, ...rest } = chosen;
  return { policy: { ...rest, ...(named.budget === undefined && { budgetTokens }), ...named }, tuned: true };
}

function checked(value: unknown): TunedDefaults {
  const { version, policy, ...rest } = record(value);
  if (version !== VERSION) throw new Error(`its version is ${JSON.stringify(version)}, and this program writes ${VERSION}`);
  const { date } = rest;
  if (typeof date !== 'string') throw new Error('date is missing');
  const number = (name: string, least: number, most: number) => {
    const found = rest[name];
    if (typeof found !== 'number' || !(found >= least && found <= most)) throw new Error(`${name} is ${JSON.stringify(found)}`);
    return found;
  };
  return {
    policy: checkedPolicy(record(policy)),
    targetKl: number('targetKl', 0, Number.MAX_VALUE),
    klToExact: number('klToExact', 0, Number.MAX_VALUE),
    klHigh: number('klHigh', 0, Number.MAX_VALUE),
    top1Agreement: number('top1Agreement', 0, 1),
    bytesReadFraction: number('bytesReadFraction', 0, Number.MAX_VALUE),
    prefix: number('prefix', 1, 2 ** 31),
    steps: number('steps', 1, 2 ** 31),
    seeds: number('seeds', 1, 1000),
    date,
  };
}

/** Every option is of the type that it should be; ranges are what they are for any caller. */
function checkedPolicy(policy: Record<string, unknown>): PolicyOptions {
  for (const name of ['budget', 'budgetTokens', 'sketchBits', 'lshK', 'lshL']) {
    if (!['number', 'undefined'].includes(typeof policy[name])) throw new Error(`${name} is ${JSON.stringify(policy[name])}`);
  }
  if (typeof policy.policy !== 'string') throw new Error('no policy is named');
  policyFrom(policy);
  return policy;
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('it is no object');
  return value as Record<string, unknown>;
}

function damaged(path: string, why: string, cause: unknown): MagicpigError {
  return new MagicpigError('TUNED_DAMAGED', `what was tuned for the model is no use (${path}: ${why}); undo it with "magicpig tune --reset"`, { cause });
}
