import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import type { ExecutionContext } from 'ava';

import { loadModel } from '../../src/index.js';
import type { GenerateOptions, Model, Session } from '../../src/index.js';
import { writeGguf } from './gguf-writer.js';
import { temporaryFolder } from './temporary.js';
import { tinyLlama } from './tiny-llama.js';

/** The file of a tiny model; another seed, other weights. */
export function tinyModelFile(t: ExecutionContext, seed = 1): string {
  return writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096 }, seed));
}

export async function tinyModel(t: ExecutionContext, seed = 1, context?: number): Promise<Model> {
  const model = await loadModel(tinyModelFile(t, seed), { threads: 2, context });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

/** Tokens of a text that tables and codes are made of: longer than the static set. */
export function longText(length = 1000, salt = 0): number[] {
  return Array.from({ length }, (_, i) => (i * i * 7 + (3 + salt) * i) % 264);
}

export async function generated(session: Session, options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const { token } of session.generate(options)) tokens.push(token);
  return tokens;
}

/** A digest of each file in a folder. */
export function digests(folder: string): Record<string, string> {
  const digest = (name: string) => createHash('sha256').update(readFileSync(join(folder, name))).digest('hex');
  return Object.fromEntries(readdirSync(folder).sort().map((name) => [name, digest(name)]));
}
