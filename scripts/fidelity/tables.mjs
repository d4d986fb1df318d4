// The tables of docs/fidelity.md, in Markdown.
const percent = (fraction) => `${Number((100 * fraction).toPrecision(2))}%`;
const short = (value) => String(Number(value.toPrecision(2)));

/** "`sketch` 4 bits", "`lsh` K 10, L 150". */
function nameOf({ policy, residual, sketchBits, lshK, lshL }) {
  if (policy === 'sketch') return `\`sketch\`${residual ? ' residual' : ''} ${sketchBits} bits`;
  return policy === 'lsh' ? `\`lsh\` K ${lshK}, L ${lshL}` : `\`${policy}\``;
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Every policy at its budgets. */
export function policiesTable(results) {
  const head = ['policy', 'indexed keys used', 'bytes, of exact\'s', 'KL to `exact`', '95%', 'same first choice', 'error of attention', 'perplexity'];
  return table(head, results.map(({ row }) => [
    nameOf(row), percent(row.keysSampled), percent(row.bytesReadFraction), short(row.klToExact), `${short(row.klLow)} to ${short(row.klHigh)}`,
    `${(100 * row.top1Agreement).toFixed(1)}%`, short(row.relativeL2), row.perplexity.toFixed(2),
  ]));
}

/** KL with one layer sampled alone, the greatest first, beside all of them sampled. */
export function layersTable(results, whole) {
  const own = results.map(({ row }, layer) => ({ layer, kl: row.klToExact, error: Math.max(...row.perLayerHead[layer]) })).toSorted((a, b) => b.kl - a.kl);
  const sum = own.reduce((total, { kl }) => total + kl, 0);
  const rows = own.map(({ layer, kl, error }) => [`${layer}`, short(kl), percent(kl / sum), short(error)]);
  return [
    table(['layer that samples', 'KL to `exact`', 'of the sum', 'error of its worst head'], rows.slice(0, 8)),
    '',
    `The other ${rows.length - 8} layers: ${short(Math.min(...own.map(({ kl }) => kl)))} to ${short(own[8].kl)} each. Sum over all layers ${short(sum)}; all layers sampled together ${short(whole.row.klToExact)}.`,
  ].join('\n');
}

/** The same policies on each text. */
export function textsTable(texts) {
  const head = ['text', 'perplexity of `exact`', 'policy', 'bytes', 'KL to `exact`', '95%', 'by the first text\'s', '95%', 'same first choice'];
  return table(head, texts.flatMap(({ name, perplexity, rows }) => rows.map((row) => [
    name, perplexity.toFixed(2), nameOf(row), percent(row.bytesReadFraction), short(row.klToExact), `${short(row.klLow)} to ${short(row.klHigh)}`,
    ...('ratio' in row ? [short(row.ratio), `${short(row.ratioLow)} to ${short(row.ratioHigh)}`] : ['', '']),
    `${(100 * row.top1Agreement).toFixed(1)}%`,
  ])));
}
