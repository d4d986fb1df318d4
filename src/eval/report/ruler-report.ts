import type { PolicyName } from '../../decode/options.js';
import type { Ruler, RulerAnswer, RulerRow } from '../ruler/run.js';
import { mean } from '../statistics.js';
import { nameOf } from '../variants.js';
import { type Cell, differences, heatMap } from './charts.js';
import { figure, pageOf, tableHtml } from './page.js';

/** Parts of a text by depth. */
const DEPTHS = 5;

/** A page with everything that an evaluation by RULER's tasks found. */
export function rulerReport(model: string, { rows, answers }: Ruler): string {
  const [lengths, policies] = [unique(rows.map((row) => row.length)), unique(rows.map((row) => row.policy))];
  return pageOf({
    title: `Questions about long texts: ${model}`,
    summary: `Tasks after RULER (arXiv 2404.06654) at ${lengths.map((length) => length.toLocaleString('en')).join(', ')} tokens, ${rows[0]?.samples ?? 0} samples each. Each text was read once, exactly; every policy answered from the same rows.`,
    policies: unique([...policies, 'exact' as const]),
    sections: [
      {
        title: 'Difference from exact',
        note: 'Points of score, of 100, with 95% intervals over paired samples. An interval without width says only that no sample differed: of n samples, up to 3/n of others still might. Tasks where exact scores 0 have nothing to lose and are left out.',
        parts: lengths.map((length) => figure(`${length.toLocaleString('en')} tokens`, differencesOf(rows.filter((row) => row.length === length)), true)),
      },
      {
        title: 'Score by depth and length',
        note: 'Mean score where the sentence that is asked for lies in that fifth of the text, over the tasks that hide sentences; with the number of samples that fell there. 0 is the beginning of the text.',
        parts: depthMaps(answers),
      },
      {
        title: 'Score by task and length',
        note: 'Mean percentage of the references that an answer contains.',
        parts: [...variantsOf(rows).map(({ name, of }) => figure(name, taskMap(of.map((row) => ({ ...row, shown: row.score }))))),
          figure('exact', taskMap((variantsOf(rows)[0]?.of ?? []).map((row) => ({ ...row, shown: row.exactScore }))))],
      },
      { title: 'All figures', note: 'Difference and interval are of score from exact’s on the same samples.', parts: [table(rows)] },
    ],
  });
}

function differencesOf(rows: readonly RulerRow[]): string {
  const informative = rows.filter((row) => row.informative && row.policy !== 'exact');
  if (informative.length === 0) return '<p>Exact scores 0 in every task.</p>';
  return differences(informative.map((row) => ({
    group: row.task,
    name: nameOf(row),
    policy: row.policy,
    value: 100 * row.difference,
    low: 100 * row.low,
    high: 100 * row.high,
    title: `${row.task}, ${nameOf(row)}: ${points(row.score)}, exact ${points(row.exactScore)}`,
  })), 'score less exact’s (points)');
}

function depthMaps(answers: readonly RulerAnswer[]): string[] {
  const placed = answers.filter((answer) => answer.depth !== undefined);
  const named = variantsOf(placed);
  // The same for every variant.
  const exact = named[0]?.of ?? [];
  const maps = named.map(({ name, of }) => figure(name, depthMap(of, (answer) => answer.score)));
  return named.some(({ name }) => name === 'exact') ? maps : [...maps, figure('exact', depthMap(exact, (answer) => answer.exactScore))];
}

function depthMap(answers: readonly RulerAnswer[], score: (answer: RulerAnswer) => number): string {
  const cells: Cell[] = [];
  for (let depth = 0; depth < DEPTHS; depth += 1) {
    for (const length of unique(answers.map((answer) => answer.length))) {
      const here = answers.filter((answer) => answer.length === length && Math.min(DEPTHS - 1, Math.floor((answer.depth ?? 0) * DEPTHS)) === depth);
      const value = here.length === 0 ? 0 : mean(here.map(score));
      cells.push({
        x: length.toLocaleString('en'),
        y: `${(depth / DEPTHS).toFixed(1)}–${((depth + 1) / DEPTHS).toFixed(1)}`,
        value,
        text: here.length === 0 ? '–' : `${points(value)} (${here.length})`,
        title: `${here.length} samples, score ${points(value)}`,
      });
    }
  }
  return heatMap(cells, { width: 400, height: 240, marginLeft: 62 }, { x: 'tokens', y: null }, opacity);
}

function taskMap(rows: readonly (RulerRow & { shown: number })[]): string {
  const cells = rows.map((row): Cell => ({
    x: row.length.toLocaleString('en'),
    y: row.task,
    value: row.shown,
    text: points(row.shown),
    title: `${row.task} at ${row.length}: ${points(row.shown)}`,
  }));
  return heatMap(cells, { width: 400, height: 70 + 24 * unique(rows.map((row) => row.task)).length, marginLeft: 120 }, { x: 'tokens', y: null }, opacity);
}

function table(rows: readonly RulerRow[]): string {
  const names = ['task', 'length', 'policy', 'score', 'exact', 'difference', '95% interval', 'keys read'];
  return tableHtml(names, rows.map((row) => [
    row.task,
    row.length.toLocaleString('en'),
    nameOf(row),
    points(row.score),
    points(row.exactScore),
    row.informative ? points(row.difference) : 'exact scores 0',
    row.informative ? `${points(row.low)} – ${points(row.high)}` : '',
    `${(100 * row.keysRead).toPrecision(2)}%`,
  ]));
}

/** Rows or answers by what answered. */
function variantsOf<T extends { policy: PolicyName; budget?: number | undefined; lshK?: number | undefined }>(all: readonly T[]): { name: string; of: T[] }[] {
  return unique(all.map(nameOf)).map((name) => ({ name, of: all.filter((one) => nameOf(one) === name) }));
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

function points(value: number): string {
  return (100 * value).toFixed(0);
}

function opacity(value: number): number {
  return 0.03 + 0.72 * value;
}
