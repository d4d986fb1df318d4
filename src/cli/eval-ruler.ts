import type { CommandModule, InferredOptionTypes } from 'yargs';
import { MagicpigError } from '../errors.js';
import type { Ruler } from '../eval/ruler/run.js';
import { tasksFrom } from '../eval/ruler/tasks.js';
import { nameOf } from '../eval/variants.js';
import { evalOptions, variantsFrom } from './eval-options.js';
import { list, numbers } from './lists.js';
import { columns, percent } from './format.js';
import { checkReportFile, writeReport } from './report-file.js';
import type { Terminal } from './terminal.js';

const options = {
  ...evalOptions,
  tasks: { type: 'string', default: 'all', describe: 'Tasks, with commas between them' },
  lengths: { type: 'string', default: '4096', describe: 'Tokens of question and answer together' },
  samples: { alias: 'n', type: 'number', default: 10, describe: 'Samples of each task and length' },
  policies: { type: 'string', default: 'sketch', describe: 'Policies to compare with exact' },
  budget: { type: 'string', describe: 'Mean fractions of the indexed keys that are used [default: 0.02 of 8,192 keys, less in longer texts]' },
  'prose-file': { type: 'string', describe: 'The text in which sentences are hidden [default: a text of this project]' },
  seed: { type: 'number', default: 0, describe: 'The same seed gives the same samples' },
} as const;

type Arguments = InferredOptionTypes<typeof options>;

export const ruler = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'ruler',
  describe: 'Questions about long texts, answered under each policy and by exact attention',
  builder: (yargs) => yargs.options(options)
    .example('$0 eval ruler --lengths 4096 -n 20', 'every task, 20 samples each')
    .example('$0 eval ruler --tasks niah_single_2,vt --policies sketch,lsh', 'two tasks, two policies'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const variants = variantsFrom(args);
  if (list(args['sketch-bits'] ?? '').length > 1) throw new MagicpigError('INVALID_OPTION', '--sketch-bits takes one number here');
  await checkReportFile(args.report);
  const tasks = tasksFrom(list(args.tasks));
  const lengths = numbers('lengths', args.lengths);
  const { readProse } = await import('../eval/ruler/prose.js');
  const prose = await readProse(args['prose-file']);
  const { loadModel } = await import('../decode/model.js');
  const { evaluateRuler } = await import('../eval/ruler/run.js');
  using progress = terminal.progress();
  await using model = await loadModel(args.model, { threads: args.threads, context: Math.max(...lengths), signal });
  const measured = await evaluateRuler(model, variants, {
    tasks,
    lengths,
    samples: args.samples,
    prose,
    seed: args.seed,
    signal,
    onProgress: (phase, done, total) => { progress.update(phase, done, total, 'samples'); },
  });
  progress[Symbol.dispose]();
  await writeReport(args.report, async () => (await import('../eval/report/ruler-report.js')).rulerReport(args.model, measured));
  terminal.result({ model: args.model, ...measured }, tableOf(measured));
}

function tableOf({ rows }: Ruler): string {
  const points = (value: number) => (100 * value).toFixed(1);
  const signed = (value: number) => `${value > 0 ? '+' : ''}${points(value)}`;
  const cells = rows.map((row) => [
    row.task,
    String(row.length),
    nameOf(row),
    points(row.score),
    points(row.exactScore),
    row.informative ? signed(row.difference) : '-',
    row.informative ? `${signed(row.low)} to ${signed(row.high)}` : 'exact scores 0',
    percent(row.keysRead),
  ]);
  return [
    columns([['task', 'length', 'policy', 'score', 'exact', 'difference', '95%', 'keys'], ...cells]),
    `${rows[0]?.samples ?? 0} samples each; score: percent of the references that the answers contain; keys: of those that exact reads`,
  ].join('\n');
}
