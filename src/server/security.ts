import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { ApiError } from './errors.js';
import type { Settings } from './options.js';
import { pagePaths } from './page-files.js';

/** Whether the server answers. */
export const healthRoute = '/health';

/** Routes that answer without the key. Nothing of any request is behind them. */
const openRoutes: ReadonlySet<string | undefined> = new Set([healthRoute, ...pagePaths]);

/** Names of the machine itself. */
const ownNames = ['localhost', '127.0.0.1', '::1'];

/**
 * Whether a request may be looked at, before anything of its body is read. Throws 401 or 403.
 *
 * A page of another site can make a browser send requests to a server on this machine, and a name that its owner points at
 * this machine (DNS rebinding) makes them look like the page's own. So the Host header must be a name that the server was
 * told of, and an Origin header must be the server's own or one that was allowed.
 */
export function checkRequest(request: FastifyRequest, settings: Pick<Settings, 'host' | 'allowedHosts' | 'corsOrigins' | 'apiKey'>): void {
  const { host, origin, authorization } = request.headers;
  const name = hostName(host);
  if (name === undefined || !isOwnName(name, settings)) {
    throw new ApiError(403, 'host_not_allowed', 'the Host header names a host that this server was not told of; start it with --allowed-host');
  }
  if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}` && !settings.corsOrigins.includes(origin)) {
    throw new ApiError(403, 'origin_not_allowed', 'pages of this origin may not use the server; start it with --cors-origin');
  }
  if (settings.apiKey === undefined || openRoutes.has(request.routeOptions.url)) return;
  if (!sameKey(/^Bearer (.+)$/i.exec(authorization ?? '')?.[1], settings.apiKey)) {
    throw new ApiError(401, 'invalid_api_key', 'the request has no valid key; send it as "Authorization: Bearer KEY"');
  }
}

function hostName(host: string | undefined): string | undefined {
  const [, bracketed, plain] = /^(?:\[([0-9a-f:.]+)\]|([^:/@\s]+))(?::\d+)?$/i.exec(host ?? '') ?? [];
  return (bracketed ?? plain)?.toLowerCase();
}

/** An address is no name that somebody else could point here. */
function isOwnName(name: string, { host, allowedHosts }: Pick<Settings, 'host' | 'allowedHosts'>): boolean {
  const everywhere = host === '0.0.0.0' || host === '::';
  return ownNames.includes(name) || name === host || allowedHosts.includes(name) || (everywhere && isIP(name) !== 0);
}

/** Digests have the same length, and comparing them takes the same time whatever differs. */
function sameKey(given: string | undefined, key: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given ?? ''), digest(key));
}
