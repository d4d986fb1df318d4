import type { Report } from './engine/protocol.js';

/** As answers spell it. */
export function spelledReport({ policy, budget, decodeMsPerToken, attendMsPerToken, keysRead, relativeError, steps, draws }: Report) {
  return {
    policy,
    budget,
    keys_read: keysRead,
    ms_per_token: decodeMsPerToken,
    attend_ms_per_token: attendMsPerToken,
    relative_error: relativeError === undefined ? null : { mean: relativeError.mean, max: relativeError.max, read_whole: relativeError.readWhole },
    steps: steps.map(({ text, ms, attendMs, keysRead: read, relativeError: error }) => ({
      text,
      ms: ms ?? null,
      attend_ms: attendMs ?? null,
      keys_read: read ?? null,
      relative_error: error ?? null,
    })),
    draws: { bin_tokens: draws.binTokens, texts: draws.texts, layers: draws.layers },
  };
}
