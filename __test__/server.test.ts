// The server as two widespread clients see it.
/* eslint-disable @typescript-eslint/no-deprecated -- OpenAI itself advises against `seed`; here it does what it says. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from 'ai';
import test from 'ava';
import OpenAI from 'openai';
import { z } from 'zod';

import { apiKey, eventually, longAnswer, metric, runningServer } from './support/server.js';
import type { RunningServer } from './support/server.js';

let running: RunningServer;
let openai: OpenAI;
test.before(async () => {
  running = await runningServer({ parallel: 2, queue: 2 });
  openai = new OpenAI({ apiKey, baseURL: `${running.server.url}/v1`, maxRetries: 0 });
});
test.after.always(async () => {
  await running[Symbol.asyncDispose]();
});

const model = 'tiny';
const messages = [{ role: 'user' as const, content: 'hello' }];
const weather = {
  type: 'function' as const,
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { enum: ['Paris', 'Rome'] } }, required: ['city'], additionalProperties: false } },
};
const person = z.object({ name: z.enum(['Ada', 'Alan']), known: z.boolean() });

/** Requests that need all places wait for each other. */
test.serial('openai: a stream has the text of the answer in one piece, and the usage at its end', async (t) => {
  const request = { model, messages, max_completion_tokens: 12, seed: 3 };
  const whole = await openai.chat.completions.create(request);
  const chunks = [];
  for await (const chunk of await openai.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  t.is(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), whole.choices[0]!.message.content!);
  t.is(chunks.at(-2)!.choices[0]!.finish_reason, whole.choices[0]!.finish_reason);
  t.like(chunks.at(-1), { choices: [], usage: { prompt_tokens: whole.usage!.prompt_tokens, completion_tokens: whole.usage!.completion_tokens } });
  t.true(chunks.slice(0, -1).every(({ usage }) => usage === null));
  const other = await openai.chat.completions.create({ ...request, seed: 4 });
  t.not(other.choices[0]!.message.content, whole.choices[0]!.message.content);
});

test.serial('openai: choices go on from the same text by seeds of their own', async (t) => {
  const { choices, usage } = await openai.chat.completions.create({ model, messages, max_completion_tokens: 8, seed: 10, n: 3 });
  t.is(new Set(choices.map(({ message }) => message.content)).size, 3);
  const second = await openai.chat.completions.create({ model, messages, max_completion_tokens: 8, seed: 11 });
  t.is(choices[1]!.message.content, second.choices[0]!.message.content);
  t.true(usage!.completion_tokens <= 24);
});

test.serial('openai: a stop text ends the answer and is not in it', async (t) => {
  const request = { model, prompt: 'hello', max_tokens: 40, seed: 5 };
  const { choices: [free] } = await openai.completions.create(request);
  const stop = free!.text.slice(4, 6);
  const { choices: [stopped] } = await openai.completions.create({ ...request, stop: [stop] });
  t.like(stopped, { text: free!.text.slice(0, free!.text.indexOf(stop)), finish_reason: 'stop' });
});

test.serial('openai: log-probabilities are those of the tokens that came, and sum to no more than one', async (t) => {
  const { choices: [choice] } = await openai.chat.completions.create({ model, messages, max_completion_tokens: 6, temperature: 0, logprobs: true, top_logprobs: 20 });
  const tokens = choice!.logprobs!.content!;
  t.true(tokens.length > 0);
  for (const { token, logprob, top_logprobs: top } of tokens) {
    t.is(top.length, 20);
    t.is(top[0]!.token, token);
    t.is(top[0]!.logprob, logprob);
    t.deepEqual(top.map((one) => one.logprob), top.map((one) => one.logprob).toSorted((a, b) => b - a));
    t.true(top.reduce((sum, one) => sum + Math.exp(one.logprob), 0) <= 1);
  }
  t.is(new TextDecoder().decode(Uint8Array.from(tokens.flatMap(({ bytes }) => bytes!))), choice!.message.content!);
  const { choices: [completion] } = await openai.completions.create({ model, prompt: 'hello', max_tokens: 3, temperature: 0, logprobs: 2 });
  t.is(completion!.logprobs!.tokens!.length, completion!.logprobs!.top_logprobs!.length);
});

test.serial('openai: an answer held to a schema is JSON of it, whatever the weights', async (t) => {
  for (const seed of [1, 2, 3]) {
    const { choices: [choice] } = await openai.chat.completions.create({
      model, messages, seed, temperature: 2,
      response_format: { type: 'json_schema', json_schema: { name: 'person', strict: true, schema: z.toJSONSchema(person) } },
    });
    t.notThrows(() => person.parse(JSON.parse(choice!.message.content!)), choice!.message.content!);
    t.is(choice!.finish_reason, 'stop');
  }
  // Without it they write no JSON.
  const { choices: [free] } = await openai.chat.completions.create({ model, messages, seed: 1, max_completion_tokens: 20 });
  t.throws(() => JSON.parse(free!.message.content!) as unknown);
});

