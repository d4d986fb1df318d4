import type { CommandModule, InferredOptionTypes } from 'yargs';
import { policyNames } from '../decode/options.js';
import { MagicpigError } from '../errors.js';
import type { ServeOptions } from '../server/options.js';
import { denseLayersOption, layersFrom } from './dense-layers-option.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';
import { rowsOption } from './rows-option.js';
import type { Terminal } from './terminal.js';

const options = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  host: { type: 'string', default: '127.0.0.1', describe: "Address to listen at; one that other machines can reach needs a key" },
  port: { alias: 'p', type: 'number', default: 8080, describe: 'Port to listen at; 0 takes a free one' },
  'api-key': { type: 'string', describe: 'What requests must carry as a bearer token [default: MAGICPIG_API_KEY of the environment]' },
  'cors-origin': { type: 'string', array: true, describe: 'Origin of web pages that may use the server, as in https://example.org; may be given several times' },
  'allowed-host': { type: 'string', array: true, describe: 'Name under which clients reach the server, besides its address; may be given several times' },
  'sessions-dir': { type: 'string', describe: 'Folder that keeps the sessions which requests name [default: they cannot name any]' },
  'max-sessions': { type: 'number', default: 1000, describe: 'Sessions that the folder may have' },
  parallel: { type: 'number', default: 4, describe: 'Requests that are worked on at the same time' },
  queue: { type: 'number', default: 64, describe: 'Requests that may wait; those beyond it get status 503' },
  'body-limit': { type: 'number', describe: 'Bytes that a request may have [default: 32 a token of the context, from 1 MiB to 64 MiB]' },
  drain: { type: 'number', default: 25, describe: 'Seconds that requests have to end after SIGTERM or Ctrl-C' },
  policy: { type: 'string', choices: policyNames, describe: 'How attention is computed while generating [default: sketch, or as a session was made]' },
  budget: { type: 'number', describe: 'sketch, topk, oracle, quest: mean fraction of the indexed keys that a step reads [default: 0.02 of 8,192 keys, less in longer texts]' },
  'target-error': { type: 'number', describe: 'sketch, instead of a budget: read as many keys as make this the mean relative error of attention, by its own prediction' },
  epsilon: { type: 'number', describe: 'sketch, instead of a budget: read more keys until the interval of every relative error of attention ends below this' },
  delta: { type: 'number', describe: 'With --epsilon: how often an interval may be wrong [default: 0.05]' },
  'sketch-bits': { type: 'number', describe: 'sketch: bits of the copy of each key element: 1, 2 or 4 [default: 4]' },
  residual: { type: 'boolean', describe: 'sketch: keep a copy of the values too, which the keys that are read correct: needs fewer of them [default: false]' },
  'dense-layers': denseLayersOption,
  'lsh-k': { type: 'number', describe: 'lsh: bits a table, 1 to 16; more bits, fewer keys read [default: 10]' },
  'lsh-l': { type: 'number', describe: 'lsh: tables, 2 to 1000; more tables, more keys read [default: 150]' },
  rows: rowsOption,
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
  device: { type: 'string', default: 'cpu', describe: 'Where the dense layers of long prompts run: cpu or webgpu' },
  'lm-head': { type: 'string', default: 'file', describe: 'Bits of the output head in memory: as the file has it, or 8' },
  weights: { type: 'string', default: 'file', describe: 'Bits of 16 and 32-bit weights in memory: as the file has them, 8 or 4' },
  context: { type: 'number', describe: 'Tokens that a text may have [default: as the model was trained for]' },
} as const;

type Arguments = InferredOptionTypes<typeof options>;

export const serve = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'serve',
  describe: "Answer requests in OpenAI's format over HTTP",
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 serve --sessions-dir sessions', 'for programs on this machine, with sessions that survive restarts')
      .example('MAGICPIG_API_KEY=... $0 serve --host 0.0.0.0 --allowed-host box.example', 'for other machines'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const { Server } = await import('../server/server.js');
  const { deviceFrom, lmHeadFrom, weightsFrom } = await import('../decode/options.js');
  const wanted: ServeOptions = {
    model: args.model,
    host: args.host,
    port: args.port,
    // An empty variable is one that was not set.
    apiKey: args['api-key'] ?? (process.env['MAGICPIG_API_KEY'] || undefined),
    corsOrigins: args['cors-origin'],
    allowedHosts: args['allowed-host'],
    sessionsDir: args['sessions-dir'],
    maxSessions: args['max-sessions'],
    parallel: args.parallel,
    queue: args.queue,
    bodyLimit: args['body-limit'],
    drainSeconds: args.drain,
    policy: args.policy,
    budget: args.budget,
    targetError: args['target-error'],
    epsilon: args.epsilon,
    delta: args.delta,
    sketchBits: args['sketch-bits'],
    residual: args.residual,
    denseLayers: layersFrom(args['dense-layers']),
    lshK: args['lsh-k'],
    lshL: args['lsh-l'],
    rows: args.rows,
    threads: args.threads,
    device: deviceFrom(args.device),
    lmHead: lmHeadFrom(args['lm-head']),
    weights: weightsFrom(args.weights),
    context: args.context,
  };
  const lost = new AbortController();
  await using server = await Server.start(wanted, {
    signal,
    logger: { level: 'info', stream: process.stderr },
    onLost: (cause) => { lost.abort(new MagicpigError('INTERNAL', `the server lost its model: ${cause.message}`, { cause })); },
  });
  terminal.result({ url: server.url, model: server.modelName, pid: process.pid }, `${server.modelName} answers at ${server.url}/v1`);
  await aborted(AbortSignal.any([signal, lost.signal]));
  lost.signal.throwIfAborted();
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise((resolve) => { signal.addEventListener('abort', resolve, { once: true }); });
}
