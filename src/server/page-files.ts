import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { extname } from 'node:path';
import type { FastifyInstance } from 'fastify';

const folder = new URL('./page/', import.meta.url);

const types: Readonly<Record<string, string>> = { '.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml' };

/** Nothing but the page's own files, no script or style within them, no frame around them, and requests to this server alone. */
const policy = ["default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"].join('; ');

const headers = {
  'content-security-policy': policy,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-cache',
};

/** Paths of the page's files. */
export const pagePaths: ReadonlySet<string> = new Set(fileNames().map(pathOf));

/** A page to chat with a document, and to see where its keys were drawn. */
export function pageRoutes(app: FastifyInstance): void {
  for (const name of fileNames()) {
    const content = readFileSync(new URL(name, folder));
    const type = `${types[extname(name)]}; charset=utf-8`;
    const etag = `"${createHash('sha256').update(content).digest('base64url').slice(0, 22)}"`;
    app.get(pathOf(name), { logLevel: 'warn', schema: { hide: true } }, (request, reply) => {
      reply.headers({ ...headers, etag });
      if (request.headers['if-none-match'] === etag) return reply.status(304).send();
      return reply.type(type).send(content);
    });
  }
}

function fileNames(): string[] {
  return readdirSync(folder).filter((name) => extname(name) in types);
}

function pathOf(name: string): string {
  return name === 'index.html' ? '/' : `/page/${name}`;
}
