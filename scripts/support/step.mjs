// One command of a longer run.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A command that did not end well. */
export class StepFailed extends Error {}

/**
 * Runs a command to its end, its output on this process's stderr (`to: 2`, the default) or stdout (`to: 1`).
 * With `onLine`, stdout goes through it first, line by line.
 */
export async function step(name, command, args, { onLine, to = 2, env = {} } = {}) {
  const child = spawn(command, args, { stdio: ['ignore', onLine ? 'pipe' : to, 2], env: { ...process.env, ...env } });
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => { resolve(code ?? signal); });
  });
  if (onLine) createInterface({ input: child.stdout }).on('line', onLine);
  const status = await ended.catch((error) => error.message);
  if (status !== 0) throw new StepFailed(`${name} failed (${command} ${args.join(' ')}: ${status})`);
}
