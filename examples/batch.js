// Answers many questions about one text, which is read once: node examples/batch.js book.txt < questions.txt > answers.jsonl
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { loadModel } from 'magicpig';

const [file] = process.argv.slice(2);

const model = await loadModel(process.env.MODEL ?? 'smollm2-135m');
const session = model.createSession();

await session.prefill(`${await readFile(file, 'utf8')}\n\n`);
const length = session.tokens.length;

for await (const question of createInterface({ input: process.stdin })) {
  await session.prefill(`Question: ${question}\nAnswer:`);
  let answer = '';
  for await (const { text } of session.generate({ maxTokens: 60, stop: '\n' })) answer += text;
  console.log(JSON.stringify({ question, answer: answer.trim() }));
  // Back to the end of the text, for the next question.
  session.rewind(length);
}

// Frees the sessions too. TypeScript, and JavaScript from Node 24 on, can say `await using model` instead.
await model.dispose();
