import type { Model } from '../decode/model.js';
import { type PolicyName, type PolicyOptions, defaultBits, integer, policyFrom, policyNames } from '../decode/options.js';
import type { Session } from '../decode/session.js';
import { MagicpigError } from '../errors.js';

/** A policy with all that it takes: what an evaluation compares. */
export interface Variant extends PolicyOptions {
  readonly policy: PolicyName;
}

export interface VariantChoices {
  readonly policies: readonly string[];
  /** Of the policies that have one; undefined is their default. */
  readonly budgets: readonly (number | undefined)[];
  /** Of `sketch`, in the place of budgets: errors to aim at, and ends of intervals. */
  readonly errors?: readonly Pick<PolicyOptions, 'targetError' | 'epsilon' | 'delta'>[] | undefined;
  /** Default 4 alone, and 8 with `residual`. */
  readonly sketchBits?: readonly number[] | undefined;
  readonly residual?: boolean | undefined;
  readonly lshK: readonly number[];
  readonly lshL?: number | undefined;
  /** Layers that are exact under every policy. */
  readonly denseLayers?: readonly number[] | undefined;
}

/** Every policy at every budget, `sketch` with each number of bits; those without one at every K, or once. Throws INVALID_OPTION. */
export function variantsOf({ policies, budgets, errors = [], residual, sketchBits = [defaultBits(residual === true)], lshK, lshL, denseLayers }: VariantChoices): Variant[] {
  const dense = denseLayers !== undefined && { denseLayers };
  const sizes = errors.length > 0 ? errors : budgets.map((budget) => ({ budget }));
  const variants = policies.flatMap((name): Variant[] => {
    const policy = policyNames.find((known) => known === name);
    if (policy === undefined) {
      throw new MagicpigError('INVALID_OPTION', `policy ${name} is unknown; there are ${policyNames.join(', ')}`);
    }
    if (policy === 'exact') return [{ policy }];
    if (policy === 'static') return [{ policy, ...dense }];
    if (policy === 'lsh') return lshK.map((k) => ({ policy, lshK: k, lshL, ...dense }));
    if (policy === 'sketch') return sketchBits.flatMap((bits) => sizes.map((size) => ({ policy, ...size, sketchBits: bits, residual, ...dense })));
    return budgets.map((budget) => ({ policy, budget, ...dense }));
  });
  for (const variant of variants) policyFrom(variant);
  return variants;
}

/** Whether the seed changes what the policy reads. */
export function isRandom({ policy }: Variant): boolean {
  return policy === 'sketch' || policy === 'lsh' || policy === 'oracle';
}

/** What people call it: "sketch 2%", "sketch residual 2%", "lsh K10 L150". */
export function nameOf({ policy, residual = false, budget, targetError, epsilon, lshK = 10, lshL = 150 }: Variant): string {
  if (policy === 'lsh') return `lsh K${lshK} L${lshL}`;
  if (policy === 'exact' || policy === 'static') return policy;
  const name = policy === 'sketch' && residual ? `${policy} residual` : policy;
  if (targetError !== undefined) return `${name} to an error of ${targetError}`;
  if (epsilon !== undefined) return `${name} verified to ${epsilon}`;
  return budget === undefined ? name : `${name} ${Number((100 * budget).toPrecision(3))}%`;
}

/** The same with what budgets do not say: "sketch 2%, 4 bits, dense 0 16". */
export function fullNameOf(variant: Variant): string {
  const { policy, residual = false, sketchBits = defaultBits(residual), denseLayers = [] } = variant;
  return [nameOf(variant), ...(policy === 'sketch' ? [bitsName(sketchBits)] : []), ...(denseLayers.length > 0 ? [`dense ${denseLayers.join(' ')}`] : [])].join(', ');
}

/** "4 bits", "1 bit". */
export function bitsName(bits: number): string {
  return `${bits} bit${bits === 1 ? '' : 's'}`;
}

/**
 * Takes a session back to the end of `prefix`, under a policy and seed as though it had them from the beginning: the index is
 * built anew, and the last token read again, so that there are logits. Every policy starts from the same rows this way.
 */
export async function restart(session: Session, prefix: readonly number[], variant: Variant, seed: number, signal?: AbortSignal): Promise<void> {
  session.rewind(prefix.length - 1);
  session.reseed(seed);
  session.setPolicy(variant);
  await session.prefill(prefix.slice(-1), { signal });
  session.resetStats();
}

/** Numbers of seeds to average over, checked. */
export function seedsFrom(seeds: number | undefined): number {
  return integer('seeds', seeds ?? 1, 1, 1000);
}

/** The tokens of `text`; at least `needed` of them. */
export function tokensOf(model: Model, text: string, needed: number): number[] {
  const tokens = model.tokenizer.encode(text);
  if (tokens.length < needed) {
    throw new MagicpigError('INVALID_OPTION', `the text has ${tokens.length} tokens, and prefix and steps need ${needed}; take a longer text or a shorter prefix (--prefix)`);
  }
  return tokens;
}
