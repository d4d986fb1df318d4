import type { Random } from '../random.js';
import { NOISE } from './needles.js';
import { hidden } from './prose.js';
import type { Task } from './task.js';
import { letters } from './words.js';

/** Assignments after the first: a name gets the value of the one before. */
const HOPS = 4;
/** Lines around the example that shows how to answer. */
const EXAMPLE_NOISE = 4;

/** A chain of assignments in a long text, in order: which names hold the value in the end? (RULER, section 3.2, `vt`) */
export const variableTracking: Task = {
  name: 'vt',
  answerTokens: 30,
  make: (random, size) => {
    const example = chain(random, EXAMPLE_NOISE);
    const asked = chain(random, size);
    return {
      prompt: `${question(example)} ${example.names.join(', ')}\n\n${ask(asked)}`,
      answerPrefix: answer(asked),
      references: asked.names,
      depths: asked.depths,
    };
  },
};

interface Chain {
  readonly names: readonly string[];
  readonly value: string;
  readonly text: string;
  readonly depths: readonly number[];
}

function chain(random: Random, noise: number): Chain {
  const names = random.distinct(HOPS + 1, () => letters(random, 5).toUpperCase());
  const value = String(10_000 + random.below(90_000));
  const assignments = names.map((name, i) => (i === 0 ? `SET ${name} TO ${value}` : `SET ${name} TO THE VALUE OF ${names[i - 1] ?? ''}`));
  const { texts, depths } = hidden(random, Array.from({ length: noise }, () => NOISE), assignments);
  return { names, value, text: texts.join('\n'), depths };
}

function ask({ text, value }: Chain): string {
  return `Some lines of the text below give values to names. Follow who gets what.\n\n${text}\n\nQuestion: which names have the value ${value} in the end?`;
}

function answer({ value, names }: Chain): string {
  return `Answer: ${names.length} names have the value ${value}. They are:`;
}

function question(of: Chain): string {
  return `${ask(of)}\n${answer(of)}`;
}
