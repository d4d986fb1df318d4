import type { Model } from '../decode/model.js';
import { type OptionNames, checkOptions } from '../decode/option-names.js';
import { MagicpigError } from '../errors.js';
import { shown } from '../shown.js';
import { type TunedDefaults, writeTuned } from '../decode/tuned.js';
import { Comparison, type FidelityRow } from './fidelity.js';
import { type Variant, seedsFrom } from './variants.js';

/** Budgets between which one is looked for: the least that draws a few keys a head, and where reading all would be near. */
const LEAST = 0.0005;
const MOST = 0.3;
/** Two budgets that differ by less are the same: their bytes differ by less than a hundredth of what exact reads. */
const CLOSE = 1.15;
/** Bits of a table of `lsh`: fewer find more keys. Tables are as many as the original's. */
const LSH_K = [14, 13, 12, 11, 10, 9, 8, 7, 6];
/** Layers that are tried as dense ones at most. */
const DENSE = 2;

export interface TuneOptions {
  /** KL(exact || policy) of the next token to stay below, in nats, also by the upper end of its 95% interval. Default 0.002. */
  readonly targetKl?: number | undefined;
  /** Tokens that are read exactly. Default 4096. */
  readonly prefix?: number | undefined;
  /** Tokens of the text that follow and are compared. Default 96. */
  readonly steps?: number | undefined;
  /** Seeds that each policy is run with: 0, 1, ... Default 2. */
  readonly seeds?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every chunk with the tokens read so far. */
  readonly onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  /** Called after each policy and budget, of which nobody knows how many there will be. */
  readonly onTried?: ((tried: Tried) => void) | undefined;
}

const tuneOptionNames: OptionNames<TuneOptions> = { targetKl: true, prefix: true, steps: true, seeds: true, signal: true, onProgress: true, onTried: true };

/** What was tried, and whether the target holds by the upper end of the interval. */
export interface Tried extends Pick<FidelityRow, 'policy' | 'budget' | 'sketchBits' | 'lshK' | 'lshL' | 'klToExact' | 'klLow' | 'klHigh' | 'top1Agreement' | 'bytesReadFraction' | 'keysSampled'> {
  readonly denseLayers: readonly number[];
  readonly meets: boolean;
}

export interface Tuning {
  readonly chosen: TunedDefaults;
  readonly tried: readonly Tried[];
  /** Where the choice is kept. */
  readonly file: string;
}

/**
 * Finds the policy that reads the fewest bytes a step among those whose predictions stay within `targetKl` of exact attention's on a
 * text, and keeps it as the model's defaults on this machine, for the sessions that `createSession` and `openSession` make. Where
 * nothing else meets the target that is `exact`.
 *
 * The text is read once. For each number of bits of `sketch`, and for `lsh` over its K, the smallest budget is looked for that meets
 * the target; then whether it is worth while to read every key in the layer whose attention is furthest off.
 *
 * Throws INVALID_OPTION (the text is too short, an option out of range), CACHE_UNWRITABLE, ABORTED, and what reading a text does.
 */
export async function tune(model: Model, text: string, options: TuneOptions = {}): Promise<Tuning> {
  checkOptions('tune', options, tuneOptionNames);
  const { targetKl = 0.002, prefix = 4096, steps = 96, signal, onProgress, onTried } = options;
  const seeds = seedsFrom(options.seeds ?? 2);
  if (typeof targetKl !== 'number' || !(targetKl > 0 && targetKl < 100)) throw new MagicpigError('INVALID_OPTION', `targetKl is ${shown(targetKl)}; it must be above 0, in nats`);
  using comparison = await Comparison.begin(model, text, { prefix, steps, seeds, signal, onProgress: (_, done, total) => onProgress?.({ done, total }) });
  const search = new Search(comparison, targetKl, onTried);
  for (const sketchBits of [2, 4, 1] as const) await search.sketch({ policy: 'sketch', sketchBits });
  await search.lsh();
  await search.dense();
  const { variant, row } = search.best ?? { variant: { policy: 'exact' } as const, row: (await comparison.measure({ policy: 'exact' })).row };
  const chosen: TunedDefaults = {
    policy: { ...variant, ...(variant.budget !== undefined && { budgetTokens: prefix }) },
    targetKl,
    klToExact: row.klToExact,
    klHigh: row.klHigh,
    top1Agreement: row.top1Agreement,
    bytesReadFraction: row.bytesReadFraction,
    prefix,
    steps,
    seeds,
    date: new Date().toISOString(),
  };
  return { chosen, tried: search.tried, file: await writeTuned(model.fingerprint, chosen) };
}

