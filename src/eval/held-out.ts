import type { Model } from '../decode/model.js';
import { type Compared, type Fidelity, type FidelityOptions, type FidelityRow, compareAll } from './fidelity.js';
import { mean, ratioInterval } from './statistics.js';
import { type Variant, tokensOf } from './variants.js';

export interface NamedText {
  readonly name: string;
  readonly text: string;
}

/** A policy's row on another text than the first. */
export interface HeldOutRow extends FidelityRow {
  /** KL to exact, by that of the same policy on the first text, and its 95% interval: the two are the same within noise if it has 1 in it. */
  readonly ratio: number;
  readonly ratioLow: number;
  readonly ratioHigh: number;
}

export interface HeldOut {
  readonly text: string;
  readonly exactPerplexity: number;
  readonly policies: readonly HeldOutRow[];
}

/** What the first text says and, beside it, what the others do. */
export interface Texts extends Fidelity {
  readonly text: string;
  readonly heldOut: readonly HeldOut[];
}

export interface TextsOptions extends FidelityOptions {
  /** Called with a text's name before it is read. */
  readonly onText?: ((name: string) => void) | undefined;
}

/** Measures policies on several texts as `evaluateFidelity` does on one. Throws likewise, before any text is read if one is too short. */
export async function evaluateTexts(model: Model, texts: readonly [NamedText, ...NamedText[]], variants: readonly Variant[], options: TextsOptions): Promise<Texts> {
  const { prefix, steps } = options;
  for (const { text } of texts) tokensOf(model, text, prefix + steps + 1);
  const [first, ...others] = texts;
  options.onText?.(first.name);
  const reference = await compareAll(model, first.text, variants, options);
  const heldOut: HeldOut[] = [];
  for (const { name, text } of others) {
    options.onText?.(name);
    const { exactPerplexity, compared } = await compareAll(model, text, variants, options);
    heldOut.push({ text: name, exactPerplexity, policies: compared.map((own, i) => beside(own, reference.compared[i])) });
  }
  return { text: first.name, prefix, steps, exactPerplexity: reference.exactPerplexity, policies: reference.compared.map(({ row }) => row), heldOut };
}

/** A row with its KL by another text's. Where the policy is exact on both, there is no difference. */
export function beside({ row, kl }: Compared, reference: Compared | undefined): HeldOutRow {
  const whole = reference === undefined ? 0 : mean(reference.kl.flat());
  if (reference === undefined || whole === 0) return { ...row, ratio: 1, ratioLow: 1, ratioHigh: 1 };
  const { low, high } = ratioInterval(kl, reference.kl);
  return { ...row, ratio: mean(kl.flat()) / whole, ratioLow: low, ratioHigh: high };
}
