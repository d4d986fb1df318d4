// What an answer cost, beside exact attention, and what its steps said of their own error.
import { element, median, milliseconds, percent } from './dom.js';

/** @typedef {import('./api.js').Report} Report */

/**
 * @param {Report} report
 * @param {number | undefined} epsilon
 */
export function showFigures(report, epsilon) {
  const { policy, keys_read: keys, relative_error: error, steps } = report;
  element('figures').hidden = false;
  element('policy').textContent = error === null ? policy : `${policy}, verified`;
  element('keys').textContent = steps.length < 2 ? 'no step was needed' : percent(keys);
  element('ms').textContent = milliseconds(middle(report, 'ms'));
  element('attend').textContent = milliseconds(middle(report, 'attend_ms'));
  element('error-row').hidden = error === null;
  if (error !== null) {
    element('error').textContent = `${percent(error.mean)}, at most ${percent(error.max)}`;
  }
  for (const id of ['exact-ms', 'exact-attend']) element(id).textContent = policy === 'exact' ? (element(id === 'exact-ms' ? 'ms' : 'attend').textContent ?? '') : 'not measured';
  element('compared').textContent = '';
  element('compare').hidden = policy === 'exact' || steps.length < 2;
  chart(report, error === null ? undefined : epsilon);
  element('tokens').querySelector('tbody')?.replaceChildren(...steps.map(row));
}

/**
 * @param {Report} exact
 * @param {Report} sampled
 * @param {string} text what exact attention writes
 */
export function showExact(exact, sampled, text) {
  const [ms, own] = [middle(exact, 'ms'), middle(sampled, 'ms')];
  element('exact-ms').textContent = milliseconds(ms);
  element('exact-attend').textContent = milliseconds(middle(exact, 'attend_ms'));
  const ratio = ms === undefined || own === undefined ? '' : faster(ms / own);
  const beginning = sampled.steps.slice(0, exact.steps.length).map((step) => step.text).join('');
  element('compared').textContent = `${ratio} Exact was measured over ${exact.steps.length - 1} steps. ${beginning === text ? 'Exact attention begins with the same words.' : `Exact attention begins: “${text.trim()}”`}`;
}

/** @param {number} times */
function faster(times) {
  if (times >= 1.1) return `${times.toFixed(1)} times as fast as exact.`;
  return times > 0.9 ? 'About as fast as exact: a text has to be long for sampling to gain time.' : `${(1 / times).toFixed(1)} times as slow as exact: a text has to be long for sampling to gain time.`;
}

/**
 * @param {Report} report
 * @param {'ms' | 'attend_ms'} what
 */
function middle({ steps }, what) {
  return median(steps.flatMap((step) => step[what] ?? []));
}

/** @param {import('./api.js').Step} step */
function row({ text, ms, keys_read: keys, relative_error: error }) {
  const cells = [ms === null ? 'read' : milliseconds(ms), keys === null ? '' : percent(keys), error === null ? '' : percent(error)];
  const line = document.createElement('tr');
  // In quotes: some tokens are a space, and those that begin a character are nothing yet.
  const head = Object.assign(document.createElement('th'), { scope: 'row', textContent: JSON.stringify(text) });
  line.append(head, ...cells.map((cell) => Object.assign(document.createElement('td'), { textContent: cell })));
  return line;
}

/**
 * A line for each token: the interval of its error, from none up to its end, or else the share of keys that it read.
 * @param {Report} report
 * @param {number | undefined} epsilon
 */
function chart({ steps, relative_error: error }, epsilon) {
  const what = error === null ? 'keys_read' : 'relative_error';
  const values = steps.flatMap((step) => step[what] ?? []);
  const top = Math.max(epsilon ?? 0, ...values) * 1.1 || 1;
  const title = error === null ? 'Keys read by each token' : 'Error bars: how far attention may be from exact, token by token';
  element('chart-title').textContent = title;
  const make = (/** @type {string} */ name, /** @type {Record<string, string | number>} */ attributes) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, String(value));
    return made;
  };
  const width = Math.max(20, values.length);
  const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const svg = make('svg', { viewBox: `0 0 ${width} 1`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title}: ${percent(mean)} on average, ${percent(Math.max(0, ...values))} at most` });
  for (const [at, value] of values.entries()) {
    const [x, y] = [at + 0.5, 1 - value / top];
    svg.append(make('line', { x1: x, x2: x, y1: 1, y2: y }));
    if (error !== null) svg.append(make('line', { x1: x - 0.3, x2: x + 0.3, y1: y, y2: y }));
  }
  if (epsilon !== undefined) svg.append(make('line', { class: 'limit', x1: 0, x2: width, y1: 1 - epsilon / top, y2: 1 - epsilon / top }));
  const scale = Object.assign(document.createElement('div'), { className: 'scale' });
  const limit = epsilon === undefined ? '' : `dashed: epsilon, ${percent(epsilon)}`;
  scale.append(...[`top of the plot: ${percent(top)}`, limit].map((textContent) => Object.assign(document.createElement('span'), { textContent })));
  element('chart').replaceChildren(svg, scale);
}
