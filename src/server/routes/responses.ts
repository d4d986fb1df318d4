import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import type { ChatTurn, GenerateRequest, Usage } from '../engine/protocol.js';
import { type Context, type TextEvent, begin } from '../generation.js';
import { checkModel, commonRequest, formatSchema, joined } from '../request.js';
import { type ResponseBody, errorAnswer, responseAnswer, responseBody } from '../schemas.js';
import { type ServerEvent, sendEvents } from '../sse.js';
import { type ToolCall, type ToolCallReader, type ToolChoice, toolRequest } from '../tools.js';

/** Stateless: nothing of a response is kept, and the client sends the whole conversation. */
export function responsesRoute(app: FastifyInstance, context: Context): void {
  app.post<{ Body: ResponseBody }>('/v1/responses', {
    schema: { summary: 'Answer a conversation, by the Responses interface', body: responseBody, response: { 200: responseAnswer, '4XX': errorAnswer, '5XX': errorAnswer } },
  }, async (request, reply) => {
    const { body } = request;
    checkModel(body.model, context.modelName);
    const { wanted, reader } = responseRequest(body);
    const events = await begin(context, request, reply, wanted);
    const response = new Response(body, context.modelName);
    const steps = happenings(events, response, reader);
    if (body.stream === true) {
      await sendEvents(reply, numbered(steps));
      return reply;
    }
    // Going through all of them leaves the response whole.
    while ((await steps.next()).done !== true);
    return response.spelled();
  });
}

function responseRequest(body: ResponseBody): { wanted: GenerateRequest; reader: ToolCallReader | undefined } {
  const tools = (body.tools ?? []).map(({ name, description, parameters }) => ({ name, description: description ?? undefined, parameters: parameters ?? undefined }));
  const choice: ToolChoice = body.tool_choice ?? 'auto';
  const offered = toolRequest(tools, choice, formatSchema(body.text?.format));
  const said: ChatTurn[] = typeof body.input === 'string' ? [{ role: 'user', content: body.input }] : body.input.map(turn);
  const instructions = typeof body.instructions === 'string' ? [{ role: 'system', content: body.instructions }] : [];
  return {
    wanted: {
      ...commonRequest(body),
      prompt: { kind: 'chat', messages: [...instructions, ...said], tools: offered.tools },
      maxTokens: body.max_output_tokens ?? undefined,
      schema: offered.schema,
    },
    reader: offered.reader,
  };
}

function turn(item: Exclude<ResponseBody['input'], string>[number]): ChatTurn {
  if ('output' in item) return { role: 'tool', content: item.output, tool_call_id: item.call_id };
  if ('call_id' in item) {
    return { role: 'assistant', content: '', tool_calls: [{ id: item.call_id, type: 'function', function: { name: item.name, arguments: parsed(item.arguments) } }] };
  }
  return { role: item.role === 'developer' ? 'system' : item.role, content: joined(item.content) };
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return json;
  }
}

/** The response as it grows. */
class Response {
  readonly #body: ResponseBody;
  readonly #head: { id: string; object: 'response'; created_at: number; model: string };
  readonly output: object[] = [];
  status: 'in_progress' | 'completed' | 'incomplete' = 'in_progress';
  usage: Usage | undefined;

  constructor(body: ResponseBody, model: string) {
    this.#body = body;
    this.#head = { id: `resp_${randomUUID().replaceAll('-', '')}`, object: 'response', created_at: Math.floor(Date.now() / 1000), model };
  }

