import { constants } from 'node:fs';
import { access, stat, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { MagicpigError } from '../errors.js';
import { tryFolder } from '../model/make-folder.js';

/** Whether a report can be written, before hours are spent on what it is about. Throws FILE_UNWRITABLE. */
export async function checkReportFile(file: string | undefined): Promise<void> {
  if (file === undefined) return;
  const found = await stat(file).catch(() => undefined);
  if (found?.isDirectory()) throw unwritable(file, 'it is a folder');
  await (found ? access(file, constants.W_OK) : tryFolder(dirname(resolve(file)))).catch((cause: unknown) => { throw unwritable(file, cause); });
}

/** Writes the page to `file`, where one was named. Throws FILE_UNWRITABLE. */
export async function writeReport(file: string | undefined, page: () => Promise<string>): Promise<void> {
  if (file === undefined) return;
  const html = await page();
  await writeFile(file, html).catch((cause: unknown) => { throw unwritable(file, cause); });
}

function unwritable(file: string, cause: unknown): MagicpigError {
  return new MagicpigError('FILE_UNWRITABLE', `cannot write ${file}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
}
