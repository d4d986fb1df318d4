import type { FastifyError } from 'fastify';
import { type ErrorCode, MagicpigError } from '../errors.js';

/** What a client is told, in OpenAI's shape. */
export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly code: string | null; readonly param: string | null };
}

/** A refusal by the server itself. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly param: string | null;
  /** Seconds after which it may be tried again. */
  readonly retryAfter: number | undefined;

  constructor(status: number, code: string, message: string, { param = null, retryAfter }: { param?: string | null; retryAfter?: number } = {}) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** Statuses of errors that a request may be to blame for. Every other code is the server's own failure. */
const statuses: Partial<Record<ErrorCode, number>> = {
  INVALID_OPTION: 400,
  INVALID_SCHEMA: 400,
  EMPTY_PROMPT: 400,
  CONTEXT_EXCEEDED: 400,
  TEMPLATE_FAILED: 400,
  SESSION_NOT_FOUND: 404,
  SESSION_BUSY: 409,
  SESSION_LOCKED: 409,
  SESSION_MISMATCH: 409,
  SESSION_EXISTS: 409,
  SESSION_FOREIGN: 409,
  ABORTED: 503,
  DISK_FULL: 507,
};

/** OpenAI's own names, which its clients know. */
const codeNames: Partial<Record<ErrorCode, string>> = { CONTEXT_EXCEEDED: 'context_length_exceeded', ABORTED: 'server_stopping' };

const types: Readonly<Record<number, string>> = { 401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error', 409: 'conflict_error' };

export interface Refusal {
  readonly status: number;
  readonly body: ErrorBody;
  readonly retryAfter?: number | undefined;
}

/** What to answer where `error` ended a request. `hidden`: a folder that clients are not to read of. */
export function refusalOf(error: unknown, hidden?: string): Refusal {
  if (error instanceof ApiError) return refusal(error.status, error.code, error.message, error.param, error.retryAfter);
  if (MagicpigError.isInstance(error)) {
    const status = statuses[error.code] ?? 500;
    const name = codeNames[error.code] ?? error.code.toLowerCase();
    const message = hidden === undefined ? error.message : error.message.replaceAll(`${hidden}/`, '').replaceAll(hidden, 'the folder of sessions');
    const said = status === 500 ? 'the server failed; its log says how' : message;
    return refusal(status, name, said, paramOf(error), status === 503 ? 1 : undefined);
  }
  const { statusCode, code, message, validation } = error as Partial<FastifyError>;
  if (validation !== undefined) return invalid(validation);
  if (statusCode === 415) return refusal(415, 'unsupported_media_type', 'the body must be JSON, and the content-type header application/json', null);
  if (statusCode !== undefined && statusCode < 500) return refusal(statusCode, named(code), message ?? 'the request cannot be understood', null);
  return refusal(500, 'internal', 'the server failed; its log says how', null);
}

function refusal(status: number, code: string, message: string, param: string | null, retryAfter?: number): Refusal {
  const type = types[status] ?? (status < 500 ? 'invalid_request_error' : 'server_error');
  return { status, body: { error: { message, type, code, param } }, retryAfter };
}

/** A body that its schema does not allow. Of several ways to be right, all of which failed, the one that went deepest speaks. */
function invalid(validation: NonNullable<FastifyError['validation']>): Refusal {
  const depth = ({ instancePath }: { instancePath: string }) => instancePath.split('/').length;
  const [complaint] = validation.toSorted((a, b) => depth(b) - depth(a));
  const missing = (complaint?.params as { missingProperty?: string } | undefined)?.missingProperty;
  const path = (complaint?.instancePath ?? '').split('/').slice(1);
  const param = [...path, ...(missing === undefined ? [] : [missing])].join('.') || null;
  const said = missing === undefined ? (complaint?.message ?? 'is not valid') : 'is missing';
  return refusal(400, missing === undefined ? 'invalid_value' : 'missing_required_parameter', `${param ?? 'the body'} ${said}`, param);
}

function paramOf({ code, message }: MagicpigError): string | null {
  if (code === 'INVALID_SCHEMA') return 'response_format';
  const [, name] = /^(session_id|prompt|stop|seed) /.exec(message) ?? [];
  return name ?? null;
}

/** Fastify's codes in the style of the others. */
function named(code: string | undefined): string {
  return (code ?? 'invalid_request').replace(/^FST_(ERR_)?/, '').toLowerCase();
}
