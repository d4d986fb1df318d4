import { setFlagsFromString } from 'node:v8';
import type { CommandModule, InferredOptionTypes } from 'yargs';
import { MagicpigError } from '../errors.js';
import type { ServeOptions } from '../server/options.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';
import { policyOf, policyOptions } from './policy-options.js';
import { rowsOption } from './rows-option.js';
import { chosenDevice, runtimeOf, runtimeOptions } from './runtime-options.js';
import type { Terminal } from './terminal.js';

const options = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  host: { type: 'string', default: '127.0.0.1', describe: "Address to listen at; one that other machines can reach needs a key" },
  port: { alias: 'p', type: 'number', default: 8080, describe: 'Port to listen at; 0 takes a free one' },
  'api-key': { type: 'string', describe: 'What requests must carry as a bearer token, and what browsers ask for as a password [default: MAGICPIG_API_KEY of the environment]' },
  'cors-origin': { type: 'string', array: true, describe: 'Origin of web pages that may use the server, as in https://example.org; may be given several times' },
  'allowed-host': { type: 'string', array: true, describe: 'Name under which clients reach the server, besides its address; may be given several times' },
  'sessions-dir': { type: 'string', describe: 'Folder that keeps the sessions which requests name [default: they cannot name any]' },
  'max-sessions': { type: 'number', default: 1000, describe: 'Sessions that the folder may have' },
  parallel: { type: 'number', default: 4, describe: 'Requests that are worked on at the same time' },
  queue: { type: 'number', default: 64, describe: 'Requests that may wait; those beyond it get status 503' },
  'body-limit': { type: 'number', describe: 'Bytes that a request may have [default: 32 a token of the context, from 1 MiB to 64 MiB]' },
  drain: { type: 'number', default: 25, describe: 'Seconds that requests have to end after SIGTERM or Ctrl-C' },
  ...policyOptions,
  rows: rowsOption,
  ...runtimeOptions,
} as const;

/**
 * By how much V8's heaps may grow before they are collected, in percent of what was alive. Left to itself V8 lets a heap grow to four times that where
 * collections are quick, which a server takes as memory for good.
 */
const HEAP_GROWTH = 50;

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
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH}`);
  const { Server } = await import('../server/server.js');
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
    ...policyOf(args),
    rows: args.rows,
    ...runtimeOf(args),
  };
  const lost = new AbortController();
  await using server = await Server.start(wanted, {
    signal,
    logger: { level: 'info', stream: process.stderr },
    onLost: (cause) => { lost.abort(new MagicpigError('INTERNAL', `the server lost its model: ${cause.message}`, { cause })); },
  });
  if (args.device === 'auto') terminal.note(chosenDevice(server.device));
  terminal.result({ url: server.url, model: server.modelName, device: server.device, pid: process.pid }, `${server.modelName} answers at ${server.url}/v1; ${server.url}/ in a browser is a chat with a document`);
  await aborted(AbortSignal.any([signal, lost.signal]));
  lost.signal.throwIfAborted();
  const { unfinished } = server;
  if (unfinished > 0) terminal.note(`waiting up to ${args.drain} s for ${unfinished} ${unfinished === 1 ? 'request' : 'requests'}; Ctrl-C again ends it now`);
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise((resolve) => { signal.addEventListener('abort', resolve, { once: true }); });
}
