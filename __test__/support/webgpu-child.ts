// What each model file that is named predicts on WebGPU, one line of JSON each; before them, how many tokens are read before others are stepped.
import { loadModel } from '../../src/index.js';
import type { Session } from '../../src/index.js';
import { logSoftmax } from './log-probabilities.js';
import { architectureText as text, architectureVocabulary } from './tiny-architectures.js';

const [prefix, ...paths] = process.argv.slice(2);

/** ln of probabilities [vocabulary] after tokens. */
export interface WebgpuPredictions {
  /** After all of the text but its last token was read at once, and that token stepped. */
  readonly whole: number[];
  /** After all of the text was read at once. */
  readonly read: number[];
  /** After each token from position `prefix` on, stepped. */
  readonly stepped: number[][];
}

async function afterReading(session: Session): Promise<number[]> {
  const row = new Array<number>(architectureVocabulary).fill(-Infinity);
  for await (const { top = [] } of session.generate({ maxTokens: 1, logprobs: architectureVocabulary })) {
    for (const { token, logprob } of top) row[token] = logprob;
  }
  return row;
}

async function predictions(path: string): Promise<WebgpuPredictions> {
  await using model = await loadModel(path, { device: 'webgpu', threads: 2 });
  using whole = model.createSession({ policy: 'exact' });
  await whole.prefill(text.slice(0, -1));
  using read = model.createSession({ policy: 'exact' });
  await read.prefill(text);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill(text.slice(0, Number(prefix)));
  const stepped: number[][] = [];
  for (const token of text.slice(Number(prefix))) stepped.push(logSoftmax(await session.step(token)));
  return { whole: logSoftmax(await whole.step(text.at(-1)!)), read: await afterReading(read), stepped };
}

for (const path of paths) process.stdout.write(`${JSON.stringify(await predictions(path))}\n`);
