// Asks a question about a text file: node examples/ask-a-book.js book.txt "Who is Ishmael?"
import { readFile } from 'node:fs/promises';
import { loadModel } from 'magicpig';

const [file, question] = process.argv.slice(2);
const book = await readFile(file, 'utf8');

const model = await loadModel(process.env.MODEL ?? 'smollm2-135m');
const session = model.createSession();

// Reading is exact; each token of the answer then reads a few percent of the keys.
await session.prefill([{ role: 'user', content: `${book}\n\n${question}` }], {
  onProgress: ({ done, total }) => console.error(`read ${done} of ${total} tokens`),
});
for await (const { text } of session.generate({ maxTokens: 200 })) process.stdout.write(text);

const { keysRead, decodeMsPerToken } = session.stats();
console.error(`\nread ${(100 * keysRead).toFixed(1)}% of the keys, ${decodeMsPerToken.toFixed(1)} ms a token`);

// Frees the sessions too. TypeScript, and JavaScript from Node 24 on, can say `await using model` instead.
await model.dispose();
