import type { CommandModule, InferredOptionTypes } from 'yargs';
import type { TunedDefaults } from '../decode/tuned.js';
import { MagicpigError } from '../errors.js';
import type { Tried } from '../eval/tune.js';
import { fullNameOf } from '../eval/variants.js';
import { count, percent } from './format.js';
import { DEFAULT_MODEL, REF_HELP, resolveWithProgress } from './model-option.js';
import type { Terminal } from './terminal.js';
import { readTextFile } from './text-file.js';

const options = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  'text-file': { alias: 'f', type: 'string', describe: 'A text like those that the model is used for' },
  'target-kl': { type: 'number', default: 0.002, describe: 'KL of exact predictions from the sampled ones to stay below, in nats' },
  prefix: { type: 'number', default: 4096, describe: 'Tokens to read exactly' },
  steps: { type: 'number', default: 96, describe: 'Tokens after them, each taken under every policy' },
  seeds: { type: 'number', default: 2, describe: 'Seeds to run each policy with' },
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
  reset: { type: 'boolean', default: false, describe: 'Undo what was tuned for the model' },
} as const;

type Arguments = InferredOptionTypes<typeof options>;

export const tune = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'tune',
  describe: 'Choose the cheapest policy and budget that keep predictions near exact ones, as defaults of a model',
  builder: (yargs) => yargs.options(options)
    .example('$0 tune -f book.txt --target-kl 0.005', 'find them by measurement, and use them from now on')
    .example('$0 tune --reset', 'go back to the defaults of every model'),
  handler: (args) => (args.reset ? reset(args, terminal) : run(args, terminal)),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const file = args['text-file'];
  if (file === undefined) throw new MagicpigError('INVALID_OPTION', 'there is nothing to measure on: give --text-file FILE');
  const text = await readTextFile(file);
  const { loadModel } = await import('../decode/model.js');
  const { tune: tuned } = await import('../eval/tune.js');
  using progress = terminal.progress();
  await using model = await loadModel(args.model, { threads: args.threads, context: args.prefix + args.steps, signal });
  const { chosen, tried, file: kept } = await tuned(model, text, {
    targetKl: args['target-kl'],
    prefix: args.prefix,
    steps: args.steps,
    seeds: args.seeds,
    signal,
    onProgress: ({ done, total }) => { progress.update('reading', done, total, 'tokens'); },
    onTried: (one) => {
      progress[Symbol.dispose]();
      terminal.note(triedText(one));
    },
  });
  terminal.result({ model: args.model, chosen, tried, file: kept }, `${tunedText(chosen)}\nkept in ${kept}; undo it with "magicpig tune --reset"`);
}

/** The weights are not loaded for this. */
async function reset({ model, 'text-file': text }: Arguments, terminal: Terminal): Promise<void> {
  if (text !== undefined) throw new MagicpigError('INVALID_OPTION', '--reset undoes what was tuned, and takes no --text-file');
  const path = await resolveWithProgress(model, terminal);
  const { openModel } = await import('../model/open.js');
  const { fingerprintOf } = await import('../model/fingerprint.js');
  const { removeTuned } = await import('../decode/tuned.js');
  await using file = await openModel(path);
  const removed = await removeTuned(fingerprintOf(file));
  terminal.result({ model, reset: removed }, removed ? `${model} has the defaults of every model again` : `nothing was tuned for ${model}`);
}

/** "sketch 1.2%, 2 bits: KL 0.0018 (up to 0.0021) after 4,096 tokens, 97% same first choice, reads 9.1% of exact's bytes". */
export function tunedText({ policy, klToExact, klHigh, top1Agreement, bytesReadFraction, prefix }: TunedDefaults): string {
  const kl = `KL ${klToExact.toPrecision(2)} (up to ${klHigh.toPrecision(2)}) after ${count(prefix)} tokens`;
  const { policy: name = 'sketch' } = policy;
  return `${fullNameOf({ ...policy, policy: name })}: ${kl}, ${percent(top1Agreement)} same first choice, reads ${percent(bytesReadFraction)} of exact's bytes`;
}

function triedText(tried: Tried): string {
  const { klToExact, klHigh, bytesReadFraction, meets } = tried;
  return `${fullNameOf(tried)}: KL ${klToExact.toPrecision(2)} (up to ${klHigh.toPrecision(2)}), ${percent(bytesReadFraction)} of exact's bytes${meets ? '' : '; too far'}`;
}
