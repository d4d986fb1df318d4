import { randomInt } from 'node:crypto';
import type { Attention, GenerateRequest } from './engine/protocol.js';
import { ApiError } from './errors.js';

/** What the three interfaces have in common, as their bodies spell it. */
interface Spelled {
  readonly temperature?: number | null | undefined;
  readonly top_p?: number | null | undefined;
  readonly top_k?: number | null | undefined;
  readonly min_p?: number | null | undefined;
  readonly repetition_penalty?: number | null | undefined;
  readonly seed?: number | null | undefined;
  readonly session_id?: string | null | undefined;
  readonly n?: number | null | undefined;
  readonly stop?: string | readonly string[] | null | undefined;
  readonly attention?: SpelledAttention | null | undefined;
}

/** As bodies spell {@link Attention}. */
interface SpelledAttention extends Omit<Attention, 'targetError' | 'denseLayers'> {
  readonly target_error?: number | undefined;
  readonly dense_layers?: readonly number[] | undefined;
}

/** The common part of a request, with defaults: OpenAI's where it has one. */
export function commonRequest(body: Spelled): Omit<GenerateRequest, 'prompt' | 'schema' | 'logprobs' | 'maxTokens' | 'report'> {
  const { temperature, top_p: topP, top_k: topK, min_p: minP, repetition_penalty: repetitionPenalty, seed, session_id: session, n, stop, attention } = body;
  return {
    session: session ?? undefined,
    choices: n ?? 1,
    stop: typeof stop === 'string' ? [stop] : (stop ?? []),
    // Clients' seeds have up to 53 bits, and the sampler's 32.
    seed: seed === null || seed === undefined ? randomInt(2 ** 32) : seed >>> 0,
    temperature: temperature ?? 1,
    topP: topP ?? 1,
    topK: topK ?? 0,
    minP: minP ?? 0,
    repetitionPenalty: repetitionPenalty ?? 1,
    attention: attention ? attentionFrom(attention) : undefined,
  };
}

function attentionFrom({ target_error: targetError, dense_layers: denseLayers, ...rest }: SpelledAttention): Attention {
  return { ...rest, targetError, denseLayers };
}

/** A text in one piece. */
export function joined(content: string | readonly { readonly text: string }[] | null | undefined): string {
  return typeof content === 'string' ? content : (content ?? []).map(({ text }) => text).join('');
}

/** What a text is held to by a `response_format`. */
export function formatSchema(format: { readonly type: string; readonly schema?: object | undefined } | null | undefined): object | undefined {
  if (format?.type === 'json_object') return { type: 'object' };
  return format?.type === 'json_schema' ? format.schema : undefined;
}

export function checkModel(asked: string, name: string): void {
  if (asked === name) return;
  throw new ApiError(404, 'model_not_found', `there is no such model here; this server has ${JSON.stringify(name)}`, { param: 'model' });
}