  spelled() {
    const { instructions, temperature, top_p: topP, max_output_tokens: most, tools, tool_choice: choice } = this.#body;
    return {
      ...this.#head,
      status: this.status,
      error: null,
      incomplete_details: this.status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
      instructions: instructions ?? null,
      max_output_tokens: most ?? null,
      metadata: {},
      output: [...this.output],
      parallel_tool_calls: true,
      previous_response_id: null,
      store: false,
      temperature: temperature ?? 1,
      text: { format: this.#body.text?.format ?? { type: 'text' } },
      tool_choice: choice ?? 'auto',
      tools: tools ?? [],
      top_p: topP ?? 1,
      truncation: 'disabled',
      usage: this.usage === undefined ? null : {
        input_tokens: this.usage.promptTokens,
        input_tokens_details: { cached_tokens: this.usage.reusedTokens },
        output_tokens: this.usage.generatedTokens,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: this.usage.promptTokens + this.usage.generatedTokens,
      },
    };
  }
}

/** What happens to a response, in OpenAI's names; the response is whole at the end. */
async function* happenings(events: AsyncIterable<TextEvent>, response: Response, reader: ToolCallReader | undefined): AsyncGenerator<Happening, void, void> {
  yield { type: 'response.created', response: response.spelled() };
  yield { type: 'response.in_progress', response: response.spelled() };
  const message = new Message();
  let calls: ToolCall[] = [];
  let complete = true;
  for await (const event of events) {
    if (event.kind === 'token') yield* message.grow(reader?.push(event.text) ?? event.text);
    else if (event.kind === 'finished') {
      const end = reader?.end() ?? { text: '', calls: [] };
      ({ calls } = end);
      yield* message.grow(end.text);
      complete = event.reason === 'stop';
    } else response.usage = event.usage;
  }
  if (calls.length === 0) yield* message.begin();
  yield* message.end(complete);
  if (message.begun) response.output.push(message.item(complete ? 'completed' : 'incomplete'));
  for (const call of calls) yield* called(call, response);
  response.status = complete ? 'completed' : 'incomplete';
  yield { type: `response.${response.status}`, response: response.spelled() };
}

interface Happening {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** The message of a response, which is its first item if there is one. */
class Message {
  readonly #id = `msg_${randomUUID().replaceAll('-', '')}`;
  #text = '';
  begun = false;

  item(status: string) {
    return { id: this.#id, type: 'message', role: 'assistant', status, content: status === 'in_progress' ? [] : [this.#part()] };
  }

  *begin(): Generator<Happening, void, void> {
    if (this.begun) return;
    this.begun = true;
    yield { type: 'response.output_item.added', output_index: 0, item: this.item('in_progress') };
    yield { type: 'response.content_part.added', ...this.#place(), part: this.#part() };
  }

  *grow(text: string): Generator<Happening, void, void> {
    if (text === '') return;
    yield* this.begin();
    this.#text += text;
    yield { type: 'response.output_text.delta', ...this.#place(), delta: text, logprobs: [] };
  }

  *end(complete: boolean): Generator<Happening, void, void> {
    if (!this.begun) return;
    yield { type: 'response.output_text.done', ...this.#place(), text: this.#text, logprobs: [] };
    yield { type: 'response.content_part.done', ...this.#place(), part: this.#part() };
    yield { type: 'response.output_item.done', output_index: 0, item: this.item(complete ? 'completed' : 'incomplete') };
  }

  #part() {
    return { type: 'output_text', text: this.#text, annotations: [], logprobs: [] };
  }

  #place() {
    return { item_id: this.#id, output_index: 0, content_index: 0 };
  }
}

function* called(call: ToolCall, response: Response): Generator<Happening, void, void> {
  const place = { item_id: `fc_${randomUUID().replaceAll('-', '')}`, output_index: response.output.length };
  const item = (status: string, values: string) => ({ id: place.item_id, type: 'function_call', status, call_id: call.id, name: call.name, arguments: values });
  yield { type: 'response.output_item.added', output_index: place.output_index, item: item('in_progress', '') };
  yield { type: 'response.function_call_arguments.delta', ...place, delta: call.arguments };
  yield { type: 'response.function_call_arguments.done', ...place, name: call.name, arguments: call.arguments };
  const done = item('completed', call.arguments);
  yield { type: 'response.output_item.done', output_index: place.output_index, item: done };
  response.output.push(done);
}

async function* numbered(steps: AsyncIterable<Happening>): AsyncGenerator<ServerEvent, void, void> {
  let number = 0;
  for await (const step of steps) yield { name: step.type, data: { ...step, sequence_number: number++ } };
}
