import { once } from 'node:events';
import type { FastifyReply } from 'fastify';
import { refusalOf } from './errors.js';

/** An event of a stream; without a name it is a plain message. */
export interface ServerEvent {
  readonly name?: string;
  readonly data: unknown;
}

/** Something is sent so often at least, so that nothing in between takes the connection for dead while a long text is read. */
const KEEP_ALIVE_MS = 10_000;

/** A client that takes nothing for so long is gone. */
const STALLED_MS = 30_000;

/**
 * Answers with server-sent events. What fails after the first byte becomes an event, as OpenAI's clients expect it. `last`
 * is sent as it is when all has gone well.
 */
export async function sendEvents(reply: FastifyReply, events: AsyncIterable<ServerEvent>, last?: string): Promise<void> {
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  });
  raw.flushHeaders();
  const keepAlive = setInterval(() => {
    if (!raw.writableNeedDrain) raw.write(': waiting\n\n');
  }, KEEP_ALIVE_MS);
  try {
    for await (const { name, data } of events) {
      if (raw.destroyed) break;
      const written = raw.write(`${name === undefined ? '' : `event: ${name}\n`}data: ${JSON.stringify(data)}\n\n`);
      if (!written) await drained(reply);
    }
    if (last !== undefined && !raw.destroyed) raw.write(`data: ${last}\n\n`);
  } catch (error) {
    if (raw.destroyed) return;
    const { status, body } = refusalOf(error);
    if (status === 500) reply.log.error({ err: error }, 'failed in the middle of a stream');
    raw.write(`data: ${JSON.stringify(body)}\n\n`);
  } finally {
    clearInterval(keepAlive);
    raw.end();
  }
}

async function drained({ raw }: FastifyReply): Promise<void> {
  const stalled = AbortSignal.timeout(STALLED_MS);
  const closed = new AbortController();
  const close = () => { closed.abort(); };
  raw.once('close', close);
  try {
    await once(raw, 'drain', { signal: AbortSignal.any([stalled, closed.signal]) });
  } catch {
    raw.destroy();
  } finally {
    raw.off('close', close);
  }
}
