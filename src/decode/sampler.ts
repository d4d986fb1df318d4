import { weigh } from '../native.js';
import type { Sampling } from './options.js';

/** Newest tokens that the repetition penalty looks at. */
const PENALTY_WINDOW = 64;

/** Scores are counted by how far they are below the greatest, so many bins a nat; those that are further down share the last bin. */
const BINS_A_NAT = 64;
const BINS = 32 * BINS_A_NAT;

/** Which tokens are left: those above a score, and the first `equal` of those that have it. */
interface Cut {
  readonly score: number;
  readonly equal: number;
}

const EVERYTHING: Cut = { score: -Infinity, equal: Infinity };

/**
 * Chooses tokens from logits. Each draw is a function of seed and draw number alone.
 *
 * Nothing sorts a vocabulary, or makes an array of its size at every token: either takes longer than a step of a small model.
 */
export class Sampler {
  readonly #sampling: Sampling;
  #draws = 0;
  /** Scores that a penalty or a mask has changed, [vocabulary]. */
  #changed = new Float32Array(0);
  /** What softmax weighs them with, [vocabulary]. */
  #weights = new Float32Array(0);
  /** Of a histogram of scores. */
  readonly #bins = new Float64Array(BINS);

  constructor(sampling: Sampling) {
    this.#sampling = sampling;
  }

  /**
   * The next token after `tokens`, given its logits [vocabulary], which are left as they are. With `allowed`, a bit for each
   * token, only from those whose bit is set.
   */
  next(logits: Float32Array, tokens: readonly number[], allowed?: Uint32Array): number {
    const { temperature, topK, topP, minP } = this.#sampling;
    const scores = this.#adjusted(logits, tokens, allowed);
    const best = greatest(scores);
    if (temperature === 0) return best;

    const top = scores[best] ?? 0;
    let cut = EVERYTHING;
    if (topK > 0 && topK < scores.length) cut = this.#cutAt(scores, top, cut, topK);
    if (topP < 1) cut = this.#cutAt(scores, top, cut, topP, this.#weighed(scores, top, 1));
    const floor = minP > 0 ? top + Math.log(minP) : -Infinity;
    return this.#drawn(scores, cut, floor, this.#weighed(scores, top, temperature)) ?? best;
  }

  /** The scores with the penalty of recent tokens, and those that are not allowed at minus infinity. */
  #adjusted(logits: Float32Array, tokens: readonly number[], allowed: Uint32Array | undefined): Float32Array {
    const { repetitionPenalty } = this.#sampling;
    if (repetitionPenalty === 1 && allowed === undefined) return logits;
    if (this.#changed.length !== logits.length) this.#changed = new Float32Array(logits.length);
    const scores = this.#changed;
    scores.set(logits);
    if (repetitionPenalty !== 1) penalise(scores, tokens.slice(-PENALTY_WINDOW), repetitionPenalty);
    if (allowed !== undefined) {
      for (let id = 0; id < scores.length; id += 1) {
        if ((((allowed[id >>> 5] ?? 0) >>> (id & 31)) & 1) === 0) scores[id] = -Infinity;
      }
    }
    return scores;
  }

  /** Weights of all scores at a temperature, the greatest one's being 1. */
  #weighed(scores: Float32Array, top: number, temperature: number): Float32Array {
    if (this.#weights.length !== scores.length) this.#weights = new Float32Array(scores.length);
    weigh(scores, top, temperature, this.#weights);
    return this.#weights;
  }

  /**
   * The shortest beginning of the tokens that `cut` leaves, most likely first and equals by id, that has `wanted` of them or, with weights, this
   * share of their sum; never empty. A histogram says in which narrow range of scores it ends, and only that range is sorted.
   */
  #cutAt(scores: Float32Array, top: number, cut: Cut, wanted: number, weights?: Float32Array): Cut {
    const bins = this.#bins.fill(0);
    let { equal } = cut;
    // Plain loops: an iterator over a vocabulary takes milliseconds.
    for (let id = 0; id < scores.length; id += 1) {
      const score = scores[id] ?? 0;
      if (score > cut.score || (score === cut.score && equal-- > 0)) {
        const bin = binOf(top - score);
        bins[bin] = (bins[bin] ?? 0) + (weights === undefined ? 1 : (weights[id] ?? 0));
      }
    }
    const enough = weights === undefined ? wanted : wanted * bins.reduce((sum, part) => sum + part, 0);
    let sum = 0;
    let last = 0;
    while (last < BINS - 1 && sum + (bins[last] ?? 0) < enough) {
      sum += bins[last] ?? 0;
      last += 1;
    }
    const range: number[] = [];
    for (let id = 0; id < scores.length; id += 1) {
      const score = scores[id] ?? 0;
      if (score >= cut.score && binOf(top - score) === last) range.push(id);
    }
    range.sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
    let score = top;
    equal = 0;
    for (const id of range) {
      if (equal > 0 && sum >= enough) break;
      sum += weights === undefined ? 1 : (weights[id] ?? 0);
      equal = scores[id] === score ? equal + 1 : 1;
      score = scores[id] ?? 0;
    }
    return score === cut.score ? { score, equal: Math.min(equal, cut.equal) } : { score, equal };
  }

  /** One of the tokens that the cut leaves and that are not below the floor, by their weights. */
  #drawn(scores: Float32Array, cut: Cut, floor: number, weights: Float32Array): number | undefined {
    let total = 0;
    let { equal } = cut;
    for (let id = 0; id < scores.length; id += 1) {
      const score = scores[id] ?? 0;
      // A score of minus infinity has no chance, whatever the least weight is that comes out of an exponential.
      const left = score >= floor && score > -Infinity && (score > cut.score || (score === cut.score && equal-- > 0));
      if (!left) weights[id] = 0;
      total += weights[id] ?? 0;
    }
    let rest = uniform(this.#sampling.seed, this.#draws++) * total;
    for (let id = 0; id < weights.length; id += 1) {
      rest -= weights[id] ?? 0;
      if (rest < 0) return id;
    }
    // Rounding may leave a rest of nothing.
    return undefined;
  }
}

function binOf(below: number): number {
  return Math.min(below * BINS_A_NAT, BINS - 1) | 0;
}

/** Moves logits of recent tokens towards minus infinity: divided where positive, multiplied where negative (CTRL, 2019). */
function penalise(scores: Float32Array, recent: readonly number[], penalty: number): void {
  for (const id of new Set(recent)) {
    const logit = scores[id];
    if (logit !== undefined) scores[id] = logit > 0 ? logit / penalty : logit * penalty;
  }
}

/** The id of the greatest score, the lowest one among equals. */
export function greatest(scores: Float32Array): number {
  let best = 0;
  for (let id = 1; id < scores.length; id += 1) {
    if ((scores[id] ?? 0) > (scores[best] ?? 0)) best = id;
  }
  return best;
}

/** Uniform in [0, 1) with 53 bits, a pure function of seed and counter (two rounds of a 32-bit finaliser). */
export function uniform(seed: number, counter: number): number {
  const high = mix32(mix32(seed ^ 0x9e3779b9) + Math.imul(counter, 2));
  const low = mix32(mix32(seed ^ 0x9e3779b9) + Math.imul(counter, 2) + 1);
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** A bijection of 32 bits with good avalanche (Wellons's lowbias32). */
function mix32(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
