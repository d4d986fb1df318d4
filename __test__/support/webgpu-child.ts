// What a model file predicts on WebGPU, as JSON. Arguments: the file, the tokens of a text, and how many of them are read before the others are
// stepped, several times. Of each: ln of probabilities [vocabulary] after each token that was stepped, or after the text if none was.
import { loadModel } from '../../src/index.js';
import { logSoftmax } from './log-probabilities.js';
import { architectureVocabulary } from './tiny-architectures.js';

const [path, tokens, prefixes] = process.argv.slice(2) as [string, string, string];
const text = JSON.parse(tokens) as number[];
await using model = await loadModel(path, { device: 'webgpu', threads: 2, context: text.length + 1 });
const predictions: number[][][] = [];
for (const prefix of JSON.parse(prefixes) as number[]) {
  using session = model.createSession({ policy: 'exact' });
  await session.prefill(text.slice(0, prefix));
  const rows: number[][] = [];
  for (const token of text.slice(prefix)) rows.push(logSoftmax(await session.step(token)));
  if (rows.length === 0) {
    const row = new Array<number>(architectureVocabulary).fill(-Infinity);
    for await (const { top = [] } of session.generate({ maxTokens: 1, logprobs: architectureVocabulary })) {
      for (const { token, logprob } of top) row[token] = logprob;
    }
    rows.push(row);
  }
  predictions.push(rows);
}
process.stdout.write(`${JSON.stringify(predictions)}\n`);
