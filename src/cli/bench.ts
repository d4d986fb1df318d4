import type { CommandModule, InferredOptionTypes } from 'yargs';
import { deviceFrom, policyNames, takesBudget } from '../decode/options.js';
import { MagicpigError } from '../errors.js';
import { count, percent, table } from './format.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';
import { rowsOption } from './rows-option.js';
import { runtimeOptions } from './runtime-options.js';
import type { Terminal } from './terminal.js';

const policyOptions = {
  budget: { type: 'number', describe: 'sketch: mean fraction of the indexed keys that a step reads [default: 0.02 of 8,192 keys, less in longer texts]' },
  'sketch-bits': { type: 'number', describe: 'sketch: bits of the copy of each key element: 1, 2, 4 or 8 [default: 4, with --residual 8]' },
  residual: { type: 'boolean', default: false, describe: 'sketch: a copy of the values too, which the keys that are read correct' },
  'lsh-k': { type: 'number', default: 10, describe: 'lsh: bits a table' },
  'lsh-l': { type: 'number', default: 150, describe: 'lsh: tables' },
  rows: rowsOption,
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
} as const;

const attentionOptions = {
  shape: { type: 'string', default: 'llama-3.1-8b', describe: 'Heads and dimensions of the layer' },
  context: { type: 'number', default: 98_304, describe: 'Tokens before the step' },
  policy: { type: 'string', choices: policyNames, default: 'sketch', describe: 'How attention is computed' },
  batch: { type: 'number', default: 1, describe: 'Sequences whose steps are taken together' },
  ...policyOptions,
} as const;

const decodeOptions = {
  device: runtimeOptions.device,
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  contexts: { type: 'string', default: '512,8192', describe: 'Lengths of the text before the steps' },
  policies: { type: 'string', default: 'exact,sketch', describe: 'Policies to compare' },
  batch: { type: 'number', default: 1, describe: 'Sessions that step together, measured beside one that steps alone' },
  ...policyOptions,
} as const;

type Policies = Pick<InferredOptionTypes<typeof attentionOptions>, 'budget' | 'sketch-bits' | 'residual' | 'lsh-k' | 'lsh-l'>;

export const bench = (terminal: Terminal): CommandModule => ({
  command: 'bench',
  describe: 'Measure what a step costs',
  builder: (yargs) => yargs.command(attention(terminal)).command(decode(terminal)).demandCommand(1, 'bench takes attention or decode; magicpig bench --help describes them'),
  handler: () => undefined,
});

const attention = (terminal: Terminal): CommandModule<object, InferredOptionTypes<typeof attentionOptions>> => ({
  command: 'attention',
  describe: "One layer's attention in one step, on synthetic rows",
  builder: (yargs) => yargs.options(attentionOptions),
  handler: async (args) => {
    const { benchAttention } = await import('../decode/bench.js');
    const { shape, context, batch, rows, threads } = args;
    const measured = await terminal.unstoppable(() => benchAttention({ shape, context, batch, rows, threads, ...policyOf(args.policy, args) }));
    const ms = (value: number) => `${value.toFixed(2)} ms`;
    terminal.result(measured, table([
      ['layer', `${measured.shape}, ${count(measured.context)} tokens${batch > 1 ? ` of each of ${batch} sequences` : ''}, ${measured.rows} rows, ${measured.threads} threads, ${measured.isa}`],
      ['step', `${ms(measured.stepMs)}: hash ${ms(measured.hashMs)}, retrieve ${ms(measured.retrieveMs)}, attend ${ms(measured.attendMs)}`],
      ['exact', `${ms(measured.exactMs)}; at ${measured.streamGBs.toFixed(1)} GB/s no less than ${ms(measured.exactLimitMs)}`],
      ['keys', `${percent(measured.budget)} of the indexed ones read; relative error ${measured.relativeL2.toPrecision(2)}`],
      ['index', `${measured.indexBytesPerKey.toFixed(1)} bytes a key and KV head, built in ${measured.indexSeconds.toFixed(2)} s`],
    ]));
  },
});

const decode = (terminal: Terminal): CommandModule<object, InferredOptionTypes<typeof decodeOptions>> => ({
  command: 'decode',
  describe: 'Prefill and decoding steps of a model after texts of several lengths',
  builder: (yargs) => yargs.options(decodeOptions),
  handler: async (args) => {
    const contexts = args.contexts.split(',').map(Number);
    if (!contexts.every((context) => Number.isInteger(context) && context > 0)) throw usage(`--contexts is ${args.contexts}; it must be lengths such as 512,8192`);
    const policies = args.policies.split(',').map((policy) => policyOf(policy, args));
    // One budget for several policies is for those that take one.
    const compared = policies.map((policy) => (policies.length === 1 || takesBudget(policy.policy) ? policy : { ...policy, budget: undefined }));
    const { signal } = terminal;
    const { loadModel } = await import('../decode/model.js');
    const { benchDecode } = await import('../decode/bench.js');
    using progress = terminal.progress();
    // Steps go on for a while after the longest text.
    await using model = await loadModel(args.model, { threads: args.threads, device: deviceFrom(args.device), context: Math.max(...contexts) + 1024, signal });
    const rows = await benchDecode(model, contexts, compared, {
      rows: args.rows,
      batch: args.batch,
      signal,
      onProgress: ({ done, total }) => { progress.update('reading', done, total, 'tokens'); },
    });
    progress[Symbol.dispose]();
    terminal.result({ rows }, rows.map((row) => [
      `${count(row.context)} tokens read in ${row.prefillSeconds.toFixed(1)} s`,
      `${row.policy.padEnd(6)} ${row.decodeMsPerToken.toFixed(1)} ms a token (attention ${row.attendMsPerToken.toFixed(1)} ms)`,
      `${percent(row.keysRead)} of keys read`,
      ...(row.device ? [`device ${row.device.msPerToken.toFixed(1)} ms, ${(row.device.bytesPerToken / 1e6).toFixed(1)} MB there and back`] : []),
      ...(row.batch ? [
        `${row.batch.tokensPerSecond.toFixed(0)} tokens/s of ${row.batch.sessions} sessions together, ${row.batch.aloneTokensPerSecond.toFixed(0)} of one`,
      ] : []),
    ].join('; ')).join('\n'));
  },
});

function policyOf(policy: string, args: Policies) {
  const known = policyNames.find((name) => name === policy);
  if (known === undefined) throw usage(`policy ${policy} is unknown; there are ${policyNames.join(', ')}`);
  return { policy: known, budget: args.budget, sketchBits: args['sketch-bits'], residual: args.residual, lshK: args['lsh-k'], lshL: args['lsh-l'] };
}

function usage(message: string): MagicpigError {
  return new MagicpigError('INVALID_OPTION', message);
}
