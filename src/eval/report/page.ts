import { MagicpigError } from '../../errors.js';
import { policyNames, type PolicyName } from '../../decode/options.js';

/** Of lines and dots, each policy's always the same, with a shape so that colours are not all that tells them apart. */
export const marks: Readonly<Record<PolicyName, { symbol: string; glyph: string }>> = {
  sketch: { symbol: 'circle', glyph: '●' },
  lsh: { symbol: 'triangle', glyph: '▲' },
  exact: { symbol: 'star', glyph: '★' },
  topk: { symbol: 'square', glyph: '■' },
  oracle: { symbol: 'diamond', glyph: '◆' },
  quest: { symbol: 'cross', glyph: '✚' },
  static: { symbol: 'times', glyph: '✖' },
};

export interface Section {
  readonly title: string;
  /** A sentence or two: what is shown, and how to read it. */
  readonly note: string;
  /** Plots and tables, side by side where there is room. */
  readonly parts: readonly string[];
}

export interface Page {
  readonly title: string;
  /** What was measured, in a line. */
  readonly summary: string;
  readonly policies: readonly PolicyName[];
  readonly sections: readonly Section[];
}

/** One HTML file that needs no other and no network, light or dark as the reader's system is. */
export function pageOf({ title, summary, policies, sections }: Page): string {
  const legend = policyNames.filter((name) => policies.includes(name))
    .map((name) => `<span><i style="color:var(--${name})">${marks[name].glyph}</i> ${name}</span>`).join('');
  const body = sections.map((section) =>
    `<section><h2>${escaped(section.title)}</h2><p>${escaped(section.note)}</p><div class="parts">${section.parts.join('')}</div></section>`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<header><h1>${escaped(title)}</h1><p>${escaped(summary)}</p><p class="legend">${legend}</p></header>
${body.join('\n')}
</body>
</html>
`;
}

/** A plot or another part, under a heading of its own. One that is `dense` scrolls on a narrow screen, where it would be too small to read. */
export function figure(caption: string, content: string, dense = false): string {
  return `<figure${dense ? ' class="dense"' : ''}><figcaption>${escaped(caption)}</figcaption>${content}</figure>`;
}

/** A table, the first column to the left and the others, which are numbers, to the right. */
export function tableHtml(names: readonly string[], rows: readonly (readonly string[])[]): string {
  const head = names.map((name) => `<th scope="col">${escaped(name)}</th>`).join('');
  const lines = rows.map((row) => `<tr>${row.map((cell, i) => (i === 0 ? `<th scope="row">${escaped(cell)}</th>` : `<td>${escaped(cell)}</td>`)).join('')}</tr>`);
  return `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${lines.join('\n')}</tbody></table></div>`;
}

export function escaped(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (character) => {
    const name = names[character];
    if (name === undefined) throw new MagicpigError('INTERNAL', `no name for ${character}`);
    return name;
  });
}

// Colours that people with any colour vision can tell apart (after Okabe and Ito), for paper and for the dark.
const style = `
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --panel: #f6f8fa; --heat: #0b5cad;
  --sketch: #0072b2; --lsh: #c25200; --topk: #00805c; --oracle: #6b4fa3; --quest: #b0457f; --static: #6e7781; --exact: #1b1f24; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0f1318; --ink: #e6eaef; --soft: #9aa5b1; --line: #313942; --panel: #171c23; --heat: #6cb6ff;
    --sketch: #56b4e9; --lsh: #f5924b; --topk: #3fce9f; --oracle: #b59df0; --quest: #f08fbf; --static: #9aa5b1; --exact: #e6eaef; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(0.75rem, 3vw, 2rem) 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 0.25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.25rem; }
p { margin: 0 0 0.75rem; color: var(--soft); max-width: 75ch; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; color: var(--ink); }
.legend i { font-style: normal; }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: 0.75rem; background: var(--panel); border: 1px solid var(--line); border-radius: 0.5rem; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 0.5rem; }
svg { --plot-background: var(--panel); width: 100%; height: auto; max-width: 46rem; overflow: visible; }
figure.dense { overflow-x: auto; }
figure.dense svg { min-width: 26rem; }
.scroll { overflow-x: auto; grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 500; }
th:first-child { text-align: left; }
.scale { display: flex; align-items: center; gap: 0.5rem; color: var(--soft); font-size: 0.85rem; grid-column: 1 / -1; }
.scale b { flex: 0 1 14rem; height: 0.75rem; background: linear-gradient(90deg, transparent, var(--heat)); border: 1px solid var(--line); }
`;
