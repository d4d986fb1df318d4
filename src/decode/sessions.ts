import { readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { MagicpigError } from '../errors.js';
import { fileError } from '../model/file-error.js';
import * as native from '../native.js';
import type { NativeReport } from '../native.js';
import type { PolicyName, PolicyOptions, RowType } from './options.js';

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

/** What the checksums of a session say. It is whole when there are no problems. */
export type SessionReport = NativeReport;

/** What is in the session in a folder. Throws SESSION_NOT_FOUND, SESSION_CORRUPT and the like. */
export async function inspectSession(directory: string): Promise<SessionInfo> {
  folderFrom(directory);
  const { fingerprint, tokens, segments, bytes } = native.inspectSession(directory);
  const fields = fieldsOf(fingerprint);
  const names = await readdir(directory).catch((error: unknown) => { throw fileError(error, directory); });
  // A writer removes files meanwhile.
  const found = await Promise.all(names.map((name) => stat(join(directory, name)).catch(() => undefined)));
  const files = found.filter((file) => file !== undefined);
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

/** Reads every checksum of the session in a folder, also beside a writer. Damage is no error, but among the problems. */
export async function verifySession(directory: string): Promise<SessionReport> {
  folderFrom(directory);
  return await native.verifySession(directory);
}

/** Packs the last checkpoint of a session into the new file `archive`, also beside a writer. Returns the file's bytes. */
export async function exportSession(directory: string, archive: string): Promise<number> {
  folderFrom(directory);
  fileFrom(archive);
  await checkParent(archive);
  return await native.exportSession(directory, archive);
}

/** Makes a session in a folder that is not there yet from what {@link exportSession} packed. Compares every checksum. */
export async function importSession(archive: string, directory: string): Promise<void> {
  fileFrom(archive);
  folderFrom(directory);
  await checkParent(directory);
  await native.importSession(archive, directory);
}

/** Removes the session in a folder, and the folder. Throws SESSION_FOREIGN if there are other files in it. */
export function removeSession(directory: string): void {
  folderFrom(directory);
  native.removeSession(directory);
}

/** The options, and where they leave it open those that the session in the folder was made with, if there is one. */
export function withKept<T extends PolicyOptions & { readonly seed?: number | undefined; readonly rows?: RowType | undefined }>(directory: string, options: T): T {
  const kept = keptOptions(directory);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  return { ...kept, ...given } as T;
}

function keptOptions(directory: string): PolicyOptions & { seed?: number; rows?: RowType } {
  try {
    const { seed, rows, index, sketchBits, residual, lshK, lshL } = fieldsOf(native.inspectSession(directory).fingerprint);
    const numbers = Object.entries({ seed, sketchBits, lshK, lshL }).map(([name, value]) => [name, Number(value)] as const);
    return { policy: index as PolicyName, rows: rows as RowType, ...(index === 'sketch' && { residual: residual === 'true' }), ...Object.fromEntries(numbers.filter(([, value]) => Number.isInteger(value))) };
  } catch (error) {
    // That it is not there, or what is wrong with it, is for opening to say.
    if (MagicpigError.isInstance(error)) return {};
    throw error;
  }
}

function fieldsOf(fingerprint: readonly native.NativeField[]): Record<string, string> {
  return Object.fromEntries(fingerprint.map(({ name, value }) => [name, value]));
}

/** An empty name would be the current folder. */
export function folderFrom(directory: string): void {
  if (typeof directory !== 'string' || directory === '') throw new MagicpigError('INVALID_OPTION', "the session's folder must be named");
}

/** Whether there is a folder for what is to be made. */
export async function checkParent(path: string): Promise<void> {
  const parent = dirname(resolve(path));
  const found = await stat(parent).catch((error: unknown) => { throw fileError(error, parent); });
  if (!found.isDirectory()) throw new MagicpigError('FILE_NOT_FOUND', `${parent} is not a folder, and nothing can be made in it`);
}

function fileFrom(archive: string): void {
  if (typeof archive !== 'string' || archive === '') throw new MagicpigError('INVALID_OPTION', "the archive's file must be named");
}
