/** A token and the logarithm of its probability, as the model gives it, before any of what sampling changes. */
export interface TokenLogprob {
  readonly token: number;
  readonly logprob: number;
}

export interface Logprobs extends TokenLogprob {
  /** The most likely tokens, in falling order. */
  readonly top: readonly TokenLogprob[];
}

/** The logarithm of a token's probability by logits [vocabulary], and the `count` most likely tokens. Sums in double precision. */
export function logprobsOf(logits: Float32Array, token: number, count: number): Logprobs {
  const top: number[] = [];
  let greatest = -Infinity;
  for (let id = 0; id < logits.length; id += 1) {
    const logit = logits[id] ?? 0;
    greatest = Math.max(greatest, logit);
    if (top.length === count && logit <= (logits[top[count - 1] ?? 0] ?? 0)) continue;
    let at = top.length;
    while (at > 0 && logit > (logits[top[at - 1] ?? 0] ?? 0)) at -= 1;
    top.splice(at, 0, id);
    top.length = Math.min(top.length, count);
  }
  let sum = 0;
  for (let id = 0; id < logits.length; id += 1) sum += Math.exp((logits[id] ?? 0) - greatest);
  const total = greatest + Math.log(sum);
  const of = (id: number) => ({ token: id, logprob: (logits[id] ?? 0) - total });
  return { ...of(token), top: top.map(of) };
}
