import type { Model } from '../../decode/model.js';
import type { GeneratedToken, Session } from '../../decode/session.js';
import { MagicpigError } from '../../errors.js';
import type { NamedSessions } from './named.js';
import type { Lease, SessionPool } from './pool.js';
import { promptTokens } from './prompt.js';
import type { GenerateEvent, GenerateRequest, GenerationFigures, Report, SpelledLogprob, Usage } from './protocol.js';
import { ReadingPace } from './reading-pace.js';
import { Reporter } from './report.js';
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
    const lease = await leased(shared, request, tokens);
    let usable = false;
    try {
      lease.session.resetStats();
      tell({ kind: 'started', promptTokens: tokens.length });
      const { usage, figures, report } = await answers(shared, lease.session, request, tokens, turn, signal, tell);
      usable = true;
      await lease.release(true);
      tell({ kind: 'done', usage, figures, report });
    } catch (error) {
      if (!usable) await lease.release(MagicpigError.isInstance(error) && error.code === 'ABORTED');
      throw error;
    }
  } finally {
    turn.leave();
  }
}

/** A session for the request, which attends as it asks for. */
async function leased({ pool, named }: Shared, { session, attention }: GenerateRequest, tokens: readonly number[]): Promise<Lease> {
  const lease = session === undefined ? pool.take(tokens) : await named.take(session);
  try {
    lease.session.attendAs(attention);
    return lease;
  } catch (error) {
    // What was refused changed nothing.
    await lease.release(true);
    throw error;
  }
}

/** All choices, one after the other: each goes on from the text alone. */
async function answers(
  { model, turns }: Shared,
  session: Session,
  request: GenerateRequest,
  tokens: readonly number[],
  turn: Turn,
  signal: AbortSignal,
  tell: (event: GenerateEvent) => void,
): Promise<{ usage: Usage; figures: GenerationFigures; report: Report | undefined }> {
  let reusedTokens = 0;
  let report: Report | undefined;
  for (let choice = 0; choice < request.choices; choice += 1) {
    await read(session, tokens, turn, new ReadingPace(() => turns.crowded), signal);
    if (choice === 0) ({ reusedTokens } = session.stats());
    sizes(session);
    report = await answer(model, session, request, choice, turn, signal, tell);
  }
  const { generatedTokens, prefillSeconds, decodeMsPerToken, keysRead } = session.stats();
  return {
    usage: { promptTokens: tokens.length, reusedTokens, generatedTokens },
    figures: { prefillSeconds, decodeSeconds: (decodeMsPerToken * generatedTokens) / 1000, keysRead },
    report,
  };
}

/**
 * Reads a text, a chunk in each turn. Its rows are indexed at the end outside of turns: that takes seconds of a long one, in which others may go on
 * writing, if more slowly.
 */
async function read(session: Session, tokens: readonly number[], turn: Turn, pace: ReadingPace, signal: AbortSignal): Promise<void> {
  const held = { turn: true };
  await turn.begin();
  try {
    signal.throwIfAborted();
    await session.prefill(tokens, {
      whole: true,
      signal,
      chunkTokens: () => pace.next(),
      onProgress: async ({ done, total }) => {
        pace.read();
        turn.end();
        held.turn = done < total;
        if (held.turn) await turn.begin();
      },
    });
  } finally {
    if (held.turn) turn.end();
  }
}

async function answer(
  model: Model,
  session: Session,
  request: GenerateRequest,
  choice: number,
  turn: Turn,
  signal: AbortSignal,
  tell: (event: GenerateEvent) => void,
): Promise<Report | undefined> {
  const { maxTokens, stop, temperature, topK, topP, minP, repetitionPenalty, logprobs, schema } = request;
  using constraint = schema === undefined ? undefined : model.jsonConstraint(schema);
  using reporter = request.report && new Reporter(model, session, request.report);
  const pieces = session.generate({
    maxTokens, stop, temperature, topK, topP, minP, repetitionPenalty, logprobs, signal, constraint,
    seed: (request.seed + choice) % 2 ** 32,
  });
  try {
    for (;;) {
      const piece = await during(turn, signal, () => pieces.next(), 'together');
      if (piece.done === true) break;
      reporter?.token(piece.value.text);
      tell({ kind: 'token', choice, text: piece.value.text, ...spelledLogprobs(model, piece.value) });
    }
  } finally {
    // An abort may have come between two tokens: the session is told that no more are wanted, and keeps what it has.
    await pieces.return();
  }
  tell({ kind: 'finished', choice, reason: session.stats().finishReason ?? 'length' });
  return reporter?.end();
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
