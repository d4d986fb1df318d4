import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { pagePaths } from './page-files.js';

/** Whether an Authorization header has the key: as a bearer token, or as the password of a user of any name, which is how browsers send it. */
export function hasKey(authorization: string | undefined, key: string): boolean {
  return sameKey(bearerToken(authorization ?? '') ?? basicPassword(authorization ?? ''), key);
}

/**
 * How a request without the key is told to send it. A browser that is asked for Basic credentials asks its user, once for all requests
 * to this server. That is for the page; a program's requests, and those of the page itself, are no moment to ask anybody.
 */
export function challengeOf({ headers, routeOptions }: FastifyRequest): string {
  const forUser = pagePaths.has(routeOptions.url ?? '') || headers.accept?.includes('text/html') === true;
  return forUser ? 'Basic realm="magicpig", charset="UTF-8"' : 'Bearer realm="magicpig"';
}

function bearerToken(authorization: string): string | undefined {
  return /^Bearer (.+)$/i.exec(authorization)?.[1];
}

/** Node decodes base64 with anything between its characters, so what is not base64 is turned away before. */
function basicPassword(authorization: string): string | undefined {
  const [, encoded] = /^Basic ([a-z\d+/]+={0,2})$/i.exec(authorization) ?? [];
  if (encoded === undefined) return undefined;
  return /:(.*)$/s.exec(Buffer.from(encoded, 'base64').toString())?.[1];
}

/** Digests have the same length, and comparing them takes the same time whatever differs. */
function sameKey(given: string | undefined, key: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given ?? ''), digest(key));
}
