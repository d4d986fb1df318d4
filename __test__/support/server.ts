import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Server } from '../../src/server/server.js';
import type { ServeOptions } from '../../src/server/options.js';
import { writeGguf } from './gguf-writer.js';
import { tinyLlama } from './tiny-llama.js';

export const apiKey = 'a-key-for-tests';

export interface RunningServer extends AsyncDisposable {
  readonly server: Server;
  readonly folder: string;
  readonly sessions: string;
}

/** A server with a model of random weights, whose name is "tiny". */
export async function runningServer(options: Partial<ServeOptions> = {}): Promise<RunningServer> {
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-server-'));
  const sessions = join(folder, 'sessions');
  const model = writeGguf(join(folder, 'tiny.gguf'), tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 2048 }));
  const server = await Server.start({ model, port: 0, apiKey, threads: 1, sessionsDir: sessions, ...options });
  return {
    server,
    folder,
    sessions,
    [Symbol.asyncDispose]: async () => {
      await server.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A text that goes on for a thousand tokens, which random weights would end at some time. */
export const longAnswer = {
  response_format: { type: 'json_schema' as const, json_schema: { name: 'long', schema: { type: 'array', items: { type: 'boolean' }, minItems: 300, maxItems: 300 } } },
};

/** A figure of the server's own. */
export async function metric(server: Server, name: string): Promise<number> {
  const answer = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${apiKey}` } });
  const line = (await answer.text()).split('\n').find((one) => one.startsWith(`${name} `));
  return Number(line?.split(' ').at(-1));
}

/** Waits until something holds; fails after ten seconds. */
export async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; Date.now() < end;) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error('it never came to hold');
}
