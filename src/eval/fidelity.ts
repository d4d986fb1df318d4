import type { Model } from '../decode/model.js';
import { defaultBits, integer } from '../decode/options.js';
import { greatest } from '../decode/sampler.js';
import type { Session } from '../decode/session.js';
import { MagicpigError } from '../errors.js';
import { type Coverage, type Violations, coverageOf } from './coverage.js';
import { divergence, logProbabilities } from './predictions.js';
import { mean, meanInterval } from './statistics.js';
import { type Variant, isRandom, restart, seedsFrom, tokensOf } from './variants.js';

export interface FidelityOptions {
  /** Tokens that are read exactly. */
  readonly prefix: number;
  /** Tokens of the text that follow, each taken under the policy whatever it predicted. */
  readonly steps: number;
  /** Seeds that random policies are run with: 0, 1, ... Default 1. */
  readonly seeds?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What is done, and the tokens of it. */
  readonly onProgress?: ((phase: 'reading' | 'comparing', done: number, total: number) => void) | undefined;
}

/** How far one policy at one budget is from exact attention, over all positions and seeds. */
export interface FidelityRow extends Partial<Coverage & Violations> {
  readonly policy: Variant['policy'];
  /** The mean fraction of indexed keys that a query head used: what was asked for, where that can be; else what was measured. */
  readonly budget: number;
  /** What was asked for instead of a budget. */
  readonly targetError?: number | undefined;
  readonly epsilon?: number | undefined;
  readonly delta?: number | undefined;
  readonly sketchBits?: number | undefined;
  readonly residual?: boolean | undefined;
  readonly lshK?: number | undefined;
  readonly lshL?: number | undefined;
  /** Layers that were exact whatever the policy. */
  readonly denseLayers?: readonly number[] | undefined;
  readonly seeds: number;
  readonly perplexity: number;
  /** KL(exact || policy) of the next token, in nats. */
  readonly klToExact: number;
  /** Its 95% interval, over blocks of positions and over seeds. */
  readonly klLow: number;
  readonly klHigh: number;
  /** Share of positions with the same most likely token. */
  readonly top1Agreement: number;
  /** |o - exact o| / |exact o| of attention's outputs for the same queries, all steps, layers and heads together. */
  readonly relativeL2: number;
  /** The same of each layer's query heads. */
  readonly perLayerHead: readonly (readonly number[])[];
  /** Bytes of rows and index that a step reads, by those of rows that an exact one does. */
  readonly bytesReadFraction: number;
  /** Fraction of all keys that a query head used, the static set included. */
  readonly keysRead: number;
  /** Fraction of the indexed keys that a query head used, as measured. */
  readonly keysSampled: number;
  readonly indexBytesPerKey: number;
}

export interface Fidelity {
  readonly prefix: number;
  readonly steps: number;
  readonly exactPerplexity: number;
  readonly policies: readonly FidelityRow[];
}

/** A row, and the divergence at each position that it is a mean of, `[seeds, steps]`. */
export interface Compared {
  readonly row: FidelityRow;
  readonly kl: readonly (readonly number[])[];
}

/** What one run under a policy left at each position. */
interface Run {
  readonly kl: number[];
  readonly nll: number[];
  readonly agrees: number[];
}

/**
 * Reads the first `prefix` tokens of a text once, exactly, and then takes the next `steps` tokens under each policy, whatever it
 * predicts: how its predictions and its attention differ from those of exact attention at the same places.
 *
 * Throws INVALID_OPTION where the text is too short or an option out of range, and what reading a text does.
 */
export async function evaluateFidelity(model: Model, text: string, variants: readonly Variant[], options: FidelityOptions): Promise<Fidelity> {
  const { exactPerplexity, compared } = await compareAll(model, text, variants, options);
  return { prefix: options.prefix, steps: options.steps, exactPerplexity, policies: compared.map(({ row }) => row) };
}

/** As {@link evaluateFidelity}, with the divergence at each position. */
export async function compareAll(model: Model, text: string, variants: readonly Variant[], options: FidelityOptions) {
  const total = options.steps * (1 + variants.reduce((sum, variant) => sum + runsOf(variant, options), 0));
  let done = 0;
  using comparison = await Comparison.begin(model, text, { ...options, onStep: () => options.onProgress?.('comparing', ++done, total) });
  const compared: Compared[] = [];
  for (const variant of variants) compared.push(await comparison.measure(variant));
  return { exactPerplexity: comparison.exactPerplexity, compared };
}

/** How many seeds a policy is run with: one where nothing is drawn. */
function runsOf(variant: Variant, { seeds }: Pick<FidelityOptions, 'seeds'>): number {
  return isRandom(variant) ? seedsFrom(seeds) : 1;
}

interface ComparisonOptions extends FidelityOptions {
  /** Called after every token that was taken. */
  readonly onStep?: (() => void) | undefined;
}

/** A text that was read, exact attention's predictions of what follows, and any number of policies beside them. */
export class Comparison implements Disposable {
  readonly #model: Model;
  readonly #session: Session;
  readonly #options: ComparisonOptions;
  readonly #tokens: readonly number[];
  /** Logits as they are, half the size of what is made of them. */
  readonly #exact: Float32Array[] = [];
  #exactNll = 0;

  private constructor(model: Model, session: Session, tokens: readonly number[], options: ComparisonOptions) {
    this.#model = model;
    this.#session = session;
    this.#tokens = tokens;
    this.#options = options;
  }

