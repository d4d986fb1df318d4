import { MagicpigError } from '../errors.js';

/** What an aborted signal means: ABORTED, or the error that it was aborted with where that says more. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw MagicpigError.isInstance(signal.reason) ? signal.reason : new MagicpigError('ABORTED', 'aborted by the caller', { cause: signal.reason });
}
