import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import type { GenerateRequest, PromptInput, SpelledLogprob, Usage } from '../engine/protocol.js';
import { ApiError } from '../errors.js';
import { type Context, type TextEvent, begin, collected, spelledUsage } from '../generation.js';
import { checkModel, commonRequest } from '../request.js';
import { type CompletionBody, completionAnswer, completionBody, errorAnswer } from '../schemas.js';
import { type ServerEvent, sendEvents } from '../sse.js';

const DEFAULT_MAX_TOKENS = 16;

/** A continuation of one of the prompts. */
type Begun = (prompt: PromptInput) => Promise<AsyncIterable<TextEvent>>;

export function completionsRoute(app: FastifyInstance, context: Context): void {
  app.post<{ Body: CompletionBody }>('/v1/completions', {
    schema: { summary: 'Continue a text', body: completionBody, response: { 200: completionAnswer, '4XX': errorAnswer, '5XX': errorAnswer } },
  }, async (request, reply) => {
    const { body } = request;
    checkModel(body.model, context.modelName);
    const prompts = promptsOf(body);
    if (prompts.length > 1 && typeof body.session_id === 'string') {
      throw new ApiError(400, 'unsupported_combination', 'a session is one text; send one prompt', { param: 'session_id' });
    }
    const common: Omit<GenerateRequest, 'prompt'> = { ...commonRequest(body), maxTokens: body.max_tokens ?? DEFAULT_MAX_TOKENS, logprobs: body.logprobs ?? undefined };
    const next: Begun = (prompt) => begin(context, request, reply, { ...common, prompt });
    const head = { id: `cmpl-${randomUUID()}`, object: 'text_completion' as const, created: Math.floor(Date.now() / 1000), model: context.modelName };
    const [first, ...others] = prompts;
    if (first === undefined) throw new ApiError(400, 'empty_prompt', 'there is no prompt', { param: 'prompt' });
    const begun = await next(first);
    if (body.stream === true) {
      await sendEvents(reply, chunks(begun, others, next, common.choices, head, body.stream_options?.include_usage === true), '[DONE]');
      return reply;
    }
    return { ...head, ...(await answers(begun, others, next, common.choices)) };
  });
}

function promptsOf({ prompt }: CompletionBody): PromptInput[] {
  if (typeof prompt === 'string') return [{ kind: 'text', text: prompt }];
  if (isTokens(prompt)) return [{ kind: 'tokens', tokens: prompt }];
  return prompt.map((one) => (typeof one === 'string' ? { kind: 'text', text: one } : { kind: 'tokens', tokens: one }));
}

function isTokens(prompt: readonly unknown[]): prompt is readonly number[] {
  return typeof prompt[0] === 'number';
}

async function answers(begun: AsyncIterable<TextEvent>, others: readonly PromptInput[], next: Begun, count: number) {
  const choices = [];
  let usage: Usage = { promptTokens: 0, reusedTokens: 0, generatedTokens: 0 };
  for (let at = 0, events = begun; ;) {
    const generated = await collected(events, count);
    usage = sum(usage, generated.usage);
    for (const { text, reason, tokens } of generated.choices) {
      const offsets = new Offsets();
      const logprobs = tokens.length === 0 ? null : spelled(tokens.map(({ logprob, top }) => ({ logprob, top, offset: offsets.of(logprob) })));
      choices.push({ index: choices.length, text, logprobs, finish_reason: reason });
    }
    const prompt = others[at++];
    if (prompt === undefined) return { choices, usage: spelledUsage(usage) };
    events = await next(prompt);
  }
}

async function* chunks(begun: AsyncIterable<TextEvent>, others: readonly PromptInput[], next: Begun, count: number, head: object, includeUsage: boolean): AsyncGenerator<ServerEvent, void, void> {
  let usage: Usage = { promptTokens: 0, reusedTokens: 0, generatedTokens: 0 };
  for (let at = 0, events = begun; ; at += 1) {
    const offsets = Array.from({ length: count }, () => new Offsets());
    const chunk = (choice: number, text: string, logprobs: object | null, finish: string | null): ServerEvent => ({
      data: { ...head, choices: [{ index: at * count + choice, text, logprobs, finish_reason: finish }], ...(includeUsage && { usage: null }) },
    });
    for await (const event of events) {
      if (event.kind === 'done') usage = sum(usage, event.usage);
      else if (event.kind === 'finished') yield chunk(event.choice, '', null, event.reason);
      else {
        const { choice, text, logprob, top = [] } = event;
        const logprobs = logprob === undefined ? null : spelled([{ logprob, top, offset: offsets[choice]?.of(logprob) ?? 0 }]);
        if (text !== '' || logprobs !== null) yield chunk(choice, text, logprobs, null);
      }
    }
    const prompt = others[at];
    if (prompt === undefined) break;
    events = await next(prompt);
  }
  if (includeUsage) yield { data: { ...head, choices: [], usage: spelledUsage(usage) } };
}

/** Where tokens begin in the text that was generated, in characters. */
class Offsets {
  #next = 0;

  of({ token }: SpelledLogprob): number {
    const offset = this.#next;
    this.#next += token.length;
    return offset;
  }
}

function spelled(tokens: readonly { logprob: SpelledLogprob; top: readonly SpelledLogprob[]; offset: number }[]) {
  return {
    tokens: tokens.map(({ logprob }) => logprob.token),
    token_logprobs: tokens.map(({ logprob }) => logprob.logprob),
    top_logprobs: tokens.map(({ top }) => Object.fromEntries(top.map(({ token, logprob }) => [token, logprob]))),
    text_offset: tokens.map(({ offset }) => offset),
  };
}

function sum(a: Usage, b: Usage): Usage {
  return {
    promptTokens: a.promptTokens + b.promptTokens,
    reusedTokens: a.reusedTokens + b.reusedTokens,
    generatedTokens: a.generatedTokens + b.generatedTokens,
  };
}
