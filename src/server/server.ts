import { STATUS_CODES } from 'node:http';
import { basename } from 'node:path';
import cors from '@fastify/cors';
import swagger from '@fastify/swagger';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions } from 'fastify';
import { z } from 'zod';
import type { DeviceName } from '../decode/options.js';
import { MagicpigError } from '../errors.js';
import { Admission } from './admission.js';
import { parseBody } from './body.js';
import { challengeOf } from './credentials.js';
import { Engine } from './engine/engine.js';
import type { WorkerOptions } from './engine/protocol.js';
import { ApiError, refusalOf } from './errors.js';
import type { Context } from './generation.js';
import { Metrics } from './metrics.js';
import { type ServeOptions, type Settings, serveOptionsFrom } from './options.js';
import { pageRoutes } from './page-files.js';
import { chatRoute } from './routes/chat.js';
import { completionsRoute } from './routes/completions.js';
import { modelsRoutes } from './routes/models.js';
import { operationRoutes } from './routes/operation.js';
import { responsesRoute } from './routes/responses.js';
import { sessionsRoutes } from './routes/sessions.js';
import { checkRequest } from './security.js';

/** Bytes of body for each token of the context: more than any text's tokens have, with room for JSON. */
const BYTES_PER_TOKEN = 32;

/** Milliseconds in which a request has to arrive. */
const HEADERS_MS = 15_000;
const REQUEST_MS = 120_000;

/** Milliseconds in which answers that were told to stop have to do so. */
const STOP_MS = 4_000;

export interface StartOptions {
  readonly signal?: AbortSignal | undefined;
  /** Where pino's lines go; none are written without. */
  readonly logger?: FastifyServerOptions['logger'];
  /** Called when the model's thread is lost, after which nothing can be generated. */
  readonly onLost?: ((error: Error) => void) | undefined;
}

/** An HTTP server with one model. */
export class Server implements AsyncDisposable {
  /** Where it listens, such as "http://127.0.0.1:8080". */
  readonly url: string;
  readonly modelName: string;
  /** Where the model's dense layers run. */
  readonly device: DeviceName;
  readonly #app: FastifyInstance;
  readonly #context: Context;
  readonly #stop: AbortController;
  readonly #settings: Settings;
  #closed: Promise<void> | undefined;

  private constructor(url: string, app: FastifyInstance, context: Context, stop: AbortController, settings: Settings) {
    this.url = url;
    this.modelName = context.modelName;
    this.device = context.engine.info.device;
    this.#app = app;
    this.#context = context;
    this.#stop = stop;
    this.#settings = settings;
  }

  /** Loads the model and listens. Throws INVALID_OPTION, what {@link loadModel} does, or ADDRESS_UNAVAILABLE. */
  static async start(options: ServeOptions, { signal, logger = false, onLost }: StartOptions = {}): Promise<Server> {
    const settings = await serveOptionsFrom(options);
    const engine = await Engine.start(workerOptions(settings), signal, (error) => onLost?.(error));
    try {
      const stop = new AbortController();
      const admission = new Admission(settings.parallel, settings.queue);
      const context: Context = {
        engine,
        admission,
        metrics: new Metrics(admission, engine),
        modelName: modelName(settings.model),
        created: Math.floor(Date.now() / 1000),
        stopping: stop.signal,
      };
      const app = await application(settings, context, logger);
      const url = await listen(app, settings);
      return new Server(url, app, context, stop, settings);
    } catch (error) {
      await engine.close();
      throw error;
    }
  }

