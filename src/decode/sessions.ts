import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { fileError } from '../model/file-error.js';
import { inspectSession as inspectFolder } from '../native.js';

export { exportSession, importSession, removeSession, verifySession } from '../native.js';

/** What a session's folder holds. */
export interface SessionInfo {
  readonly directory: string;
  /** The model's name, as its file has it. */
  readonly model: string;
  readonly tokens: number;
  /** Segments of 32,768 tokens that it has begun. */
  readonly segments: number;
  /** Bytes of rows, index and tokens. */
  readonly bytes: number;
  /** Bytes that the folder's files occupy on the disk: more than `bytes`, since what was rewound keeps its room. */
  readonly diskBytes: number;
  /** When it was written last. */
  readonly lastUse: Date;
  /** What must be the same when it is opened. */
  readonly fingerprint: Readonly<Record<string, string>>;
}

/** What is in the session in a folder. Throws SESSION_NOT_FOUND, SESSION_CORRUPT and the like. */
export async function inspectSession(directory: string): Promise<SessionInfo> {
  const { fingerprint, tokens, segments, bytes } = inspectFolder(directory);
  const fields = Object.fromEntries(fingerprint.map(({ name, value }) => [name, value]));
  const files = await Promise.all((await readdir(directory)).map((name) => stat(join(directory, name))));
  return {
    directory,
    model: fields['model'] ?? 'unknown',
    tokens,
    segments,
    bytes,
    diskBytes: files.reduce((sum, { blocks }) => sum + 512 * blocks, 0),
    lastUse: new Date(Math.max(...files.map(({ mtimeMs }) => mtimeMs))),
    fingerprint: fields,
  };
}

/** The sessions in the folders inside `directory`, the newest first; what cannot be read is there with its error. */
export async function listSessions(directory: string): Promise<(SessionInfo | { directory: string; error: MagicpigError })[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: unknown) => { throw fileError(error, directory); });
  const folders = entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'));
  const found = await Promise.all(folders.map(async ({ name }) => {
    const path = join(directory, name);
    try {
      return await inspectSession(path);
    } catch (error) {
      if (!MagicpigError.isInstance(error)) throw error;
      return error.code === 'SESSION_NOT_FOUND' ? undefined : { directory: path, error };
    }
  }));
  const age = (session: (typeof found)[number]) => (session !== undefined && 'lastUse' in session ? session.lastUse.getTime() : 0);
  return found.filter((session) => session !== undefined).toSorted((a, b) => age(b) - age(a));
}