  /** Reads the text. Throws as {@link evaluateFidelity} does. */
  static async begin(model: Model, text: string, options: ComparisonOptions): Promise<Comparison> {
    const { signal, onProgress } = options;
    const prefix = integer('prefix', options.prefix, 1, 2 ** 31);
    const steps = integer('steps', options.steps, 1, 2 ** 31);
    seedsFrom(options.seeds);
    const tokens = tokensOf(model, text, prefix + steps + 1);
    const comparison = new Comparison(model, model.createSession({ policy: 'exact' }), tokens, options);
    try {
      await comparison.#session.prefill(tokens.slice(0, prefix), { signal, onProgress: ({ done, total }) => onProgress?.('reading', done, total) });
      await comparison.#force({ policy: 'exact' }, 0, (_, logits, next) => {
        comparison.#exact.push(logits);
        comparison.#exactNll -= (logProbabilities(logits)[next] ?? 0) / steps;
      });
      comparison.#session.setAudit(true);
      return comparison;
    } catch (error) {
      comparison[Symbol.dispose]();
      throw error;
    }
  }

  get exactPerplexity(): number {
    return Math.exp(this.#exactNll);
  }

  /** Takes the steps under a policy, with every seed. */
  async measure(variant: Variant): Promise<Compared> {
    const measured = new Measured();
    for (let seed = 0; seed < runsOf(variant, this.#options); seed += 1) {
      const run: Run = { kl: [], nll: [], agrees: [] };
      await this.#force(variant, seed, (step, logits, next) => {
        const reference = this.#exact[step] ?? logits;
        const own = logProbabilities(logits);
        run.kl.push(divergence(logProbabilities(reference), own));
        run.nll.push(-(own[next] ?? 0));
        run.agrees.push(greatest(logits) === greatest(reference) ? 1 : 0);
      });
      measured.add(run, this.#session);
    }
    return { row: measured.row(variant, this.#model), kl: measured.kl };
  }

  async #force(variant: Variant, seed: number, use: (step: number, logits: Float32Array, next: number) => void): Promise<void> {
    const { prefix, steps, signal, onStep } = this.#options;
    await restart(this.#session, this.#tokens.slice(0, prefix), variant, seed, signal);
    for (let step = 0; step < steps; step += 1) {
      const logits = await this.#session.step(tokenAt(this.#tokens, prefix + step), { signal });
      use(step, logits, tokenAt(this.#tokens, prefix + step + 1));
      onStep?.();
    }
  }

  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]();
  }
}

/** The runs of a policy, one for each seed, and what the session measured in them. */
class Measured {
  readonly #runs: Run[] = [];
  readonly #stats: ReturnType<Session['stats']>[] = [];
  readonly #audits: NonNullable<ReturnType<Session['audit']>>[] = [];
  #errors = new Float64Array();
  #exact = new Float64Array();
  #bytes = 0;
  #exactBytes = 0;

  add(run: Run, session: Session): void {
    const audit = session.audit();
    if (audit === undefined) throw new MagicpigError('INTERNAL', 'the audit of a session was off');
    this.#runs.push(run);
    this.#stats.push(session.stats());
    this.#audits.push(audit);
    this.#errors = audit.errorSquares.map((square, i) => square + (this.#errors[i] ?? 0));
    this.#exact = audit.exactSquares.map((square, i) => square + (this.#exact[i] ?? 0));
    this.#bytes += audit.bytesRead;
    this.#exactBytes += audit.exactBytes;
  }

  get kl(): number[][] {
    return this.#runs.map((run) => run.kl);
  }

  row({ policy, budget, targetError, epsilon, delta, residual = false, sketchBits = defaultBits(residual), lshK, lshL, denseLayers }: Variant, { config: { layers, heads } }: Model): FidelityRow {
    const { kl } = this;
    const interval = meanInterval(kl);
    const over = (of: (stats: ReturnType<Session['stats']>) => number) => mean(this.#stats.map(of));
    const sampled = over((stats) => stats.budget);
    const sum = (values: Float64Array) => values.reduce((a, b) => a + b, 0);
    const errors = this.#errors.map((square, i) => Math.sqrt(square / (this.#exact[i] ?? 1)));
    return {
      policy,
      budget: policy === 'exact' ? 1 : (budget ?? sampled),
      ...(policy === 'sketch' && { sketchBits, residual }),
      ...this.#coverage({ targetError, epsilon, delta }),
      ...(policy === 'lsh' && { lshK: lshK ?? 10, lshL: lshL ?? 150 }),
      ...(denseLayers !== undefined && { denseLayers }),
      seeds: this.#runs.length,
      perplexity: Math.exp(mean(this.#runs.flatMap((run) => run.nll))),
      klToExact: mean(kl.flat()),
      klLow: interval.low,
      klHigh: interval.high,
      top1Agreement: mean(this.#runs.flatMap((run) => run.agrees)),
      relativeL2: Math.sqrt(sum(this.#errors) / sum(this.#exact)),
      perLayerHead: Array.from({ length: layers }, (_, layer) => [...errors.subarray(layer * heads, (layer + 1) * heads)]),
      bytesReadFraction: this.#bytes / this.#exactBytes,
      keysRead: over((stats) => stats.keysRead),
      keysSampled: sampled,
      indexBytesPerKey: over((stats) => stats.indexBytesPerKey),
    };
  }

  /** What was said of errors, where an error was asked for. */
  #coverage({ targetError, epsilon, delta = 0.05 }: Pick<Variant, 'targetError' | 'epsilon' | 'delta'>): Partial<FidelityRow> {
    const coverage = coverageOf(this.#audits);
    if (coverage === undefined) return {};
    if (epsilon !== undefined) return { epsilon, delta, ...coverage };
    const { headSteps, estimatedError, realError, outside } = coverage;
    return { targetError, headSteps, estimatedError, realError, outside };
  }
}

function tokenAt(tokens: readonly number[], position: number): number {
  const token = tokens[position];
  if (token === undefined) throw new MagicpigError('INTERNAL', `there is no token ${position}`);
  return token;
}