  /** Methods and paths that are answered. */
  get routes(): readonly { readonly method: string; readonly url: string }[] {
    return routesOf(this.#app);
  }

  /** Requests that are worked on or wait. */
  get unfinished(): number {
    const { admission } = this.#context;
    return admission.running + admission.waiting;
  }

  /**
   * Takes no more requests, lets those that are worked on end, aborts what is left after the drain time, checkpoints and closes
   * every session, and frees the model.
   */
  async close(): Promise<void> {
    this.#closed ??= this.#close();
    await this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const { engine, metrics } = this.#context;
    const closed = this.#app.close();
    const idle = () => this.unfinished === 0;
    await until(idle, this.#settings.drainSeconds * 1000);
    this.#stop.abort();
    await until(idle, STOP_MS);
    // What was generated last is on its way to sockets; those that still send or never sent anything do not hold up the end.
    await Promise.race([closed, after(500)]);
    this.#app.server.closeAllConnections();
    await closed;
    metrics[Symbol.dispose]();
    await engine.close();
  }
}

function workerOptions(settings: Settings): WorkerOptions {
  const { model, threads, device, lmHead, weights, context, sessionsDir, maxSessions, parallel } = settings;
  const { policy, budget, targetError, epsilon, delta, sketchBits, residual, denseLayers, lshK, lshL, rows } = settings;
  const session = { policy, budget, targetError, epsilon, delta, sketchBits, residual, denseLayers, lshK, lshL, rows };
  return { model, threads, device, lmHead, weights, context, session, sessionsDir, maxSessions, parallel };
}

/** A path would tell clients about this machine. */
function modelName(reference: string): string {
  return reference.endsWith('.gguf') ? basename(reference, '.gguf') : reference;
}

async function application(settings: Settings, context: Context, logger: FastifyServerOptions['logger']): Promise<FastifyInstance> {
  const bodyLimit = settings.bodyLimit ?? Math.min(2 ** 26, Math.max(2 ** 20, BYTES_PER_TOKEN * context.engine.info.context));
  const app = fastify({
    ...(logger !== undefined && { logger }),
    bodyLimit,
    requestTimeout: REQUEST_MS,
    http: { headersTimeout: HEADERS_MS, connectionsCheckingInterval: 5_000 },
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allowUnionTypes: true, strict: false } },
    frameworkErrors: (error, _request, reply: FastifyReply) => { refuse(reply, error, settings); },
    clientErrorHandler: (error, socket) => {
      if (error.code === 'ECONNRESET' || !socket.writable) return;
      const { status, body } = refusalOf(connectionError(error.code));
      const text = JSON.stringify(body);
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`);
    },
  });
  rememberRoutes(app);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, parseBody(body as Buffer));
    } catch (error) {
      done(error as Error);
    }
  });
  // The schemas are of answers' shape for readers, and answers are written here.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  // Before requests are checked, so that an allowed page can read why its own was refused; preflight requests go on to be checked too.
  if (settings.corsOrigins.length > 0) {
    await app.register(cors, {
      origin: [...settings.corsOrigins],
      methods: ['GET', 'POST', 'DELETE'],
      allowedHeaders: ['authorization', 'content-type'],
      hook: 'onRequest',
      preflightContinue: true,
      strictPreflight: false,
    });
  }
  app.addHook('onRequest', (request, _reply, done) => {
    try {
      checkRequest(request, settings);
      done();
    } catch (error) {
      done(error as Error);
    }
  });
  app.addHook('onResponse', (request, reply, done) => {
    context.metrics.answered(request.routeOptions.url ?? 'none', reply.statusCode);
    done();
  });
  app.setErrorHandler((error, _request, reply) => { refuse(reply, error, settings); });
  app.setNotFoundHandler((request, reply) => {
    refuse(reply, new ApiError(404, 'not_found', `there is no ${request.method} ${request.url.split('?')[0]?.slice(0, 200)}`), settings);
  });
  await describe(app);
  app.after(() => {
    for (const routes of [chatRoute, completionsRoute, responsesRoute, modelsRoutes, sessionsRoutes, operationRoutes, pageRoutes]) routes(app, context);
  });
  await app.ready();
  return app;
}

/** What Node found wrong before there was a request. */
function connectionError(code: string | undefined): ApiError {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return new ApiError(408, 'request_timeout', 'the request did not arrive in time');
  if (code === 'HPE_HEADER_OVERFLOW') return new ApiError(431, 'headers_too_large', 'the headers are too large');
  return new ApiError(400, 'malformed_request', 'the request is not HTTP as it should be');
}

async function describe(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'magicpig', version: '1', description: 'Long-context language models with sampled attention' },
      components: {
        securitySchemes: {
          key: { type: 'http', scheme: 'bearer' },
          password: { type: 'http', scheme: 'basic', description: 'The key as the password of any user' },
        },
      },
      security: [{ key: [] }, { password: [] }],
    },
  });
}

/** Schemas are written in zod; what is checked and what is published is the JSON schema of them. */
function rememberRoutes(app: FastifyInstance): void {
  const routes: { method: string; url: string }[] = [];
  app.decorate('knownRoutes', routes);
  app.addHook('onRoute', (route) => {
    for (const method of [route.method].flat()) routes.push({ method, url: route.url });
    const { schema } = route;
    if (schema === undefined) return;
    for (const part of ['body', 'params'] as const) {
      if (schema[part] instanceof z.ZodType) schema[part] = jsonSchema(schema[part], 'input');
    }
    const responses = (schema.response ?? {}) as Record<string, unknown>;
    for (const [status, answer] of Object.entries(responses)) {
      if (answer instanceof z.ZodType) responses[status] = jsonSchema(answer, 'output');
    }
  });
}

function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): object {
  return { ...z.toJSONSchema(schema, { io, target: 'draft-7' }), $schema: undefined };
}

function routesOf(app: FastifyInstance): readonly { method: string; url: string }[] {
  return app.getDecorator<{ method: string; url: string }[]>('knownRoutes');
}

function refuse(reply: FastifyReply, error: unknown, settings: Settings): void {
  const { status, body, retryAfter } = refusalOf(error, settings.sessionsDir);
  if (status >= 500 && status !== 503) reply.log.error({ err: error }, 'failed');
  if (retryAfter !== undefined) reply.header('retry-after', String(retryAfter));
  if (status === 401) reply.header('www-authenticate', challengeOf(reply.request));
  void reply.status(status).send(body);
}

async function listen(app: FastifyInstance, { host, port }: Settings): Promise<string> {
  return await app.listen({ host, port }).catch((cause: unknown) => {
    const { code } = cause as NodeJS.ErrnoException;
    const reason = code === 'EADDRINUSE' ? 'it is in use' : code === 'EADDRNOTAVAIL' ? 'this machine does not have it' : code === 'EACCES' ? 'this user may not' : String(cause);
    throw new MagicpigError('ADDRESS_UNAVAILABLE', `cannot listen at ${host}, port ${port}: ${reason}; choose another --port or --host`, { cause });
  });
}

async function until(condition: () => boolean, milliseconds: number): Promise<void> {
  const end = performance.now() + milliseconds;
  while (!condition() && performance.now() < end) await after(20);
}

async function after(milliseconds: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}
