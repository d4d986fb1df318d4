import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import type { ExecutionContext } from 'ava';

import { writeGguf } from './gguf-writer.js';
import { temporaryFolder } from './temporary.js';
import { tinyLlama } from './tiny-llama.js';

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly stdin?: string | undefined;
  /** Sends SIGINT when stdout or stderr has shown this. */
  readonly interruptAt?: RegExp;
}

export const main = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.ts');

/** What Node is given to run it. */
export const typescript = ['--import', pathToFileURL(join(import.meta.dirname, 'typescript.mjs')).href];

/** Runs the program from its sources. */
export async function magicpig(args: readonly string[], { env, cwd, stdin, interruptAt }: RunOptions = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [...typescript, main, ...args], { cwd, env: { ...process.env, ...env } });
  const text = { stdout: '', stderr: '' };
  let interrupted = false;
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (part: string) => {
      text[name] += part;
      if (interruptAt?.test(text[name]) && !interrupted) {
        interrupted = true;
        child.kill('SIGINT');
      }
    });
  }
  child.stdin.end(stdin ?? '');
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, ...text };
}

/** A tiny model with the smallest head that the engine takes. */
export function model(t: ExecutionContext, context = 1024): string {
  const spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context });
  return writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec);
}

/** One line on stderr, nothing on stdout, no stack. */
export function failsWith(t: ExecutionContext, outcome: Outcome, code: number, message: RegExp): void {
  t.is(outcome.code, code, outcome.stderr);
  t.is(outcome.stdout, '');
  t.regex(outcome.stderr, /^magicpig: [^\n]+\n$/);
  t.regex(outcome.stderr, message);
}