interface Found {
  readonly variant: Variant;
  readonly row: FidelityRow;
}

/** The cheapest policy so far that meets the target. */
export class Search {
  readonly tried: Tried[] = [];
  best: Found | undefined;
  readonly #comparison: Pick<Comparison, 'measure'>;
  readonly #target: number;
  readonly #onTried: ((tried: Tried) => void) | undefined;

  constructor(comparison: Pick<Comparison, 'measure'>, target: number, onTried: ((tried: Tried) => void) | undefined) {
    this.#comparison = comparison;
    this.#target = target;
    this.#onTried = onTried;
  }

  /**
   * The smallest budget of a policy that meets the target, between one that is known to miss it and one that meets it. KL goes down as
   * the budget goes up, so the logarithm of the budget is halved; the first guess is where the best other policy was.
   */
  async sketch(policy: Variant): Promise<void> {
    // Codes alone are so much of the rows of bf16 that exact reads.
    if (this.best !== undefined && (policy.sketchBits ?? 4) / 32 >= this.best.row.bytesReadFraction) return;
    let [low, high] = [LEAST, MOST];
    let guess = this.best?.variant.budget ?? 0.015;
    while (high / low > CLOSE) {
      const { row } = await this.#try({ ...policy, budget: guess });
      const cheapest = this.best !== undefined && row.bytesReadFraction > this.best.row.bytesReadFraction;
      if (this.#meets(row)) high = guess;
      // More keys than these cost more than what was found already.
      else if (cheapest) return;
      else low = guess;
      guess = this.#next(low, high, guess, row);
    }
  }

  /** The most bits a table that meet the target: tables of more bits find fewer keys. */
  async lsh(): Promise<void> {
    let [misses, meets] = [-1, LSH_K.length];
    while (meets - misses > 1) {
      const at = (misses + meets) >> 1;
      const { row } = await this.#try({ policy: 'lsh', lshK: LSH_K[at], lshL: 150 });
      if (this.#meets(row)) meets = at;
      else if (this.best !== undefined && row.bytesReadFraction > this.best.row.bytesReadFraction) return;
      else misses = at;
    }
  }

  /** Whether the best policy gets cheaper with the layers dense that are furthest off, one after the other. */
  async dense(): Promise<void> {
    for (let count = 0; count < DENSE; count += 1) {
      const before = this.best;
      if (before?.variant.policy !== 'sketch') return;
      const { variant: { denseLayers = [], ...variant }, row } = before;
      await this.sketch({ ...variant, denseLayers: [...denseLayers, furthest(row)].toSorted((a, b) => a - b) });
      if (this.best === before) return;
    }
  }

  /** KL goes about with the budget to the power of -1.5; never so near an end that the other stays far away. */
  #next(low: number, high: number, guess: number, row: FidelityRow): number {
    const wanted = guess * (row.klHigh / this.#target) ** (1 / 1.5);
    const inside = (share: number) => low ** (1 - share) * high ** share;
    return Math.min(Math.max(wanted * (this.#meets(row) ? 0.97 : 1.03), inside(0.1)), inside(0.9));
  }

  #meets(row: FidelityRow): boolean {
    return row.klHigh <= this.#target;
  }

  async #try(variant: Variant): Promise<Found> {
    const { row } = await this.#comparison.measure(variant);
    const { policy, budget, sketchBits, lshK, lshL, klToExact, klLow, klHigh, top1Agreement, bytesReadFraction, keysSampled, denseLayers = [] } = row;
    const meets = this.#meets(row);
    const tried: Tried = {
      policy, budget, ...(policy === 'sketch' && { sketchBits }), ...(policy === 'lsh' && { lshK, lshL }),
      denseLayers, klToExact, klLow, klHigh, top1Agreement, bytesReadFraction, keysSampled, meets,
    };
    this.tried.push(tried);
    this.#onTried?.(tried);
    const found = { variant, row };
    if (meets && !(this.best !== undefined && this.best.row.bytesReadFraction <= bytesReadFraction)) this.best = found;
    return found;
  }
}

/** The layer with the greatest mean relative error of its heads. */
function furthest({ perLayerHead }: FidelityRow): number {
  const errors = perLayerHead.map((heads) => heads.reduce((sum, error) => sum + error, 0));
  return errors.indexOf(Math.max(...errors));
}
