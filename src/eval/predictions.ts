import { greatest } from '../decode/sampler.js';

/** ln softmax of logits [vocabulary], sums in f64. */
export function logProbabilities(logits: Float32Array): Float64Array {
  const top = logits[greatest(logits)] ?? 0;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  const normaliser = top + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - normaliser);
}

/** KL(p || q) in nats, both as logs of probabilities: what is lost by predicting q where p is right. Never below 0. */
export function divergence(p: Float64Array, q: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < p.length; i += 1) {
    const logP = p[i] ?? 0;
    sum += Math.exp(logP) * (logP - (q[i] ?? 0));
  }
  // Rounding may leave a little less than nothing.
  return Math.max(0, sum);
}
