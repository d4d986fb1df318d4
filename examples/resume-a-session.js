// Reads a text once and keeps it: run it twice, node examples/resume-a-session.js book.kv book.txt "A question?"
import { readFile } from 'node:fs/promises';
import { loadModel } from 'magicpig';

const [folder, file, question] = process.argv.slice(2);
const book = await readFile(file, 'utf8');

const model = await loadModel(process.env.MODEL ?? 'smollm2-135m');
const session = await model.openSession(folder);

// The whole text is given each time, and only what differs from the kept one is read.
await session.prefill([{ role: 'user', content: `${book}\n\n${question}` }], { whole: true });
const { promptTokens, reusedTokens, prefillSeconds } = session.stats();
console.error(`${reusedTokens} of ${promptTokens} tokens were there already; reading the others took ${prefillSeconds.toFixed(2)} s`);

// What is written is kept too: every 16 tokens, and at the end.
for await (const { text } of session.generate({ maxTokens: 200 })) process.stdout.write(text);
console.log();

// Frees the sessions too. TypeScript, and JavaScript from Node 24 on, can say `await using model` instead.
await model.dispose();
