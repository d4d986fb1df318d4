import { availableParallelism } from 'node:os';
import { isIP } from 'node:net';
import type { LoadOptions, SessionOptions } from '../decode/model.js';
import { integer, policyFrom } from '../decode/options.js';
import { MagicpigError } from '../errors.js';
import { errorCode } from '../model/file-error.js';
import { makeFolder } from '../model/make-folder.js';

/** What the sessions of requests are made with. */
export type ServedSession = Pick<SessionOptions, 'policy' | 'budget' | 'targetError' | 'epsilon' | 'delta' | 'sketchBits' | 'residual' | 'denseLayers' | 'lshK' | 'lshL' | 'rows'>;

export interface ServeOptions extends ServedSession, Pick<LoadOptions, 'threads' | 'device' | 'lmHead' | 'weights' | 'context'> {
  /** The model: what {@link loadModel} takes. It is also its name in requests. */
  readonly model: string;
  /** Address to listen at. Any but this machine's own needs `apiKey`. Default 127.0.0.1. */
  readonly host?: string | undefined;
  /** Port to listen at; 0 takes a free one. Default 8080. */
  readonly port?: number | undefined;
  /** What requests must carry as a bearer token, or as the password of Basic credentials. Default: none is asked for. */
  readonly apiKey?: string | undefined;
  /** Origins of web pages that may use the server, as browsers spell them ("https://example.org"). Default: none but its own. */
  readonly corsOrigins?: readonly string[] | undefined;
  /** Names, besides the address itself, under which clients reach the server: what their Host header may say. */
  readonly allowedHosts?: readonly string[] | undefined;
  /** Folder in which named sessions are kept, made if it is not there. Default: there are none. */
  readonly sessionsDir?: string | undefined;
  /** Named sessions that there may be. Default 1000. */
  readonly maxSessions?: number | undefined;
  /** Requests that are worked on at the same time, each with a session in memory. Default 4. */
  readonly parallel?: number | undefined;
  /** Requests that may wait; those beyond it are told to come back. Default 64. */
  readonly queue?: number | undefined;
  /** Bytes that a request may have. Default: 32 for each token of the context, from 1 MiB to 64 MiB. */
  readonly bodyLimit?: number | undefined;
  /** Seconds that requests have to end after the server was told to stop. Default 25. */
  readonly drainSeconds?: number | undefined;
}

/** Addresses that only programs on this machine can reach. */
const loopback = new Set(['127.0.0.1', '::1', 'localhost']);

/** Checked, with defaults, and with the folder of sessions made. */
export async function serveOptionsFrom(options: ServeOptions) {
  policyFrom(options);
  const { host = '127.0.0.1', apiKey, corsOrigins = [], allowedHosts = [], sessionsDir } = options;
  if (isIP(host) === 0 && host !== 'localhost') throw invalid(`host is ${JSON.stringify(host)}; it must be an IP address, such as 127.0.0.1 or 0.0.0.0`);
  if (apiKey !== undefined && !/^[\x21-\x7e]{8,}$/.test(apiKey)) throw invalid('apiKey is too short or has spaces; it must be 8 or more printable characters');
  if (apiKey === undefined && !loopback.has(host)) {
    throw invalid(`host is ${host}, which other machines can reach; that needs a key: --api-key (apiKey in the API), or better MAGICPIG_API_KEY in the environment`);
  }
  for (const origin of corsOrigins) {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin) throw invalid(`corsOrigin is ${JSON.stringify(origin)}; it must be as in https://example.org, without a path`);
  }
  const bodyLimit = options.bodyLimit === undefined ? undefined : integer('bodyLimit', options.bodyLimit, 1024, 2 ** 30);
  const settings = {
    ...options,
    host,
    port: integer('port', options.port ?? 8080, 0, 65_535),
    apiKey,
    corsOrigins,
    allowedHosts: allowedHosts.map((name) => name.toLowerCase()),
    sessionsDir,
    bodyLimit,
    maxSessions: integer('maxSessions', options.maxSessions ?? 1000, 1, 2 ** 31),
    parallel: integer('parallel', options.parallel ?? 4, 1, 64 * availableParallelism()),
    queue: integer('queue', options.queue ?? 64, 0, 100_000),
    drainSeconds: integer('drainSeconds', options.drainSeconds ?? 25, 0, 3600),
  };
  if (sessionsDir !== undefined) {
    await makeFolder(sessionsDir).catch((error: unknown) => {
      throw new MagicpigError('FILE_UNWRITABLE', `the folder of sessions ${sessionsDir} cannot be made (${errorCode(error) ?? String(error)}); name another`, { cause: error });
    });
  }
  return settings;
}

export type Settings = Awaited<ReturnType<typeof serveOptionsFrom>>;

function invalid(message: string): MagicpigError {
  return new MagicpigError('INVALID_OPTION', message);
}
