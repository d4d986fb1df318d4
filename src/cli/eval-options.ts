import type { InferredOptionTypes } from 'yargs';
import { type Variant, variantsOf } from '../eval/variants.js';
import { MagicpigError } from '../errors.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';

/** What both evaluations take. */
export const evalOptions = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  'sketch-bits': { type: 'number', default: 4, describe: 'sketch: bits of the copy of each key element: 1, 2 or 4' },
  residual: { type: 'boolean', default: false, describe: 'sketch: a copy of the values too, which the keys that are read correct' },
  'lsh-k': { type: 'string', default: '10', describe: 'lsh: bits a table; several are compared' },
  'lsh-l': { type: 'number', default: 150, describe: 'lsh: tables' },
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
  report: { type: 'string', describe: 'Write a page with plots to this file' },
} as const;

type Arguments = Pick<InferredOptionTypes<typeof evalOptions>, 'sketch-bits' | 'residual' | 'lsh-k' | 'lsh-l'>;

/** The policies at their budgets, as they were typed. */
export function variantsFrom(args: Arguments & { policies: string; budget: string | undefined }): Variant[] {
  return variantsOf({
    policies: list(args.policies),
    budgets: args.budget === undefined ? [undefined] : numbers('budget', args.budget),
    sketchBits: args['sketch-bits'],
    residual: args.residual,
    lshK: numbers('lsh-k', args['lsh-k']),
    lshL: args['lsh-l'],
  });
}

/** "a, b" as ["a", "b"]. */
export function list(text: string): string[] {
  return text.split(',').map((part) => part.trim()).filter((part) => part !== '');
}

/** "1, 2" as [1, 2]. */
export function numbers(name: string, text: string): number[] {
  const values = list(text).map(Number);
  if (values.length === 0 || values.some((value) => !Number.isFinite(value))) {
    throw new MagicpigError('INVALID_OPTION', `--${name} is ${text}; it takes numbers with commas between them`);
  }
  return values;
}
