import type { Model } from '../../decode/model.js';
import type { GeneratedToken, Session } from '../../decode/session.js';
import { MagicpigError } from '../../errors.js';
import type { NamedSessions } from './named.js';
import type { SessionPool } from './pool.js';
import { promptTokens } from './prompt.js';
import type { GenerateEvent, GenerateRequest, GenerationFigures, SpelledLogprob, Usage } from './protocol.js';
import { sizes } from './sizes.js';
import type { Turn, TurnKind, Turns } from './turns.js';

/** What requests share. */
export interface Shared {
  readonly model: Model;
  readonly pool: SessionPool;
  readonly named: NamedSessions;
  readonly turns: Turns;
}

/**
 * Works on one request from its text to its last token, and tells what happens. Each chunk of reading is a turn, and so is each token
 * of writing, which all requests that are writing have together: the model takes their tokens as a batch. What other requests do leaves
 * no trace in its text.
 */
export async function generate(shared: Shared, request: GenerateRequest, signal: AbortSignal, tell: (event: GenerateEvent) => void): Promise<void> {
  const turn = shared.turns.join();
  try {
    // Reading a long text's letters is work too.
    const tokens = await during(turn, signal, () => {
      using _ = request.schema === undefined ? undefined : shared.model.jsonConstraint(request.schema);
      return promptTokens(shared.model, request.prompt);
    });
    const lease = request.session === undefined ? shared.pool.take(tokens) : await shared.named.take(request.session);
    let usable = false;
    try {
      lease.session.resetStats();
      tell({ kind: 'started', promptTokens: tokens.length });
      const { usage, figures } = await answers(shared.model, lease.session, request, tokens, turn, signal, tell);
      usable = true;
      await lease.release(true);
      tell({ kind: 'done', usage, figures });
    } catch (error) {
      if (!usable) await lease.release(MagicpigError.isInstance(error) && error.code === 'ABORTED');
      throw error;
    }
  } finally {
    turn.leave();
  }
}

/** All choices, one after the other: each goes on from the text alone. */
async function answers(
  model: Model,
  session: Session,
  request: GenerateRequest,
  tokens: readonly number[],
  turn: Turn,
  signal: AbortSignal,
  tell: (event: GenerateEvent) => void,
): Promise<{ usage: Usage; figures: GenerationFigures }> {
  let reusedTokens = 0;
  for (let choice = 0; choice < request.choices; choice += 1) {
    await during(turn, signal, () => session.prefill(tokens, {
      whole: true,
      signal,
      onProgress: async () => {
        turn.end();
        await turn.begin();
      },
    }));
    if (choice === 0) ({ reusedTokens } = session.stats());
    sizes(session);
    await answer(model, session, request, choice, turn, signal, tell);
  }
  const { generatedTokens, prefillSeconds, decodeMsPerToken, keysRead } = session.stats();
  return {
    usage: { promptTokens: tokens.length, reusedTokens, generatedTokens },
    figures: { prefillSeconds, decodeSeconds: (decodeMsPerToken * generatedTokens) / 1000, keysRead },
  };
}

async function answer(
  model: Model,
  session: Session,
  request: GenerateRequest,
  choice: number,
  turn: Turn,
  signal: AbortSignal,
  tell: (event: GenerateEvent) => void,
): Promise<void> {
  const { maxTokens, stop, temperature, topK, topP, minP, repetitionPenalty, logprobs, schema } = request;
  using constraint = schema === undefined ? undefined : model.jsonConstraint(schema);
  const pieces = session.generate({
    maxTokens, stop, temperature, topK, topP, minP, repetitionPenalty, logprobs, signal, constraint,
    seed: (request.seed + choice) % 2 ** 32,
  });
  try {
    for (;;) {
      const piece = await during(turn, signal, () => pieces.next(), 'together');
      if (piece.done === true) break;
      tell({ kind: 'token', choice, text: piece.value.text, ...spelledLogprobs(model, piece.value) });
    }
  } finally {
    // An abort may have come between two tokens: the session is told that no more are wanted, and keeps what it has.
    await pieces.return();
  }
  tell({ kind: 'finished', choice, reason: session.stats().finishReason ?? 'length' });
}

function spelledLogprobs(model: Model, { token, logprob, top }: GeneratedToken): { logprob?: SpelledLogprob; top?: SpelledLogprob[] } {
  if (logprob === undefined) return {};
  const spelled = (of: { token: number; logprob: number }): SpelledLogprob => ({
    token: model.tokenizer.decode([of.token], { keepSpecial: true }),
    bytes: [...(model.tokenBytes[of.token] ?? [])],
    logprob: of.logprob,
  });
  return { logprob: spelled({ token, logprob }), top: (top ?? []).map(spelled) };
}

/** Does something in a turn of its own, or in one with all who do the like. */
async function during<T>(turn: Turn, signal: AbortSignal, work: () => T | Promise<T>, kind: TurnKind = 'alone'): Promise<T> {
  await turn.begin(kind);
  try {
    if (signal.aborted) throw new MagicpigError('ABORTED', 'aborted by the caller');
    return await work();
  } finally {
    turn.end();
  }
}
