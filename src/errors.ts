/**
 * Every error that magicpig raises on purpose. The code is stable, the message is for people: it says
 * what was wrong and, where there is one, the way out. Errors of the native addon arrive with the same
 * codes (src/native.ts wraps them).
 */
export const errorCodes = {
  INVALID_OPTION: 'an option or argument is out of range or contradicts another',
  INVALID_SCHEMA: 'a JSON schema says what generated text cannot be held to',
  EMPTY_PROMPT: 'there is nothing to read: the prompt has no tokens',
  CONTEXT_EXCEEDED: 'the prompt does not fit into the context',
  FILE_NOT_FOUND: 'a file or folder does not exist',
  FILE_UNREADABLE: 'a file exists and cannot be read',
  FILE_UNWRITABLE: 'a file cannot be written',
  MODEL_NOT_FOUND: 'the model reference names nothing that is there',
  GGUF_MALFORMED: 'the GGUF file is truncated or contradicts itself',
  SAFETENSORS_MALFORMED: 'a file of a folder of safetensors is missing, truncated or contradicts itself',
  UNSUPPORTED_ARCHITECTURE: 'the model has an architecture that magicpig does not know',
  UNSUPPORTED_QUANTISATION: 'a tensor has a type that magicpig cannot read',
  UNSUPPORTED_TOKENIZER: 'the model has a tokenizer that magicpig does not know',
  TEMPLATE_FAILED: "the model's chat template is missing, fails or takes too long",
  CACHE_UNWRITABLE: 'the cache folder cannot be written',
  TUNED_DAMAGED: "what tune chose for a model cannot be read; 'magicpig tune --reset' removes it",
  DOWNLOAD_FAILED: 'a download did not finish; what arrived is kept and resumed by the next attempt',
  CHECKSUM_MISMATCH: 'a downloaded file is not the one that was asked for; it was removed',
  RUNTIME_FAILED: 'the device is not there, or ONNX Runtime could not load or run a part of the model',
  NATIVE_MISSING: 'the native addon for this platform is not there',
  ADDRESS_UNAVAILABLE: 'the server cannot listen at the address',
  INTERNAL: 'a mistake in magicpig itself; please report it',
  NATIVE_FAILED: 'the native addon failed in a way it does not name',
  OUT_OF_MEMORY: 'a model or a session takes more memory than there is',
  DISK_FULL: 'the disk has no room for the rows of the session',
  STORE_IO: 'reading or writing the rows of a session failed',
  PERMISSION_DENIED: 'the file system does not allow what a session needs',
  SESSION_NOT_FOUND: 'there is no session in the folder',
  SESSION_EXISTS: 'the folder has a session, or something else, already',
  SESSION_LOCKED: 'another process or session writes to the session',
  SESSION_MISMATCH: 'the session was made with another model, seed or index',
  SESSION_NEWER: 'the session was made by a newer version of magicpig',
  SESSION_FOREIGN: 'what is in the folder is no session of magicpig',
  SESSION_CORRUPT: 'bytes of the session are not what was written',
  SESSION_TRUNCATED: 'a file of the session is shorter than it was',
  SESSION_FILE_MISSING: 'a file of the session is missing',
  SESSION_READ_ONLY: 'the session was opened to be read, or has no folder',
  SESSION_BROKEN: 'a write to the session failed before; open it again to go on from its last checkpoint',
  SESSION_BUSY: 'the session is already prefilling or generating',
  DISPOSED: 'the model or session was disposed of',
  ABORTED: 'the caller aborted the work',
} as const;

export type ErrorCode = keyof typeof errorCodes;

const marker = Symbol.for('magicpig.error');

export class MagicpigError extends Error {
  readonly code: ErrorCode;
  /** @internal */
  readonly [marker] = true;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'MagicpigError';
    this.code = code;
  }

  /** True for errors of any copy of this package, where `instanceof` would fail. */
  static isInstance(error: unknown): error is MagicpigError {
    return typeof error === 'object' && error !== null && (error as { [marker]?: unknown })[marker] === true;
  }
}
