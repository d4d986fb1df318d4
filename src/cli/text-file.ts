import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import { MagicpigError } from '../errors.js';
import { fileError } from '../model/file-error.js';

/** The text in a file. A PDF or a text in another encoding would be read as rubbish, for minutes. Throws FILE_NOT_FOUND or FILE_UNREADABLE. */
export async function readTextFile(path: string): Promise<string> {
  return textOf(await readFile(path).catch((error: unknown) => { throw fileError(error, path); }), path);
}

/** The text that a pipe brings. Throws FILE_UNREADABLE. */
export async function readTextStream(stream: NodeJS.ReadableStream): Promise<string> {
  return textOf(await buffer(stream), 'standard input');
}

function textOf(content: Buffer, name: string): string {
  if (!isUtf8(content) || content.includes(0)) throw new MagicpigError('FILE_UNREADABLE', `${name} is no text in UTF-8; convert it first (${remedy(content)})`);
  return content.toString('utf8');
}

/** What makes a text of it, by how it begins. */
function remedy(content: Buffer): string {
  if (content.subarray(0, 5).toString('latin1') === '%PDF-') return 'a PDF: pdftotext';
  if (content[0] === 0x50 && content[1] === 0x4b) return 'a ZIP, as .docx, .odt and .epub are: pandoc -t plain';
  if (['fffe', 'feff'].includes(content.subarray(0, 2).toString('hex'))) return 'iconv -f utf-16 -t utf-8';
  return content.includes(0) ? 'pdftotext, pandoc' : 'iconv -f latin1 -t utf-8';
}
