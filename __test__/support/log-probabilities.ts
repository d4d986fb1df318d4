// ln of probabilities: recorded as 16-bit numbers, and their distance.

/** A step of what is recorded: it moves a Kullback-Leibler divergence by about 1e-8. */
const STEP = 1 / 2048;

export function encodeLogProbabilities(rows: readonly (readonly number[])[]): string {
  const steps = rows.flat().map((x) => Math.max(-32_768, Math.round(x / STEP)));
  return Buffer.from(Int16Array.from(steps).buffer).toString('base64');
}

/** [positions][vocabulary], each row made to sum to 1 again. */
export function decodeLogProbabilities(text: string, vocabulary: number): number[][] {
  const bytes = Uint8Array.from(Buffer.from(text, 'base64'));
  const steps = Array.from(new Int16Array(bytes.buffer), (x) => x * STEP);
  return Array.from({ length: steps.length / vocabulary }, (_, row) => logSoftmax(steps.slice(row * vocabulary, (row + 1) * vocabulary)));
}

export function logSoftmax(logits: Iterable<number>): number[] {
  const all = [...logits];
  const greatest = Math.max(...all);
  const logarithm = greatest + Math.log(all.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0));
  return all.map((logit) => logit - logarithm);
}

/** sum p ln(p / q), both given by ln. */
export function divergence(p: readonly number[], q: readonly number[]): number {
  return p.reduce((sum, ln, i) => sum + Math.exp(ln) * (ln - (q[i] ?? NaN)), 0);
}
