import type { FastifyInstance } from 'fastify';
import type { Context } from '../generation.js';
import { healthRoute } from '../security.js';
import { healthAnswer } from '../schemas.js';

export function operationRoutes(app: FastifyInstance, { metrics, stopping }: Context): void {
  app.get(healthRoute, {
    logLevel: 'warn',
    schema: { summary: 'Whether the server answers; needs no key', security: [], response: { 200: healthAnswer } },
  }, () => ({ status: stopping.aborted ? ('stopping' as const) : ('ok' as const) }));
  app.get('/metrics', { logLevel: 'warn', schema: { summary: 'Figures for Prometheus' } }, async (_request, reply) => {
    reply.type(metrics.contentType);
    return await metrics.text();
  });
  app.get('/openapi.json', { schema: { summary: 'This description' } }, () => app.swagger());
}
