import { chmod, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { makeFolder } from '../../model/make-folder.js';

/** Lines that are kept, and characters of a line: longer ones are pasted texts, which nobody wants back. */
export const HISTORY_LINES = 1000;
const LINE_LENGTH = 2000;

/** Where the lines typed in chats are kept: not in a cache, which may be emptied at any time. */
export function historyPath(environment: NodeJS.ProcessEnv = process.env): string {
  const set = (name: string) => environment[name] || undefined;
  const state = set('XDG_STATE_HOME') ?? (process.platform === 'win32' ? set('LOCALAPPDATA') : undefined) ?? join(homedir(), '.local', 'state');
  return join(state, 'magicpig', 'chat-history');
}

/** The lines, the newest first, as readline has them; none where there is no such file. */
export async function readHistory(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.split('\n').filter((line) => line !== '').slice(-HISTORY_LINES).reverse();
}

/** Replaces the file whole, for its owner's eyes only. Throws Node's own errors. */
export async function writeHistory(path: string, lines: readonly string[]): Promise<void> {
  const kept = lines.filter((line) => line.length <= LINE_LENGTH).slice(0, HISTORY_LINES).reverse();
  const temporary = `${path}.${process.pid}.new`;
  await makeFolder(dirname(path), 0o700);
  try {
    await writeFile(temporary, kept.map((line) => `${line}\n`).join(''), { mode: 0o600 });
    await chmod(temporary, 0o600);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