test.serial('openai: a tool that must be called is, in a stream too, and its result can be told', async (t) => {
  const request = { model, messages, tools: [weather], tool_choice: 'required' as const, seed: 1 };
  const { choices: [choice] } = await openai.chat.completions.create(request);
  t.is(choice!.finish_reason, 'tool_calls');
  const [call] = choice!.message.tool_calls!;
  t.like(call, { type: 'function', function: { name: 'weather' } });
  const values = call!.type === 'function' ? call!.function.arguments : '';
  t.regex(values, /^\{"city":"(Paris|Rome)"\}$/);
  const stream = openai.chat.completions.stream(request);
  t.like((await stream.finalChatCompletion()).choices[0]!.message.tool_calls![0], { type: 'function', function: { name: 'weather', arguments: values } });
  const after = await openai.chat.completions.create({
    model, max_completion_tokens: 5,
    messages: [...messages, choice!.message, { role: 'tool', tool_call_id: call!.id, content: 'sunny' }],
  });
  t.is(after.object, 'chat.completion');
});

test.serial('openai: responses, in one piece and as events', async (t) => {
  const request = { model, input: 'hello', instructions: 'be short', max_output_tokens: 10 };
  const response = await openai.responses.create({ ...request, temperature: 0 });
  t.true(response.output_text.length > 0);
  t.true(response.usage!.output_tokens > 0);
  const events = [];
  for await (const event of await openai.responses.create({ ...request, temperature: 0, stream: true })) events.push(event);
  t.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
  t.is(events.flatMap((event) => (event.type === 'response.output_text.delta' ? [event.delta] : [])).join(''), response.output_text);
  const last = events.at(-1)!;
  t.true((last.type === 'response.completed' || last.type === 'response.incomplete') && last.response.status === response.status);
  const { name, parameters } = weather.function;
  const called = await openai.responses.create({ model, input: 'hello', tools: [{ type: 'function', name, parameters, strict: true }], tool_choice: 'required' });
  t.like(called.output[0], { type: 'function_call', name: 'weather' });
});

test.serial('openai: refusals arrive as the errors that they are', async (t) => {
  await t.throwsAsync(openai.chat.completions.create({ model: 'other', messages }), { instanceOf: OpenAI.NotFoundError, message: /model/ });
  await t.throwsAsync(new OpenAI({ apiKey: 'wrong', baseURL: openai.baseURL, maxRetries: 0 }).models.list(), { instanceOf: OpenAI.AuthenticationError });
  const long = await t.throwsAsync(openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'x'.repeat(3000) }] }), { instanceOf: OpenAI.BadRequestError });
  t.like(long, { code: 'context_length_exceeded', type: 'invalid_request_error' });
  // Also where the answer was to be a stream.
  await t.throwsAsync(openai.completions.create({ model, prompt: [9999], stream: true }), { instanceOf: OpenAI.BadRequestError });
  const schema = { type: 'json_schema' as const, json_schema: { name: 'x', schema: { type: 'nothing' } } };
  t.like(await t.throwsAsync(openai.chat.completions.create({ model, messages, response_format: schema })), { status: 400, code: 'invalid_schema', param: 'response_format' });
});

test.serial('a client that goes away ends its generation, which leaves the session usable', async (t) => {
  const before = await metric(running.server, 'magicpig_tokens_total{kind="generated"}');
  for (const session_id of [undefined, 'aborted']) {
    const stream = await openai.chat.completions.create({ model, messages, ...longAnswer, stream: true, ...(session_id !== undefined && { session_id }) });
    const chunks = stream[Symbol.asyncIterator]();
    for (let i = 0; i < 5; i += 1) await chunks.next();
    stream.controller.abort();
    await eventually(async () => (await metric(running.server, 'magicpig_requests_running')) === 0 && (await metric(running.server, 'magicpig_sessions{kind="busy"}')) === 0);
  }
  t.is(await metric(running.server, 'magicpig_tokens_total{kind="generated"}'), before, 'none of them was generated to its end');
  const again = await openai.chat.completions.create({ model, messages, max_completion_tokens: 2, ...{ session_id: 'aborted' } });
  t.true(again.usage!.prompt_tokens_details!.cached_tokens! > 0);
});

test.serial('what was read for one request is not read again for the next that begins with it', async (t) => {
  const talk = [{ role: 'user' as const, content: 'a conversation '.repeat(20) }];
  const first = await openai.chat.completions.create({ model, messages: talk, max_completion_tokens: 4 });
  const { usage } = await openai.chat.completions.create({ model, messages: [...talk, first.choices[0]!.message, { role: 'user', content: 'go on' }], max_completion_tokens: 4 });
  t.true(usage!.prompt_tokens_details!.cached_tokens! >= first.usage!.prompt_tokens - 20, JSON.stringify(usage));
  const other = await openai.chat.completions.create({ model, messages: [{ role: 'system', content: 'something else' }], max_completion_tokens: 4 });
  t.true(other.usage!.prompt_tokens_details!.cached_tokens! < 20);
});

