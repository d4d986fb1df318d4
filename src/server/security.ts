import { isIP } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { hasKey } from './credentials.js';
import { ApiError } from './errors.js';
import type { Settings } from './options.js';

/** Whether the server answers: the one route that needs no key, since nothing of any request is behind it. */
export const healthRoute = '/health';

/** Names of the machine itself. */
const ownNames = ['localhost', '127.0.0.1', '::1'];

/**
 * Whether a request may be looked at, before anything of its body is read. Throws 401 or 403.
 *
 * A page of another site can make a browser send requests to a server on this machine, and a name that its owner points at
 * this machine (DNS rebinding) makes them look like the page's own. So the Host header must be a name that the server was
 * told of, and an Origin header must be the server's own or one that was allowed. Where there is a key, a browser may know it
 * and send it with whatever pages ask for; so those requests too are turned away that come without an Origin header, as for images.
 */
export function checkRequest(request: FastifyRequest, settings: Pick<Settings, 'host' | 'allowedHosts' | 'corsOrigins' | 'apiKey'>): void {
  const { headers: { host, origin, authorization }, routeOptions: { url } } = request;
  const name = hostName(host);
  if (name === undefined || !isOwnName(name, settings)) {
    throw new ApiError(403, 'host_not_allowed', 'the Host header names a host that this server was not told of; start it with --allowed-host');
  }
  if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}` && !settings.corsOrigins.includes(origin)) throw foreign();
  if (settings.apiKey === undefined || url === healthRoute || isPreflight(request, settings)) return;
  if (origin === undefined && isEmbedded(request)) throw foreign();
  if (!hasKey(authorization, settings.apiKey)) {
    throw new ApiError(401, 'invalid_api_key', 'the request has no valid key; send it as "Authorization: Bearer KEY", or in a browser as the password of any user');
  }
}

function foreign(): ApiError {
  return new ApiError(403, 'origin_not_allowed', 'pages of this origin may not use the server; start it with --cors-origin');
}

/** What a browser asks before a request of an allowed page, without the key that the request will have. */
function isPreflight({ method, headers }: FastifyRequest, { corsOrigins }: Pick<Settings, 'corsOrigins'>): boolean {
  return method === 'OPTIONS' && headers['access-control-request-method'] !== undefined && corsOrigins.includes(headers.origin ?? '');
}

/** Whether the browser says that a page of another origin has this for a part of itself. Following a link is its user's doing. */
function isEmbedded({ headers }: FastifyRequest): boolean {
  const site = headers['sec-fetch-site'];
  return (site === 'cross-site' || site === 'same-site') && headers['sec-fetch-dest'] !== 'document';
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
