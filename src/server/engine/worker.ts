import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { loadModel } from '../../decode/model.js';
import { MagicpigError } from '../../errors.js';
import { generate } from './generation.js';
import { NamedSessions } from './named.js';
import { SessionPool } from './pool.js';
import type { FromWorker, Holdings, Questions, ToWorker, WorkerOptions } from './protocol.js';
import { sizes } from './sizes.js';
import { Turns } from './turns.js';

/**
 * The thread that has the model: everything that takes time is here, so that the thread that speaks HTTP never waits for
 * it. Steps of decoding, encoding of texts and templates block this thread for milliseconds each.
 */
async function main(port: MessagePort, options: WorkerOptions): Promise<void> {
  const post = (message: FromWorker) => { port.postMessage(message); };
  const { model: reference, session, sessionsDir, maxSessions, parallel, ...load } = options;
  const model = await loadModel(reference, load);
  const pool = new SessionPool(() => model.createSession(session), parallel);
  const named = new NamedSessions(model, { directory: sessionsDir, limit: maxSessions, session });
  const turns = new Turns();
  const running = new Map<number, AbortController>();

  const answers: { [Name in keyof Questions]: (ask: Questions[Name]['ask']) => Questions[Name]['answer'] | Promise<Questions[Name]['answer']> } = {
    holdings: () => holdings(pool, named),
    sessions: () => named.list(),
    remove: ({ session: name }) => {
      named.remove(name);
      return null;
    },
    close: async () => {
      pool[Symbol.dispose]();
      await named.close();
      await model[Symbol.asyncDispose]();
      return null;
    },
  };

  port.on('message', (message: ToWorker) => {
    const { id } = message;
    switch (message.kind) {
      case 'generate': {
        const controller = new AbortController();
        running.set(id, controller);
        void generate({ model, pool, named, turns }, message.request, controller.signal, (event) => { post({ kind: 'event', id, event }); })
          .catch((error: unknown) => { post({ kind: 'event', id, event: { kind: 'failed', ...described(error) } }); })
          .finally(() => running.delete(id));
        break;
      }
      case 'abort':
        running.get(id)?.abort();
        break;
      case 'ask':
        void (async () => answers[message.name](message.ask as never))()
          .then((answer) => { post({ kind: 'answer', id, answer }); })
          .catch((error: unknown) => { post({ kind: 'refusal', id, ...described(error) }); })
          .finally(() => { if (message.name === 'close') port.close(); });
        break;
    }
  });
  post({ kind: 'ready', info: { context: model.context, chat: model.chatTemplate !== undefined, device: model.device } });
}

function holdings(pool: SessionPool, named: NamedSessions): Holdings {
  const all = [...pool.sessions, ...named.sessions].map(sizes);
  const sum = (of: 'indexBytes' | 'rowBytes') => all.reduce((total, size) => total + size[of], 0);
  return { pooled: pool.sessions.length, named: named.sessions.length, busy: pool.busy + named.busy, indexBytes: sum('indexBytes'), rowBytes: sum('rowBytes') };
}

function described(error: unknown): Pick<MagicpigError, 'code' | 'message'> {
  if (MagicpigError.isInstance(error)) return { code: error.code, message: error.message };
  return { code: 'INTERNAL', message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

if (parentPort !== null) {
  const port = parentPort;
  await main(port, workerData as WorkerOptions).catch((error: unknown) => {
    port.postMessage({ kind: 'unready', ...described(error) } satisfies FromWorker);
    port.close();
  });
}
