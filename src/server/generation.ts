import type { FastifyReply, FastifyRequest } from 'fastify';
import { MagicpigError } from '../errors.js';
import type { Admission } from './admission.js';
import type { Engine } from './engine/engine.js';
import type { GenerateEvent, GenerateRequest, Report, SpelledLogprob, Usage } from './engine/protocol.js';
import type { Metrics } from './metrics.js';

/** What the routes need of the server. */
export interface Context {
  readonly engine: Engine;
  readonly admission: Admission;
  readonly metrics: Metrics;
  /** What the model is called in requests. */
  readonly modelName: string;
  /** When the model was loaded, in seconds since 1970. */
  readonly created: number;
  /** Aborted when what is being generated has to end. */
  readonly stopping: AbortSignal;
}

export type TextEvent = Exclude<GenerateEvent, { kind: 'started' | 'failed' }>;

/**
 * Waits for a place, and until the model's thread has found the request in order; what the returned iteration yields comes as
 * it is generated. The client going away ends both. Throws what the request is refused with.
 */
export async function begin(context: Context, request: FastifyRequest, reply: FastifyReply, wanted: GenerateRequest): Promise<AsyncIterable<TextEvent>> {
  const { engine, admission, metrics, stopping } = context;
  const started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  const gone = new AbortController();
  const leave = () => { gone.abort(new MagicpigError('ABORTED', 'the client went away')); };
  const stop = () => { gone.abort(new MagicpigError('ABORTED', 'the server is stopping')); };
  const { raw } = reply;
  if (raw.destroyed) leave();
  if (stopping.aborted) stop();
  raw.once('close', leave);
  stopping.addEventListener('abort', stop);
  const forget = () => {
    raw.off('close', leave);
    stopping.removeEventListener('abort', stop);
  };
  let events: AsyncIterableIterator<GenerateEvent>;
  try {
    const exit = await admission.enter(gone.signal);
    metrics.admitted(since());
    try {
      events = engine.generate(wanted, gone.signal, () => {
        exit();
        forget();
      });
    } catch (error) {
      exit();
      throw error;
    }
  } catch (error) {
    forget();
    throw error;
  }
  await events.next();
  return observed(events);

  async function* observed(rest: AsyncIterable<GenerateEvent>): AsyncGenerator<TextEvent, void, void> {
    let first = true;
    for await (const event of rest) {
      if (event.kind === 'started' || event.kind === 'failed') continue;
      if (event.kind === 'token' && first) {
        first = false;
        metrics.firstToken(since());
      }
      if (event.kind === 'done') {
        metrics.generated(event.usage, event.figures);
        request.log.info({ ...event.usage, seconds: since() }, 'generated');
      }
      yield event;
    }
  }
}

/** A generation in one piece. */
export interface Generated {
  readonly choices: { text: string; reason: 'stop' | 'length'; tokens: { logprob: SpelledLogprob; top: readonly SpelledLogprob[] }[] }[];
  readonly usage: Usage;
  readonly report?: Report | undefined;
}

export async function collected(events: AsyncIterable<TextEvent>, count: number): Promise<Generated> {
  const choices: Generated['choices'] = Array.from({ length: count }, () => ({ text: '', reason: 'length', tokens: [] }));
  let usage: Usage = { promptTokens: 0, reusedTokens: 0, generatedTokens: 0 };
  let report: Report | undefined;
  for await (const event of events) {
    if (event.kind === 'done') ({ usage, report } = event);
    else {
      const choice = choices[event.choice];
      if (choice === undefined) continue;
      if (event.kind === 'finished') choice.reason = event.reason;
      else {
        choice.text += event.text;
        if (event.logprob !== undefined) choice.tokens.push({ logprob: event.logprob, top: event.top ?? [] });
      }
    }
  }
  return { choices, usage, report };
}

/** As OpenAI's interfaces spell it, but for responses. */
export function spelledUsage({ promptTokens, reusedTokens, generatedTokens }: Usage) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: generatedTokens,
    total_tokens: promptTokens + generatedTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  };
}
