import { MagicpigError } from '../errors.js';

/** What a failed file operation on something to be read means to the caller. */
export function fileError(error: unknown, path: string): MagicpigError {
  const code = errorCode(error);
  if (code === 'ENOENT' || code === 'ENOTDIR') return new MagicpigError('FILE_NOT_FOUND', `${path} does not exist`, { cause: error });
  return new MagicpigError('FILE_UNREADABLE', `${path} cannot be read (${code ?? String(error)})`, { cause: error });
}

/** The `code` that Node puts on its own errors, such as ENOENT. Errors of a vm context are no `Error` of this one. */
export function errorCode(error: unknown): string | undefined {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
