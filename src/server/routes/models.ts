import type { FastifyInstance } from 'fastify';
import type { Context } from '../generation.js';
import { checkModel } from '../request.js';
import { errorAnswer, modelAnswer, modelsAnswer } from '../schemas.js';

export function modelsRoutes(app: FastifyInstance, { modelName, created, engine }: Context): void {
  const model = { id: modelName, object: 'model' as const, created, owned_by: 'magicpig', context_length: engine.info.context };
  app.get('/v1/models', {
    schema: { summary: 'The model that is served', response: { 200: modelsAnswer, '4XX': errorAnswer } },
  }, () => ({ object: 'list' as const, data: [model] }));
  // Names have slashes.
  app.get<{ Params: { '*': string } }>('/v1/models/*', {
    schema: { summary: 'The model of a name', response: { 200: modelAnswer, '4XX': errorAnswer } },
  }, (request) => {
    checkModel(request.params['*'], modelName);
    return model;
  });
}
