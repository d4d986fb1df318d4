import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import type { ChatTurn, GenerateRequest, SpelledLogprob } from '../engine/protocol.js';
import { ApiError } from '../errors.js';
import { type Context, type Generated, type TextEvent, begin, collected, spelledUsage } from '../generation.js';
import { checkModel, commonRequest, formatSchema, joined } from '../request.js';
import { spelledReport } from '../report.js';
import { type ChatBody, chatAnswer, chatBody, errorAnswer } from '../schemas.js';
import { type ServerEvent, sendEvents } from '../sse.js';
import { type ToolCall, type ToolCallReader, type ToolChoice, toolRequest } from '../tools.js';

/** Bins into which a report cuts a text: about as many as a screen has columns of pixels for. */
const DEFAULT_BINS = 512;

export function chatRoute(app: FastifyInstance, context: Context): void {
  app.post<{ Body: ChatBody }>('/v1/chat/completions', {
    schema: { summary: 'Answer a conversation', body: chatBody, response: { 200: chatAnswer, '4XX': errorAnswer, '5XX': errorAnswer } },
  }, async (request, reply) => {
    const { body } = request;
    checkModel(body.model, context.modelName);
    const { wanted, readers } = chatRequest(body);
    const events = await begin(context, request, reply, wanted);
    const head = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: context.modelName };
    if (body.stream === true) {
      await sendEvents(reply, chunks(events, head, readers, body.stream_options?.include_usage === true), '[DONE]');
      return reply;
    }
    return answer(await collected(events, wanted.choices), head, readers);
  });
}

interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
}

/** One reader of tool calls a choice, or none. */
type Readers = readonly (ToolCallReader | undefined)[];

function chatRequest(body: ChatBody): { wanted: GenerateRequest; readers: Readers } {
  const { response_format: format, logprobs, top_logprobs: top } = body;
  if (typeof top === 'number' && logprobs !== true) throw new ApiError(400, 'invalid_value', 'top_logprobs needs logprobs to be true', { param: 'top_logprobs' });
  if (body.report && (body.n ?? 1) > 1) throw new ApiError(400, 'unsupported_combination', 'a report is of one answer; leave n at 1', { param: 'report' });
  const schema = formatSchema(format?.type === 'json_schema' ? { type: format.type, schema: format.json_schema.schema } : format);
  const tools = (body.tools ?? []).map(({ function: { name, description, parameters } }) => ({ name, description: description ?? undefined, parameters: parameters ?? undefined }));
  const asked = body.tool_choice ?? 'auto';
  const choice: ToolChoice = typeof asked === 'string' ? asked : asked.function;
  const common = commonRequest(body);
  const offered = Array.from({ length: common.choices }, () => toolRequest(tools, choice, schema));
  const [first] = offered;
  return {
    wanted: {
      ...common,
      prompt: { kind: 'chat', messages: body.messages.map(turn), tools: first?.tools ?? [] },
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? undefined,
      logprobs: logprobs === true ? (top ?? 0) : undefined,
      schema: first?.schema,
      report: body.report ? { bins: body.report.bins ?? DEFAULT_BINS } : undefined,
    },
    readers: offered.map(({ reader }) => reader),
  };
}

function turn(message: ChatBody['messages'][number]): ChatTurn {
  const content = joined(message.content);
  switch (message.role) {
    case 'assistant': {
      const calls = (message.tool_calls ?? []).map(({ id, type, function: { name, arguments: values } }) => ({ id, type, function: { name, arguments: parsed(values) } }));
      return { role: 'assistant', content, ...(calls.length > 0 && { tool_calls: calls }) };
    }
    case 'tool':
      return { role: 'tool', content, tool_call_id: message.tool_call_id };
    case 'developer':
      return { role: 'system', content };
    default:
      return { role: message.role, content };
  }
}

/** Templates write arguments as the object that they are. */
function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return json;
  }
}

function answer({ choices, usage, report }: Generated, head: Head, readers: Readers) {
  return {
    ...head,
    object: 'chat.completion' as const,
    choices: choices.map(({ text, reason, tokens }, index) => {
      const { content, calls } = whole(text, readers[index]);
      return {
        index,
        message: { role: 'assistant' as const, content, refusal: null, ...(calls.length > 0 && { tool_calls: calls.map(spelledCall) }) },
        logprobs: tokens.length === 0 ? null : { content: tokens.map(({ logprob, top }) => ({ ...logprob, top_logprobs: top })), refusal: null },
        finish_reason: calls.length > 0 && reason === 'stop' ? ('tool_calls' as const) : reason,
      };
    }),
    usage: spelledUsage(usage),
    ...(report && { report: spelledReport(report) }),
  };
}

function whole(text: string, reader: ToolCallReader | undefined): { content: string | null; calls: ToolCall[] } {
  if (reader === undefined) return { content: text, calls: [] };
  const shown = reader.push(text);
  const { text: rest, calls } = reader.end();
  const content = shown + rest;
  return { content: content === '' && calls.length > 0 ? null : content, calls };
}

function spelledCall({ id, name, arguments: values }: ToolCall) {
  return { id, type: 'function' as const, function: { name, arguments: values } };
}

async function* chunks(events: AsyncIterable<TextEvent>, head: Head, readers: Readers, includeUsage: boolean): AsyncGenerator<ServerEvent, void, void> {
  const begun = new Set<number>();
  const chunk = (index: number, delta: object, finish: string | null, logprobs: object | null = null): ServerEvent => ({
    data: {
      ...head,
      object: 'chat.completion.chunk',
      choices: [{ index, delta, logprobs, finish_reason: finish }],
      ...(includeUsage && { usage: null }),
    },
  });
  for await (const event of events) {
    if (event.kind === 'done') {
      const { usage, report } = event;
      if (!includeUsage && report === undefined) continue;
      yield {
        data: {
          ...head,
          object: 'chat.completion.chunk',
          choices: [],
          ...(includeUsage && { usage: spelledUsage(usage) }),
          ...(report && { report: spelledReport(report) }),
        },
      };
      continue;
    }
    const { choice } = event;
    const reader = readers[choice];
    if (!begun.has(choice)) yield chunk(choice, { role: 'assistant', content: '' }, null);
    begun.add(choice);
    if (event.kind === 'token') {
      const text = reader?.push(event.text) ?? event.text;
      const logprobs = event.logprob === undefined ? null : logprobsChunk(event.logprob, event.top ?? []);
      if (text !== '' || logprobs !== null) yield chunk(choice, { content: text }, null, logprobs);
      continue;
    }
    const { text, calls } = reader?.end() ?? { text: '', calls: [] };
    if (text !== '') yield chunk(choice, { content: text }, null);
    for (const [index, call] of calls.entries()) yield chunk(choice, { tool_calls: [{ index, ...spelledCall(call) }] }, null);
    yield chunk(choice, {}, calls.length > 0 && event.reason === 'stop' ? 'tool_calls' : event.reason);
  }
}

function logprobsChunk(logprob: SpelledLogprob, top: readonly SpelledLogprob[]) {
  return { content: [{ ...logprob, top_logprobs: top }], refusal: null };
}
