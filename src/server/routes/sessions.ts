import type { FastifyInstance } from 'fastify';
import type { Context } from '../generation.js';
import { type SessionParams, errorAnswer, removedAnswer, sessionParams, sessionsAnswer } from '../schemas.js';

export function sessionsRoutes(app: FastifyInstance, { engine }: Context): void {
  app.get('/v1/sessions', {
    schema: { summary: 'The named sessions, the one used last first', response: { 200: sessionsAnswer, '4XX': errorAnswer, '5XX': errorAnswer } },
  }, async () => {
    const sessions = await engine.ask('sessions', null);
    return { object: 'list' as const, data: sessions.map(({ id, tokens, bytes, lastUse }) => ({ id, object: 'session' as const, tokens, bytes, last_used: lastUse })) };
  });
  app.delete<{ Params: SessionParams }>('/v1/sessions/:id', {
    schema: { summary: 'Remove a named session', params: sessionParams, response: { 200: removedAnswer, '4XX': errorAnswer, '5XX': errorAnswer } },
  }, async (request) => {
    const { id } = request.params;
    await engine.ask('remove', { session: id });
    return { id, object: 'session' as const, deleted: true as const };
  });
}
