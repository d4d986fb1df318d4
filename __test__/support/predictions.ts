import { loadModel } from '../../src/index.js';
import { divergence, logSoftmax } from './log-probabilities.js';
import { architectureText } from './tiny-architectures.js';

/** ln of probabilities after each token of the tiny architectures' text, read one by one: [tokens][vocabulary]. */
export async function predictionsOf(path: string): Promise<number[][]> {
  await using model = await loadModel(path, { threads: 2 });
  using session = model.createSession({ policy: 'exact' });
  const rows = [];
  for (const token of architectureText) rows.push(logSoftmax(await session.step(token)));
  return rows;
}

export const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b) / values.length;

/** The mean divergence of predictions from those of a reference. */
export const distance = (reference: readonly number[][], rows: readonly number[][]): number => mean(reference.map((row, i) => divergence(row, rows[i]!)));
