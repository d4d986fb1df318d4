// ln of the probabilities that llama.cpp gives every token after each token of a text, as JSON on stdout: [models][positions][vocabulary].
//
//     npm install --ignore-scripts && node log-probabilities.mjs 11,48,22 MODEL.gguf...
//
// The KV cache is f32 and flash attention off, which is llama.cpp at its most exact.
import { getLlama } from 'node-llama-cpp';

const [text, ...paths] = process.argv.slice(2);
const tokens = text.split(',').map(Number);
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 2, logLevel: 'error' });

async function logProbabilities(modelPath) {
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({
    contextSize: tokens.length + 8,
    threads: 2,
    flashAttention: false,
    experimentalKvCacheKeyType: 'F32',
    experimentalKvCacheValueType: 'F32',
  });
  const wanted = { generateNext: { logits: true } };
  const outputs = await context.getSequence().controlledEvaluate(tokens.map((token) => [token, wanted]));
  await context.dispose();
  await model.dispose();
  return outputs.map(({ next }) => {
    const logits = new Float64Array(next.logits.size);
    for (const [token, logit] of next.logits) logits[token] = logit;
    const greatest = Math.max(...logits);
    const logarithm = greatest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0));
    return Array.from(logits, (logit) => logit - logarithm);
  });
}

const models = [];
for (const path of paths) models.push(await logProbabilities(path));
process.stdout.write(JSON.stringify(models), () => process.exit(0));
