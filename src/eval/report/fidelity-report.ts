import type { Fidelity, FidelityRow } from '../fidelity.js';
import type { HeldOut } from '../held-out.js';
import { fullNameOf } from '../variants.js';
import { type Axis, type Point, heatMap, logLines } from './charts.js';
import { escaped, figure, pageOf, tableHtml } from './page.js';

/** The fraction of keys whose errors are shown by layer and head, where a policy has several. */
const SHOWN_BUDGET = 0.02;

/** A page with everything that an evaluation of fidelity found. */
export function fidelityReport(model: string, { prefix, steps, exactPerplexity, policies, heldOut = [] }: Fidelity & { readonly heldOut?: readonly HeldOut[] }): string {
  const count = (value: number) => value.toLocaleString('en');
  return pageOf({
    title: `Fidelity of sampled attention: ${model}`,
    summary: `${count(steps)} tokens after a text of ${count(prefix)} that was read exactly, each taken under the policy whatever it predicted. Perplexity of exact attention: ${exactPerplexity.toFixed(2)}.`,
    policies: [...new Set(policies.map(({ policy }) => policy))],
    sections: [
      {
        title: 'Error against keys and bytes',
        note: 'Keys drawn: the share of the indexed keys whose rows a query head uses in a step, without the first and newest tokens that every policy reads. Bytes read: of rows and of the index, as a share of the rows that exact attention reads; topk and oracle look at all keys to find theirs. Lower is better. Bars are 95% intervals over blocks of positions and over seeds.',
        parts: [
          figure('KL to exact, by keys', byKeys(policies, 'KL to exact (nats)', (row) => row.klToExact, klInterval)),
          figure('KL to exact, by bytes', logLines(
            pointsOf(policies.filter((row) => row.klToExact > 0), (row) => row.bytesReadFraction, (row) => row.klToExact, klInterval),
            share('bytes read, of exact'),
            { label: 'KL to exact (nats)', format: plain },
          )),
          figure('Relative error of attention', byKeys(policies, '|o − exact o| / |exact o|', (row) => row.relativeL2)),
          figure('First choice differs from exact', byKeys(policies, 'share of positions', (row) => 1 - row.top1Agreement)),
        ],
      },
      heatMaps(policies),
      { title: 'All figures', note: 'KL is of exact’s predictions from the policy’s; L2 is over all layers and heads together.', parts: [table(policies)] },
      ...heldOut.map(otherText),
    ],
  });
}

function klInterval(row: FidelityRow): [number, number] {
  return [row.klLow, row.klHigh];
}

function byKeys(rows: readonly FidelityRow[], label: string, value: (row: FidelityRow) => number, interval?: (row: FidelityRow) => [number, number]): string {
  const drawn = rows.filter((row) => row.keysSampled > 0 && value(row) > 0);
  const levels = rows.filter((row) => row.policy === 'static' && value(row) > 0).map((row) => ({ y: value(row), policy: row.policy }));
  return logLines(pointsOf(drawn, (row) => row.keysSampled, value, interval), share('keys drawn'), { label, format: plain }, levels);
}

function pointsOf(rows: readonly FidelityRow[], x: (row: FidelityRow) => number, y: (row: FidelityRow) => number, interval?: (row: FidelityRow) => [number, number]): Point[] {
  return rows.map((row) => {
    const [low, high] = interval?.(row) ?? [];
    // A logarithmic axis has no place for an interval that reaches 0.
    return { policy: row.policy, series: `${row.policy} ${row.sketchBits ?? ''}`, x: x(row), y: y(row), ...(low !== undefined && low > 0 && { low, high }), title: `${fullNameOf(row)}: ${y(row).toPrecision(3)}` };
  });
}

function heatMaps(rows: readonly FidelityRow[]) {
  const names = [...new Set(rows.map(({ policy }) => policy))].filter((policy) => policy !== 'exact');
  const shown = names.map((policy) => {
    const own = rows.filter((row) => row.policy === policy);
    return own.reduce((best, row) => (distance(row) < distance(best) ? row : best));
  });
  const values = shown.flatMap((row) => row.perLayerHead.flat()).filter((value) => value > 0).sort((a, b) => a - b);
  // A few heads without any weight outside the static set would take up most of the scale.
  const [low, high] = [values[Math.floor(values.length * 0.02)] ?? 0.01, values.at(-1) ?? 1];
  const strength = (value: number) => (value <= low ? 0.02 : 0.02 + (0.98 * Math.log(value / low)) / Math.log(high / low));
  const maps = shown.map((row) => {
    const cells = row.perLayerHead.flatMap((heads, layer) => heads.map((value, head) => ({
      x: String(layer),
      y: String(head),
      value,
      title: `layer ${layer}, head ${head}: ${value.toPrecision(2)}`,
    })));
    const heads = row.perLayerHead[0]?.length ?? 1;
    const height = Math.min(420, 64 + 16 * heads);
    return figure(fullNameOf(row), heatMap(cells, { width: 520, height, marginLeft: 40 }, { x: 'layer', y: 'head' }, strength));
  });
  const scale = `<div class="scale"><span>${escaped(low.toPrecision(1))}</span><b></b><span>${escaped(high.toPrecision(2))}</span><span>relative error, logarithmic</span></div>`;
  return {
    title: 'Relative error by layer and query head',
    note: `|o − exact o| / |exact o| of each head's output, for each policy where it draws about ${plain(100 * SHOWN_BUDGET)}% of the keys.`,
    parts: [scale, ...maps],
  };
}

function distance(row: FidelityRow): number {
  return Math.abs(Math.log((row.keysSampled || 1) / SHOWN_BUDGET));
}

function table(rows: readonly FidelityRow[]): string {
  const names = ['policy', 'drawn', 'keys read', 'bytes read', 'KL', '95% interval', 'same first', 'L2', 'perplexity', 'index, bytes a key', 'seeds'];
  return tableHtml(names, rows.map((row) => [
    fullNameOf(row),
    percent(row.keysSampled),
    percent(row.keysRead),
    percent(row.bytesReadFraction),
    row.klToExact.toPrecision(3),
    `${row.klLow.toPrecision(2)} – ${row.klHigh.toPrecision(2)}`,
    percent(row.top1Agreement),
    row.relativeL2.toPrecision(2),
    row.perplexity.toFixed(2),
    row.indexBytesPerKey.toFixed(0),
    String(row.seeds),
  ]));
}

function otherText({ text, exactPerplexity, policies }: HeldOut) {
  return {
    title: `Another text: ${text}`,
    note: `Perplexity of exact attention: ${exactPerplexity.toFixed(2)}. Ratio: KL by that on the first text; where its interval has 1 in it, the two are the same within noise.`,
    parts: [tableHtml(['policy', 'KL', '95% interval', 'ratio', '95% interval', 'same first'], policies.map((row) => [
      fullNameOf(row),
      row.klToExact.toPrecision(3),
      `${row.klLow.toPrecision(2)} – ${row.klHigh.toPrecision(2)}`,
      row.ratio.toPrecision(2),
      `${row.ratioLow.toPrecision(2)} – ${row.ratioHigh.toPrecision(2)}`,
      percent(row.top1Agreement),
    ]))],
  };
}

function share(label: string): Axis {
  return { label, format: percent };
}

function percent(value: number): string {
  return `${plain(100 * value)}%`;
}

function plain(value: number): string {
  return String(Number(value.toPrecision(3)));
}
