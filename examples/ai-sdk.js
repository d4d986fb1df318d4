// The AI SDK with a server of magicpig: npx magicpig serve, then node examples/ai-sdk.js "Name three rivers."
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { Output, generateText, streamText } from 'ai';
import { z } from 'zod';

const [prompt] = process.argv.slice(2);
const magicpig = createOpenAICompatible({
  name: 'magicpig',
  baseURL: process.env.BASE_URL ?? 'http://127.0.0.1:8080/v1',
  apiKey: process.env.MAGICPIG_API_KEY ?? 'none',
  supportsStructuredOutputs: true,
});
const model = magicpig(process.env.MODEL ?? 'smollm2-135m');

for await (const text of streamText({ model, prompt, maxOutputTokens: 100, temperature: 0 }).textStream) process.stdout.write(text);

// An answer that is an object of a schema, whatever the model would rather say.
const schema = z.object({ sentiment: z.enum(['good', 'bad', 'neither']) });
const { output } = await generateText({ model, prompt: `Is this good or bad? ${prompt}`, output: Output.object({ schema }) });
console.log('\n', output);
