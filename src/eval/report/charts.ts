import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { PolicyName } from '../../decode/options.js';
import { marks } from './page.js';

/** A point of a line, its interval where there is one. */
export interface Point {
  readonly policy: PolicyName;
  /** What a line joins, where a policy has several. */
  readonly series?: string | undefined;
  /** What a reader is told who points at it. */
  readonly title: string;
  readonly x: number;
  readonly y: number;
  readonly low?: number | undefined;
  readonly high?: number | undefined;
}

export interface Axis {
  readonly label: string;
  readonly format: (value: number) => string;
}

/** A level that does not depend on x. */
export interface Level {
  readonly y: number;
  readonly policy: PolicyName;
}

/** What the library draws into: there is no page where this runs. */
const { document } = parseHTML('<!doctype html><html><body></body></html>') as unknown as { document: object };
const drawing = { document } as unknown as Plot.PlotOptions;
const colour = (policy: PolicyName) => `var(--${policy})`;
const font = { fontSize: '12px', fontFamily: 'inherit' };

/** Lines of policies over two logarithmic axes. */
export function logLines(points: readonly Point[], x: Axis, y: Axis, levels: readonly Level[] = []): string {
  const named = [...new Set(points.map(({ policy }) => policy))];
  const ordered = points.toSorted((a, b) => a.x - b.x);
  const channels = { x: 'x', y: 'y', stroke: 'policy' } as const;
  return svg({
    width: 520,
    height: 340,
    marginLeft: 58,
    marginRight: 24,
    marginBottom: 44,
    x: { type: 'log', ...ticks(x, points.map((point) => point.x)) },
    y: { type: 'log', grid: true, ...ticks(y, [...points.flatMap(({ y: at, low, high }) => [low ?? at, high ?? at]), ...levels.map((level) => level.y)]) },
    color: { domain: named, range: named.map(colour) },
    symbol: { domain: named, range: named.map((name) => marks[name].symbol) },
    marks: [
      Plot.ruleY(levels, { y: 'y', stroke: ({ policy }: Level) => colour(policy), strokeDasharray: '5 4' }),
      Plot.text(levels, { y: 'y', text: 'policy', frameAnchor: 'right', dy: -7, fill: ({ policy }: Level) => colour(policy) }),
      Plot.line(ordered, { ...channels, z: ({ policy, series = policy }: Point) => series, strokeWidth: 2 }),
      Plot.ruleX(ordered.filter(({ low }) => low !== undefined), { x: 'x', y1: 'low', y2: 'high', stroke: 'policy', strokeOpacity: 0.6 }),
      Plot.dot(ordered, { ...channels, symbol: 'policy', fill: 'policy', r: 4, title: 'title' }),
    ],
  });
}

/** A value of a cell. */
export interface Cell {
  readonly x: string;
  readonly y: string;
  readonly value: number;
  readonly title: string;
  readonly text?: string | undefined;
}

/** Cells whose colour is the stronger the greater their value is in `domain`. */
export function heatMap(cells: readonly Cell[], size: { width: number; height: number; marginLeft: number }, labels: { x: string; y: string | null }, strength: (value: number) => number): string {
  const xs = [...new Set(cells.map((cell) => cell.x))];
  const ys = [...new Set(cells.map((cell) => cell.y))];
  const every = (names: readonly string[], most: number) => names.filter((_, i) => i % Math.ceil(names.length / most) === 0);
  return svg({
    ...size,
    marginBottom: 40,
    marginTop: 8,
    marginRight: 8,
    padding: 0,
    round: false,
    x: { type: 'band', domain: xs, label: labels.x, ticks: every(xs, 12), tickSize: 0 },
    y: { type: 'band', domain: ys, label: labels.y, ticks: every(ys, 12), tickSize: 0 },
    marks: [
      Plot.cell(cells, { x: 'x', y: 'y', fill: () => 'var(--heat)', fillOpacity: (cell: Cell) => strength(cell.value), title: 'title', inset: 0.5 }),
      Plot.frame({ strokeOpacity: 0.2 }),
      Plot.text(cells.filter(({ text }) => text !== undefined), { x: 'x', y: 'y', text: 'text', stroke: 'var(--panel)', strokeWidth: 3, fill: 'currentColor' }),
    ],
  });
}

/** A difference with its interval. */
export interface Difference {
  readonly group: string;
  readonly name: string;
  readonly policy: PolicyName;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly title: string;
}

/** Differences from nothing, a line each, under the name of their group. */
export function differences(values: readonly Difference[], label: string): string {
  const groups = [...new Set(values.map(({ group }) => group))];
  const names = [...new Set(values.map(({ name }) => name))];
  const policies = [...new Set(values.map(({ policy }) => policy))];
  return svg({
    width: 560,
    height: 60 + groups.length * (18 + 15 * names.length),
    marginLeft: 112,
    marginRight: 96,
    marginBottom: 40,
    x: { label, grid: true, nice: true },
    y: { type: 'band', domain: names, axis: null },
    fy: { domain: groups, label: null, axis: 'left', padding: 0.15 },
    color: { domain: policies, range: policies.map(colour) },
    symbol: { domain: policies, range: policies.map((name) => marks[name].symbol) },
    marks: [
      Plot.frame({ strokeOpacity: 0.12 }),
      Plot.ruleX([0], { strokeOpacity: 0.5 }),
      Plot.ruleY(values, { y: 'name', fy: 'group', x1: 'low', x2: 'high', stroke: 'policy', strokeWidth: 2 }),
      Plot.dot(values, { y: 'name', fy: 'group', x: 'value', stroke: 'policy', fill: 'policy', symbol: 'policy', r: 4, title: 'title' }),
      Plot.text(values, { y: 'name', fy: 'group', text: 'name', frameAnchor: 'right', textAnchor: 'start', dx: 8, fill: 'policy', fontSize: 11 }),
    ],
  });
}

function svg(options: Plot.PlotOptions): string {
  const plot: unknown = Plot.plot({ style: font, ...options, ...drawing });
  return (plot as { outerHTML: string }).outerHTML;
}

/** 1, 2 and 5 times powers of ten, as many as there is room for, over a range that holds all values. */
function ticks({ label, format }: Axis, values: readonly number[]) {
  const shown = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const decades = Math.log10(high / low);
  const steps = decades > 2.5 ? [1] : [1, 2, 5];
  const from = Math.floor(Math.log10(low)) - 1;
  const all = Array.from({ length: 24 }, (_, i) => i).flatMap((i) => steps.map((step) => step * 10 ** (from + i)));
  const [first, last] = [all.findLast((tick) => tick <= low) ?? low, all.find((tick) => tick >= high) ?? high];
  return { label, domain: [first, last], ticks: all.filter((tick) => tick >= first && tick <= last), tickFormat: format };
}