test.serial('a named session is one request’s at a time, listed, and gone when removed', async (t) => {
  const named = { session_id: 'long_talk-1' };
  const stream = await openai.chat.completions.create({ model, messages, ...longAnswer, ...named, stream: true });
  const chunks = stream[Symbol.asyncIterator]();
  await chunks.next();
  t.like(await t.throwsAsync(openai.chat.completions.create({ model, messages, ...named })), { status: 409, code: 'session_busy' });
  stream.controller.abort();
  await eventually(async () => (await metric(running.server, 'magicpig_sessions{kind="busy"}')) === 0);
  const headers = { authorization: `Bearer ${apiKey}` };
  const sessions = `${running.server.url}/v1/sessions`;
  const { data } = (await (await fetch(sessions, { headers })).json()) as { data: { id: string; tokens: number }[] };
  t.true(data.find(({ id }) => id === 'long_talk-1')!.tokens > 0);
  t.is((await fetch(`${sessions}/long_talk-1`, { method: 'DELETE', headers })).status, 200);
  t.is((await fetch(`${sessions}/long_talk-1`, { method: 'DELETE', headers })).status, 404);
});

test.serial('requests beyond places and queue are told when to come back, the others are answered', async (t) => {
  const leave = new AbortController();
  const stay = Array.from({ length: 2 }, () => openai.chat.completions.create({ model, messages, ...longAnswer }, leave));
  const ended = Promise.allSettled(stay);
  await eventually(async () => (await metric(running.server, 'magicpig_requests_running')) === 2);
  const request = { model, messages, max_completion_tokens: 2 };
  const wait = Array.from({ length: 2 }, () => openai.chat.completions.create(request));
  await eventually(async () => (await metric(running.server, 'magicpig_queue_length')) === 2);
  for (let number = 0; number < 3; number += 1) {
    const error = await t.throwsAsync<InstanceType<typeof OpenAI.APIError>>(openai.chat.completions.create(request));
    t.like(error, { status: 503, code: 'overloaded' });
    t.true(Number(error.headers!.get('retry-after')) >= 1);
  }
  leave.abort();
  await ended;
  for (const { choices } of await Promise.all(wait)) t.is(choices.length, 1);
});

test.serial('eight streams at once have the texts that each has alone', async (t) => {
  const read = async ({ server }: RunningServer, number: number) => {
    const client = new OpenAI({ apiKey, baseURL: `${server.url}/v1`, maxRetries: 0 });
    const prompt = `${String.fromCharCode(97 + number)} text `.repeat(1 + 30 * number);
    let text = '';
    for await (const chunk of await client.completions.create({ model, prompt, max_tokens: 40, temperature: 0, stream: true })) text += chunk.choices[0]?.text ?? '';
    return text;
  };
  // Servers of their own: a session that has read a text before has an index that grew otherwise.
  await using quiet = await runningServer({ parallel: 8 });
  const alone: string[] = [];
  for (let number = 0; number < 8; number += 1) alone.push(await read(quiet, number));
  // All at once: they begin to write one after the other, as their texts have been read, and end at their own times.
  await using busy = await runningServer({ parallel: 8 });
  t.deepEqual(await Promise.all(alone.map(async (_, number) => read(busy, number))), alone);
  // Negative control: a row that is another's is noticed.
  t.is(new Set(alone).size, 8);
});

test.serial('ai: text, a stream, an object, a tool and its result, an abort and an error', async (t) => {
  const tiny = createOpenAICompatible({ name: 'magicpig', baseURL: openai.baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true })(model);
  const settings = { model: tiny, prompt: 'hello', seed: 3, maxRetries: 0 };
  const { text, usage } = await generateText({ ...settings, maxOutputTokens: 10 });
  t.true(text.length > 0 && usage.outputTokens! <= 10);

  const streamed = streamText({ ...settings, maxOutputTokens: 10 });
  let parts = '';
  for await (const part of streamed.textStream) parts += part;
  t.is(parts, text);
  t.is((await streamed.usage).inputTokens, usage.inputTokens);

  const { output } = await generateText({ ...settings, output: Output.object({ schema: person }) });
  t.notThrows(() => person.parse(output));

  const cities: string[] = [];
  const weatherTool = tool({ inputSchema: z.object({ city: z.enum(['Paris', 'Rome']) }), execute: ({ city }) => {
    cities.push(city);
    return 'sunny';
  } });
  const used = await generateText({
    ...settings, tools: { weather: weatherTool }, stopWhen: stepCountIs(2), maxOutputTokens: 60,
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
  });
  t.is(cities.length, 1);
  t.is(used.steps.length, 2);

  const controller = new AbortController();
  const aborted = streamText({ ...settings, abortSignal: controller.signal, onError: () => undefined });
  for await (const part of aborted.fullStream) if (part.type === 'text-delta') controller.abort();
  await eventually(async () => (await metric(running.server, 'magicpig_requests_running')) === 0);

  const error = await t.throwsAsync(generateText({ ...settings, prompt: 'x'.repeat(3000) }));
  t.true(APICallError.isInstance(error) && error.statusCode === 400);
});
