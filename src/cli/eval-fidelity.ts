import { readFile } from 'node:fs/promises';
import type { CommandModule, InferredOptionTypes } from 'yargs';
import type { Fidelity, FidelityRow } from '../eval/fidelity.js';
import { fileError } from '../model/file-error.js';
import { errorOptions, evalOptions, variantsFrom } from './eval-options.js';
import { columns, count, percent } from './format.js';
import { checkReportFile, writeReport } from './report-file.js';
import type { Terminal } from './terminal.js';

const options = {
  ...evalOptions,
  'text-file': { alias: 'f', type: 'string', demandOption: true, describe: 'The text: a prefix to read, and what follows' },
  prefix: { type: 'number', default: 4096, describe: 'Tokens to read exactly' },
  steps: { type: 'number', default: 128, describe: 'Tokens after them, each taken under the policy' },
  policies: { type: 'string', default: 'sketch,lsh,topk,oracle,quest,static', describe: 'Policies to compare with exact' },
  budget: { type: 'string', default: '0.005,0.01,0.02,0.05', describe: 'Mean fractions of the indexed keys that are used' },
  ...errorOptions,
  seeds: { type: 'number', default: 1, describe: 'Seeds to run each policy with that draws' },
} as const;

type Arguments = InferredOptionTypes<typeof options>;

export const fidelity = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'fidelity',
  describe: 'How far predictions and attention are from exact ones, on a text',
  builder: (yargs) => yargs.options(options)
    .example('$0 eval fidelity -f book.txt --prefix 8000', 'read 8,000 tokens, and compare 128 after them')
    .example('$0 eval fidelity -f book.txt --report fidelity.html', 'the same, with plots'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const variants = variantsFrom(args);
  await checkReportFile(args.report);
  const text = await readFile(args['text-file'], 'utf8').catch((error: unknown) => { throw fileError(error, args['text-file']); });
  const { loadModel } = await import('../decode/model.js');
  const { evaluateFidelity } = await import('../eval/fidelity.js');
  using progress = terminal.progress();
  await using model = await loadModel(args.model, { threads: args.threads, context: args.prefix + args.steps, signal });
  const measured = await evaluateFidelity(model, text, variants, {
    prefix: args.prefix,
    steps: args.steps,
    seeds: args.seeds,
    signal,
    onProgress: (phase, done, total) => { progress.update(phase, done, total, 'tokens'); },
  });
  progress[Symbol.dispose]();
  await writeReport(args.report, async () => (await import('../eval/report/fidelity-report.js')).fidelityReport(args.model, measured));
  terminal.result({ model: args.model, ...measured }, tableOf(measured));
}

function tableOf({ prefix, steps, exactPerplexity, policies }: Fidelity): string {
  const rows = policies.map((row) => [
    row.policy === 'lsh' ? `lsh K${row.lshK ?? ''} L${row.lshL ?? ''}` : `${row.policy}${row.residual === true ? ' residual' : ''}`,
    percent(row.keysSampled),
    percent(row.keysRead),
    percent(row.bytesReadFraction),
    row.klToExact.toPrecision(3),
    `${row.klLow.toPrecision(2)} to ${row.klHigh.toPrecision(2)}`,
    percent(row.top1Agreement),
    row.relativeL2.toPrecision(2),
    row.perplexity.toFixed(2),
  ]);
  const names = ['policy', 'drawn', 'keys', 'bytes', 'KL', '95%', 'first', 'L2', 'perplexity'];
  return [
    `${count(steps)} tokens after ${count(prefix)}; perplexity of exact ${exactPerplexity.toFixed(2)}`,
    columns([names, ...rows]),
    ...policies.flatMap(errorsOf),
    'drawn: of the indexed keys; keys, bytes: of those that exact reads; KL to exact in nats; first: same first choice; L2: relative error of attention',
  ].join('\n');
}

/** What a policy said of its own errors, where it did. */
function errorsOf({ targetError, epsilon, delta, headSteps, estimatedError, realError, violations, upper }: FidelityRow): string[] {
  if (headSteps === undefined || estimatedError === undefined || realError === undefined) return [];
  const means = `${estimatedError.toPrecision(2)} by its samples and ${realError.toPrecision(2)} in fact`;
  if (violations === undefined || upper === undefined) return [`sketch, asked for an error of ${targetError ?? ''}: ${means}, over ${count(headSteps)} outputs of heads`];
  const share = `${count(violations)} of ${count(headSteps)} outputs of heads were further off (at most ${percent(upper)}, 95%)`;
  return [`sketch, verified to ${epsilon ?? ''} at ${delta ?? ''}: ${share}; mean error at most ${means}`];
}
