import type { Random } from '../random.js';
import type { Task } from './task.js';
import { inventedWord, letters, plainWords } from './words.js';

/** Words that occur often in `cwe`, and that are asked for. */
const COMMON = 10;
/** How often they and the others occur, and in a list that is too short for that. */
const REPEATS = { common: 30, other: 3 };
const SHORT_REPEATS = { common: 6, other: 1 };
/** Below so many words, a list is a short one. */
const SHORT_LIST = 600;
/** Words in the example that shows how to answer. */
const EXAMPLE_LIST = 70;

/** A list in which ten words are more common than the others: which? (RULER, section 3.3, `cwe`) */
export const commonWords: Task = {
  name: 'cwe',
  answerTokens: 120,
  make: (random, size) => {
    const example = list(random, EXAMPLE_LIST);
    const asked = list(random, size);
    return {
      prompt: `${ask(example.text)}\n${ANSWER} ${numbered(example.common)}\n\n${ask(asked.text)}`,
      answerPrefix: ANSWER,
      references: asked.common,
      depths: [],
    };
  },
};

const ANSWER = `Answer: the ${COMMON} words that occur most often in the list are:`;

function ask(text: string): string {
  return `Here is a numbered list in which some words occur more often than others. Remember those.\n\n${text}\n\nQuestion: which ${COMMON} words occur most often in the list?`;
}

/** A list of `size` words or a few less. */
function list(random: Random, size: number) {
  const repeats = size < SHORT_LIST ? SHORT_REPEATS : REPEATS;
  const others = Math.max(1, Math.floor((size - COMMON * repeats.common) / repeats.other));
  // Beyond what the project's own list has, words are invented.
  const words = COMMON + others <= plainWords.length
    ? random.shuffled(plainWords).slice(0, COMMON + others)
    : random.distinct(COMMON + others, () => inventedWord(random));
  const common = words.slice(0, COMMON);
  const all = words.flatMap((word, i) => Array.from({ length: i < COMMON ? repeats.common : repeats.other }, () => word));
  return { common, text: numbered(random.shuffled(all)) };
}

function numbered(words: readonly string[]): string {
  return words.map((word, i) => `${i + 1}. ${word}`).join(' ');
}

/** Letters of a coded word of `fwe`, and how fast frequencies fall: the k-th word's goes with k^-2. */
const CODED_LETTERS = 6;
const EXPONENT = 2;
const FREQUENT = 3;

/** Coded words whose frequencies fall off by Zipf's law, the most frequent one a row of dots: which three come next? (RULER,
 * section 3.3, `fwe`) */
export const frequentWords: Task = {
  name: 'fwe',
  answerTokens: 50,
  make: (random, size) => {
    // Words whose turn would come less than once.
    const ranks = Math.max(FREQUENT + 1, Math.floor(Math.sqrt(size)));
    const words = random.distinct(ranks - 1, () => letters(random, CODED_LETTERS));
    // The sum of all k^-2.
    const total = (Math.PI ** 2) / 6;
    const share = (i: number) => Math.floor((size * (i + 1) ** -EXPONENT) / total);
    // The third is more frequent than those after it, however short the text.
    const least = Math.max(2, share(FREQUENT));
    const all = ['....', ...words].flatMap((word, i) => {
      const times = i <= FREQUENT ? Math.max(least, share(i)) : Math.min(least - 1, share(i));
      return Array.from({ length: times }, () => word);
    });
    return {
      prompt: `The text below is in code. Count how often each coded word occurs; the dots are no words.\n\n${random.shuffled(all).join(' ')}\n\nQuestion: which three coded words occur most often in the text? Name them and explain nothing.`,
      answerPrefix: 'Answer: the three coded words that occur most often are:',
      references: words.slice(0, FREQUENT),
      depths: [],
    };
  },
};
