import type { InferredOptionTypes } from 'yargs';
import { MagicpigError } from '../errors.js';
import { type Variant, variantsOf } from '../eval/variants.js';
import { denseLayersOption, layersFrom } from './dense-layers-option.js';
import { list, numbers } from './lists.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';

/** What both evaluations take. */
export const evalOptions = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  'sketch-bits': { type: 'string', describe: 'sketch: bits of the copy of each key element: 1, 2, 4 or 8; several are compared [default: 4, with --residual 8]' },
  residual: { type: 'boolean', default: false, describe: 'sketch: a copy of the values too, which the keys that are read correct' },
  'lsh-k': { type: 'string', default: '10', describe: 'lsh: bits a table; several are compared' },
  'lsh-l': { type: 'number', default: 150, describe: 'lsh: tables' },
  'dense-layers': denseLayersOption,
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
  report: { type: 'string', describe: 'Write a page with plots to this file' },
} as const;

/** What an evaluation takes that can ask `sketch` for errors instead of budgets. */
export const errorOptions = {
  'target-error': { type: 'string', describe: 'sketch, instead of budgets: mean relative errors to aim at; several are compared' },
  epsilon: { type: 'string', describe: 'sketch, instead of budgets: verify every output to these relative errors' },
  delta: { type: 'number', describe: 'With --epsilon: how often an interval may be wrong [default: 0.05]' },
} as const;

type Arguments = Pick<InferredOptionTypes<typeof evalOptions>, 'sketch-bits' | 'residual' | 'lsh-k' | 'lsh-l' | 'dense-layers'> & Partial<InferredOptionTypes<typeof errorOptions>>;

/** The policies at their budgets, as they were typed. */
export function variantsFrom(args: Arguments & { policies: string; budget: string | undefined }): Variant[] {
  checkErrors(args);
  return variantsOf({
    policies: list(args.policies),
    budgets: args.budget === undefined ? [undefined] : numbers('budget', args.budget),
    errors: [
      ...(args['target-error'] === undefined ? [] : numbers('target-error', args['target-error']).map((targetError) => ({ targetError }))),
      ...(args.epsilon === undefined ? [] : numbers('epsilon', args.epsilon).map((epsilon) => ({ epsilon, delta: args.delta }))),
    ],
    sketchBits: args['sketch-bits'] === undefined ? undefined : numbers('sketch-bits', args['sketch-bits']),
    residual: args.residual,
    lshK: numbers('lsh-k', args['lsh-k']),
    lshL: args['lsh-l'],
    denseLayers: layersFrom(args['dense-layers']),
  });
}

/** Options that nothing would come of. */
function checkErrors({ policies, 'target-error': targetError, epsilon, delta }: Arguments & { policies: string }): void {
  if (delta !== undefined && epsilon === undefined) throw new MagicpigError('INVALID_OPTION', '--delta says how often an interval of --epsilon may be wrong; give --epsilon too');
  if ((targetError ?? epsilon) !== undefined && !list(policies).includes('sketch')) {
    throw new MagicpigError('INVALID_OPTION', '--target-error and --epsilon are for the policy sketch, which alone estimates its error; name it with --policies');
  }
}
