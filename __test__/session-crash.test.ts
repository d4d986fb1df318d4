// What was acknowledged before a crash is there after it: a writing process is killed, several times over.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { loadModel, verifySession } from '../src/index.js';
import { generated, longText, tinyModelFile } from './support/session-folder.js';
import { temporaryFolder } from './support/temporary.js';

const writer = join(import.meta.dirname, 'support', 'kept-writer.ts');

/** Lets a process write, and kills it some milliseconds after it has acknowledged so many checkpoints. Returns the last one's tokens. */
async function killed(t: ExecutionContext, args: readonly string[], checkpoints: number, later: number): Promise<number> {
  const child = spawn(process.execPath, ['--import', 'tsx', writer, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const closed = new Promise<NodeJS.Signals | null>((resolve) => child.once('close', (_, signal) => { resolve(signal); }));
  let tokens = 0;
  let seen = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    tokens = Number(line);
    seen += 1;
    if (seen !== checkpoints) continue;
    // What is printed while waiting counts too.
    void pause(later).then(() => child.kill('SIGKILL'));
  }
  t.is(await closed, 'SIGKILL');
  return tokens;
}

test('a killed process loses nothing that was acknowledged, and the text goes on as though it had not been killed', async (t) => {
  const file = tinyModelFile(t);
  const folder = join(temporaryFolder(t), 'session');
  await using model = await loadModel(file, { threads: 2 });
  let before = 0;
  for (const [checkpoints, later] of [[1, 0], [3, 7], [6, 3], [4, 11], [9, 1]] as const) {
    const acknowledged = await killed(t, [file, folder], checkpoints, later);
    t.true(acknowledged > before);
    using session = await model.openSession(folder, { readOnly: true });
    t.true(session.tokens.length >= acknowledged, `${session.tokens.length} tokens, ${acknowledged} were acknowledged`);
    t.deepEqual((await verifySession(folder)).problems, []);
    before = session.tokens.length;
  }
  using session = await model.openSession(folder);
  using never = model.createSession({ budget: 0.1 });
  await never.prefill(longText(300));
  while (never.tokens.length < session.tokens.length) await generated(never, { maxTokens: 1 });
  t.deepEqual(never.tokens.slice(0, session.tokens.length), session.tokens);
});
