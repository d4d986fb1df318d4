import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';

/** What a file's bytes have to be: SHA-256, or the name git gives a blob (SHA-1 over a header with its size). */
export interface Digest {
  readonly algorithm: 'sha256' | 'git-sha1';
  readonly hex: string;
}

export function startDigest(algorithm: Digest['algorithm'], bytes: number): Hash {
  return algorithm === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`);
}

/** Feeds the first `bytes` bytes of a file to the hash. */
export async function digestFile(hash: Hash, path: string, bytes: number, signal?: AbortSignal): Promise<void> {
  if (bytes === 0) return;
  for await (const chunk of createReadStream(path, { end: bytes - 1, ...(signal && { signal }) })) hash.update(chunk as Buffer);
}

export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await digestFile(hash, path, Infinity, signal);
  return hash.digest('hex');
}
