import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MagicpigError } from '../../errors.js';
import { fileError } from '../../model/file-error.js';
import type { Random } from '../random.js';

/** A text of this project, which a clone of the repository has and the published package has not. */
const OWN_TEXT = join(import.meta.dirname, '..', '..', '..', 'docs', 'sampled-attention.md');

/** So few sentences would repeat within a page. */
const LEAST_SENTENCES = 20;

/** The sentences of a file of prose, plain or in Markdown. Throws FILE_NOT_FOUND, FILE_UNREADABLE or INVALID_OPTION. */
export async function readProse(file: string | undefined): Promise<string[]> {
  const text = await readFile(file ?? OWN_TEXT, 'utf8').catch((error: unknown) => {
    if (file === undefined) throw new MagicpigError('INVALID_OPTION', 'there is no text to hide sentences in; give one of some pages with --prose-file FILE');
    throw fileError(error, file);
  });
  const sentences = sentencesOf(text);
  if (sentences.length < LEAST_SENTENCES) {
    throw new MagicpigError('INVALID_OPTION', `the prose has ${sentences.length} sentences; it needs ${LEAST_SENTENCES} or more`);
  }
  return sentences;
}

/** Sentences of paragraphs; headings, lists, tables and code are left out. */
export function sentencesOf(text: string): string[] {
  const paragraphs = text
    .replace(/^(```|~~~)[\s\S]*?^\1.*$/gm, '')
    .split(/\n\s*\n/)
    .filter((block) => /^\s{0,3}[\p{L}"'“(]/u.test(block))
    .map((block) => block.replace(/[*_`]|\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/\s+/g, ' ').trim());
  const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' });
  return paragraphs.flatMap((paragraph) => Array.from(segmenter.segment(paragraph), ({ segment }) => segment.trim()).filter((sentence) => sentence !== ''));
}

/** `count` sentences in their order, from anywhere, and from the beginning again after the last. */
export function proseFrom(random: Random, sentences: readonly string[], count: number): string[] {
  const first = random.below(sentences.length);
  return Array.from({ length: count }, (_, i) => sentences[(first + i) % sentences.length] ?? '');
}

/** Puts each of `inserted` at a boundary of `texts`, at random depths, in order: the text, and the depths, from 0 to 1. */
export function hidden(random: Random, texts: readonly string[], inserted: readonly string[]): { texts: string[]; depths: number[] } {
  const places = Array.from(inserted, () => random.below(texts.length + 1)).sort((a, b) => a - b);
  const out: string[] = [];
  let next = 0;
  for (let at = 0; at <= texts.length; at += 1) {
    while (next < places.length && places[next] === at) out.push(inserted[next++] ?? '');
    if (at < texts.length) out.push(texts[at] ?? '');
  }
  return { texts: out, depths: places.map((place) => place / Math.max(1, texts.length)) };
}
