import type { InferredOptionTypes } from 'yargs';
import { type PolicyOptions, policyNames } from '../decode/options.js';
import { denseLayersOption, layersFrom } from './dense-layers-option.js';

/** How attention is computed, for every command that generates. */
export const policyOptions = {
  policy: { type: 'string', choices: policyNames, describe: 'How attention is computed while generating [default: sketch, or as the session was made]' },
  budget: { type: 'number', describe: 'sketch, topk, oracle, quest: mean fraction of the indexed keys that a step reads [default: 0.02 of 8,192 keys, less in longer texts]' },
  'target-error': { type: 'number', describe: 'sketch, instead of a budget: read as many keys as make this the mean relative error of attention, by its own prediction' },
  epsilon: { type: 'number', describe: 'sketch, instead of a budget: read more keys until the interval of every relative error of attention ends below this' },
  delta: { type: 'number', describe: 'With --epsilon: how often an interval may be wrong [default: 0.05]' },
  'sketch-bits': { type: 'number', describe: 'sketch: bits of the copy of each key element: 1, 2, 4 or 8 [default: 4, with --residual 8]' },
  residual: { type: 'boolean', describe: 'sketch: keep a copy of the values too, which the keys that are read correct: needs fewer of them [default: false]' },
  'lsh-k': { type: 'number', describe: 'lsh: bits a table, 1 to 16; more bits, fewer keys read [default: 10]' },
  'lsh-l': { type: 'number', describe: 'lsh: tables, 2 to 1000; more tables, more keys read [default: 150]' },
  'dense-layers': denseLayersOption,
} as const;

/** The same by the package's names. Throws INVALID_OPTION for layers that are no list of numbers. */
export function policyOf(args: InferredOptionTypes<typeof policyOptions>): PolicyOptions {
  const { policy, budget, epsilon, delta, residual } = args;
  return {
    policy,
    budget,
    targetError: args['target-error'],
    epsilon,
    delta,
    sketchBits: args['sketch-bits'],
    residual,
    lshK: args['lsh-k'],
    lshL: args['lsh-l'],
    denseLayers: layersFrom(args['dense-layers']),
  };
}
