import type { Sampling } from './options.js';

/** Newest tokens that the repetition penalty looks at. */
const PENALTY_WINDOW = 64;

/** Tokens this far below the greatest logit have less than 1e-7 of its probability: they are sorted only if needed. */
const LIKELY_RANGE = 16;

/** Chooses tokens from logits. Each draw is a function of seed and draw number alone. */
export class Sampler {
  readonly #sampling: Sampling;
  #draws = 0;

  constructor(sampling: Sampling) {
    this.#sampling = sampling;
  }

  /**
   * The next token after `tokens`, given its logits [vocabulary], which are left as they are. With `allowed`, a bit for each
   * token, only from those whose bit is set.
   */
  next(logits: Float32Array, tokens: readonly number[], allowed?: Uint32Array): number {
    const { temperature, repetitionPenalty } = this.#sampling;
    const all = repetitionPenalty === 1 ? logits : penalised(logits, tokens.slice(-PENALTY_WINDOW), repetitionPenalty);
    const scores = allowed === undefined ? all : masked(all, allowed);
    if (temperature === 0) return greatest(scores);

    const top = scores[greatest(scores)] ?? 0;
    if (this.#sampling.topK === 0 && this.#sampling.topP === 1) return this.#drawnFromAll(scores, top);
    const candidates = this.#candidates(scores, top);
    const weights = candidates.map((id) => Math.exp(((scores[id] ?? 0) - top) / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let rest = uniform(this.#sampling.seed, this.#draws++) * total;
    for (const [index, weight] of weights.entries()) {
      rest -= weight;
      if (rest < 0) return candidates[index] ?? 0;
    }
    // Rounding may leave a rest of nothing.
    return candidates.at(-1) ?? 0;
  }

  /** Where no order matters, none is made: sorting a vocabulary takes longer than a step of a small model. */
  #drawnFromAll(scores: Float32Array, top: number): number {
    const { temperature } = this.#sampling;
    const floor = this.#floor(top);
    const weights = new Float64Array(scores.length);
    let total = 0;
    // Plain loops: an iterator over a vocabulary takes milliseconds.
    for (let id = 0; id < scores.length; id += 1) {
      const score = scores[id] ?? 0;
      if (score >= floor) total += weights[id] = Math.exp((score - top) / temperature);
    }
    let rest = uniform(this.#sampling.seed, this.#draws++) * total;
    for (let id = 0; id < weights.length; id += 1) {
      rest -= weights[id] ?? 0;
      if (rest < 0) return id;
    }
    // Rounding may leave a rest of nothing.
    return greatest(scores);
  }

  /** The least score that may be drawn: exp(score - top) >= minP. */
  #floor(top: number): number {
    return this.#sampling.minP > 0 ? top + Math.log(this.#sampling.minP) : -Number.MAX_VALUE;
  }

  /** Ids that may be drawn, most likely first. */
  #candidates(scores: Float32Array, top: number): number[] {
    const { topK, topP } = this.#sampling;
    const floor = this.#floor(top);
    let candidates = descending(scores, Math.max(floor, top - LIKELY_RANGE));
    const limit = topK > 0 ? topK : scores.length;
    const tail = floor > top - LIKELY_RANGE ? 0 : unlikelyMass(scores, top);
    const mass = candidates.reduce((sum, id) => sum + Math.exp((scores[id] ?? 0) - top), 0);
    // The likely tokens do not fill what is to be kept: a flat distribution, or all are wanted.
    const enough = candidates.length >= limit || mass >= topP * (mass + tail);
    if (!enough) candidates = descending(scores, floor);
    return nucleus(scores, candidates.slice(0, limit), topP);
  }
}

/** Total of exp(score - top) over the scores more than LIKELY_RANGE below the top. */
function unlikelyMass(scores: Float32Array, top: number): number {
  return scores.reduce((sum, score) => (score < top - LIKELY_RANGE ? sum + Math.exp(score - top) : sum), 0);
}

/** Ids with scores from `floor` up, greatest first, ties by id. */
function descending(scores: Float32Array, floor: number): number[] {
  const ids: number[] = [];
  scores.forEach((score, id) => {
    if (score >= floor) ids.push(id);
  });
  return ids.sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
}

/** The shortest beginning of `ids` whose probability among them is at least `topP`; never empty. */
function nucleus(scores: Float32Array, ids: number[], topP: number): number[] {
  if (topP === 1) return ids;
  const top = scores[ids[0] ?? 0] ?? 0;
  const weights = ids.map((id) => Math.exp((scores[id] ?? 0) - top));
  const wanted = topP * weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  const last = weights.findIndex((weight) => (sum += weight) >= wanted);
  return last < 0 ? ids : ids.slice(0, last + 1);
}

/** Logits of recent tokens moved towards minus infinity: divided where positive, multiplied where negative (CTRL, 2019). */
function penalised(logits: Float32Array, recent: readonly number[], penalty: number): Float32Array {
  const scores = logits.slice();
  for (const id of new Set(recent)) {
    const logit = scores[id];
    if (logit !== undefined) scores[id] = logit > 0 ? logit / penalty : logit * penalty;
  }
  return scores;
}

/** Scores of tokens whose bit is not set at minus infinity. */
function masked(scores: Float32Array, allowed: Uint32Array): Float32Array {
  return scores.map((score, id) => (((allowed[id >>> 5] ?? 0) >>> (id & 31)) & 1 ? score : -Infinity));
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
