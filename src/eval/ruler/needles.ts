import type { Random } from '../random.js';
import { hidden, proseFrom } from './prose.js';
import type { Task } from './task.js';
import { keyWord, sevenDigits, uuid } from './words.js';

/** What surrounds the needles. */
type Haystack = 'noise' | 'prose' | 'needles';
type Kind = 'words' | 'numbers' | 'uuids';

interface Shape {
  readonly haystack: Haystack;
  readonly keys: Kind;
  readonly values: Kind;
  /** Keys that are hidden, values of each, and keys that are asked for. */
  readonly hiddenKeys?: number;
  readonly valuesOfKey?: number;
  readonly askedKeys?: number;
}

/** A line that says nothing, many times over. */
export const NOISE = 'Rain fell on the roof. The kettle was still warm. A cat slept by the door. Nobody was in a hurry. The clock went on ticking.';

const makers: Record<Kind, (random: Random) => string> = { words: keyWord, numbers: sevenDigits, uuids: uuid };
const called: Record<Kind, string> = { words: 'password', numbers: 'locker number', uuids: 'licence code' };

/** Sentences that tie a value to a key, hidden in a long text; asked for by key (RULER, section 3.1). */
function needles(name: string, { haystack, keys: keyKind, values: valueKind, hiddenKeys = 1, valuesOfKey = 1, askedKeys = 1 }: Shape): Task {
  const [key, value] = [makers[keyKind], makers[valueKind]];
  const thing = called[valueKind];
  const sentence = (owner: string, what: string) => `Take note that the ${thing} of ${owner} is ${what}.`;
  return {
    name,
    answerTokens: 128,
    make: (random, size, prose) => {
      // Those of a haystack of needles are other keys, and every value occurs once.
      const others = haystack === 'needles' ? size : 0;
      const owners = random.distinct(hiddenKeys + others, () => key(random));
      const what = random.distinct(hiddenKeys * valuesOfKey + others, () => value(random));
      const pairs = random.shuffled(owners.slice(0, hiddenKeys).flatMap((owner, i) =>
        what.slice(i * valuesOfKey, (i + 1) * valuesOfKey).map((one) => ({ owner, value: one }))));
      const around = haystack === 'noise'
        ? Array.from({ length: size }, () => NOISE)
        : haystack === 'prose'
          ? proseFrom(random, prose, size)
          : owners.slice(hiddenKeys).map((owner, i) => sentence(owner, what[hiddenKeys * valuesOfKey + i] ?? ''));
      const { texts, depths } = hidden(random, around, pairs.map((pair) => sentence(pair.owner, pair.value)));
      const asked = owners.slice(0, askedKeys);
      const wanted = (owner: string) => asked.includes(owner);
      const one = askedKeys * valuesOfKey === 1;
      const whose = `${thing}${one ? '' : 's'} of ${listed(asked)}`;
      return {
        prompt: [
          `The text below mentions ${one ? `a ${thing}` : `several ${thing}s`} in passing. Read it and remember ${one ? 'it' : 'them'}; a question follows.`,
          texts.join(haystack === 'prose' ? ' ' : '\n'),
          one ? `What is the ${whose}, as the text has it?` : `What are all the ${whose}, as the text has them?`,
        ].join('\n\n'),
        answerPrefix: `As the text has ${one ? 'it' : 'them'}, the ${whose} ${one ? 'is' : 'are'}`,
        references: pairs.filter((pair) => wanted(pair.owner)).map((pair) => pair.value),
        depths: depths.filter((_, i) => wanted(pairs[i]?.owner ?? '')),
      };
    },
  };
}

function listed(words: readonly string[]): string {
  return words.length < 2 ? words.join() : `${words.slice(0, -1).join(', ')} and ${words.at(-1) ?? ''}`;
}

export const needleTasks: readonly Task[] = [
  needles('niah_single_1', { haystack: 'noise', keys: 'words', values: 'numbers' }),
  needles('niah_single_2', { haystack: 'prose', keys: 'words', values: 'numbers' }),
  needles('niah_single_3', { haystack: 'prose', keys: 'words', values: 'uuids' }),
  needles('niah_multikey_1', { haystack: 'prose', keys: 'words', values: 'numbers', hiddenKeys: 4 }),
  needles('niah_multikey_2', { haystack: 'needles', keys: 'words', values: 'numbers' }),
  needles('niah_multikey_3', { haystack: 'needles', keys: 'uuids', values: 'uuids' }),
  needles('niah_multivalue', { haystack: 'prose', keys: 'words', values: 'numbers', valuesOfKey: 4 }),
  needles('niah_multiquery', { haystack: 'prose', keys: 'words', values: 'numbers', hiddenKeys: 4, askedKeys: 4 }),
];
