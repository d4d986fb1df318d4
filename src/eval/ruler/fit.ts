import { MagicpigError } from '../../errors.js';
import type { Model } from '../../decode/model.js';
import { Random } from '../random.js';
import type { Sample, Task } from './task.js';

/** A sample and its tokens, up to where the model is to continue. */
export interface Fitted {
  readonly sample: Sample;
  readonly tokens: readonly number[];
}

/**
 * The sample of a task with the largest long text such that question and answer together have no more than `length` tokens.
 * The same seed gives the same sample. Throws INVALID_OPTION where not even the smallest one fits.
 */
export function fitted(model: Model, task: Task, length: number, seed: number, prose: readonly string[]): Fitted {
  const room = length - task.answerTokens;
  const at = (size: number): Fitted => {
    const sample = task.make(new Random(seed), size, prose);
    return { sample, tokens: tokensOf(model, sample) };
  };
  let best = at(1);
  if (best.tokens.length > room) {
    throw new MagicpigError('INVALID_OPTION', `${length} tokens are too few for ${task.name}, which needs ${best.tokens.length + task.answerTokens} or more`);
  }
  // Doubled until one is too long, then halved in between.
  let [fits, exceeds] = [1, Infinity];
  while (exceeds - fits > 1) {
    const size = exceeds === Infinity ? 2 * fits : Math.floor((fits + exceeds) / 2);
    const tried = at(size);
    if (tried.tokens.length <= room) [best, fits] = [tried, size];
    else exceeds = size;
  }
  return best;
}

/** As a user's message and the beginning of the assistant's, where the model has a chat template; else one text. */
function tokensOf(model: Model, { prompt, answerPrefix }: Sample): number[] {
  if (model.chatTemplate === undefined) return model.tokenizer.encode(`${prompt}\n${answerPrefix}`);
  return model.tokenizer.encode(model.renderChat([{ role: 'user', content: prompt }]) + answerPrefix, { parseSpecial: true });
}
