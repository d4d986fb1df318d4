import type { CommandModule, InferredOptionTypes } from 'yargs';
import { defaultBits } from '../decode/options.js';
import type { FidelityRow } from '../eval/fidelity.js';
import type { HeldOutRow, NamedText, Texts } from '../eval/held-out.js';
import { bitsName } from '../eval/variants.js';
import { MagicpigError } from '../errors.js';
import { errorOptions, evalOptions, variantsFrom } from './eval-options.js';
import { columns, count, percent } from './format.js';
import { checkReportFile, writeReport } from './report-file.js';
import type { Terminal } from './terminal.js';
import { readTextFile } from './text-file.js';

const options = {
  ...evalOptions,
  'text-file': { alias: 'f', type: 'string', array: true, demandOption: true, describe: 'The text: a prefix to read, and what follows; others are shown beside the first' },
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
    .example('$0 eval fidelity -f book.txt -f letters.txt', 'and whether it is the same on another text')
    .example('$0 eval fidelity -f book.txt --report fidelity.html', 'the same, with plots'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const variants = variantsFrom(args);
  await checkReportFile(args.report);
  const [first, ...others] = await Promise.all(args['text-file'].map(readText));
  if (first === undefined) throw new MagicpigError('INVALID_OPTION', '--text-file takes a file');
  const { loadModel } = await import('../decode/model.js');
  const { evaluateTexts } = await import('../eval/held-out.js');
  using progress = terminal.progress();
  await using model = await loadModel(args.model, { threads: args.threads, context: args.prefix + args.steps, signal });
  const measured = await evaluateTexts(model, [first, ...others], variants, {
    prefix: args.prefix,
    steps: args.steps,
    seeds: args.seeds,
    signal,
    onProgress: (phase, done, total) => { progress.update(phase, done, total, 'tokens'); },
  });
  progress[Symbol.dispose]();
  await writeReport(args.report, async () => (await import('../eval/report/fidelity-report.js')).fidelityReport(args.model, measured));
  terminal.result({ model: args.model, ...measured }, tablesOf(measured));
}

async function readText(file: string): Promise<NamedText> {
  return { name: file, text: await readTextFile(file) };
}

function tablesOf({ prefix, steps, exactPerplexity, policies, text, heldOut }: Texts): string {
  const first = { text, exactPerplexity, policies };
  return [
    ...[first, ...heldOut].map((of) => tableOf(of, `${count(steps)} tokens after ${count(prefix)} of ${of.text}; perplexity of exact ${of.exactPerplexity.toFixed(2)}`)),
    'drawn: of the indexed keys; keys, bytes: of those that exact reads; KL to exact in nats; first: same first choice; L2: relative error of attention',
    ...(heldOut.length > 0 ? [`ratio: KL by that on ${text}; where its 95% interval has 1 in it, the two are the same within noise`] : []),
  ].join('\n');
}

function tableOf({ policies }: { policies: readonly (FidelityRow | HeldOutRow)[] }, title: string): string {
  const rows = policies.map((row) => [
    [policyName(row), ...(row.denseLayers === undefined ? [] : [`dense ${row.denseLayers.join(' ')}`])].join(', '),
    percent(row.keysSampled),
    percent(row.keysRead),
    percent(row.bytesReadFraction),
    row.klToExact.toPrecision(3),
    `${row.klLow.toPrecision(2)} to ${row.klHigh.toPrecision(2)}`,
    ...('ratio' in row ? [row.ratio.toPrecision(2), `${row.ratioLow.toPrecision(2)} to ${row.ratioHigh.toPrecision(2)}`] : []),
    percent(row.top1Agreement),
    row.relativeL2.toPrecision(2),
    row.perplexity.toFixed(2),
  ]);
  const ratio = policies.some((row) => 'ratio' in row) ? ['ratio', '95%'] : [];
  return [
    title,
    columns([['policy', 'drawn', 'keys', 'bytes', 'KL', '95%', ...ratio, 'first', 'L2', 'perplexity'], ...rows]),
    ...policies.flatMap(errorsOf),
  ].join('\n');
}

function policyName({ policy, residual = false, sketchBits = defaultBits(residual), lshK = 10, lshL = 150 }: FidelityRow): string {
  if (policy === 'lsh') return `lsh K${lshK} L${lshL}`;
  return policy === 'sketch' ? `sketch${residual ? ' residual' : ''} ${bitsName(sketchBits)}` : policy;
}

/** What a policy said of its own errors, where it did. */
function errorsOf({ targetError, epsilon, delta, headSteps, estimatedError, realError, violations, upper }: FidelityRow): string[] {
  if (headSteps === undefined || estimatedError === undefined || realError === undefined) return [];
  const means = `${estimatedError.toPrecision(2)} by its samples and ${realError.toPrecision(2)} in fact`;
  if (violations === undefined || upper === undefined) return [`sketch, asked for an error of ${targetError ?? ''}: ${means}, over ${count(headSteps)} outputs of heads`];
  const share = `${count(violations)} of ${count(headSteps)} outputs of heads were further off (at most ${percent(upper)}, 95%)`;
  return [`sketch, verified to ${epsilon ?? ''} at ${delta ?? ''}: ${share}; mean error at most ${means}`];
}
