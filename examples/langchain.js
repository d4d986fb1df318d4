// LangChain.js with a server of magicpig: npx magicpig serve --sessions-dir sessions, then node examples/langchain.js book.txt "A question?"
import { readFile } from 'node:fs/promises';
import { StringOutputParser } from '@langchain/core/output_parsers';
import { ChatPromptTemplate } from '@langchain/core/prompts';
import { ChatOpenAI } from '@langchain/openai';

const [file, question] = process.argv.slice(2);
const model = new ChatOpenAI({
  temperature: 0,
  model: process.env.MODEL ?? 'smollm2-135m',
  apiKey: process.env.MAGICPIG_API_KEY ?? 'none',
  configuration: { baseURL: process.env.BASE_URL ?? 'http://127.0.0.1:8080/v1' },
  maxTokens: 100,
  // Fields of the server's own: the text is kept under this name, and read once.
  modelKwargs: { session_id: 'langchain' },
});
const chain = ChatPromptTemplate.fromMessages([['human', '{book}\n\n{question}']]).pipe(model).pipe(new StringOutputParser());

for await (const text of await chain.stream({ book: await readFile(file, 'utf8'), question })) process.stdout.write(text);
console.log();
