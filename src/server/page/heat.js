// Where keys were sampled: a strip over the whole text, the text itself, and its places that were sampled most.
import { element, percent } from './dom.js';

/** @typedef {import('./api.js').Draws} Draws */

const PLACES = 5;

/** The view of one text, which has one strip, one text and one list. */
export class Heat {
  #strip = element('strip');
  #text = element('text');
  #place = element('place');
  #most = element('most');
  #layers = /** @type {HTMLSelectElement} */ (element('layer'));
  /** @type {Draws} */
  #draws = { bin_tokens: 1, texts: [], layers: [] };
  /** @type {HTMLElement[]} */
  #spans = [];
  /** @type {number[]} */
  #counts = [];
  #here = 0;
  /** Bins of the document, which come first. */
  #end = 0;

  constructor() {
    this.#layers.addEventListener('change', () => { this.#draw(); });
    this.#strip.addEventListener('pointerdown', (event) => {
      const { left, width } = this.#strip.getBoundingClientRect();
      this.#go(Math.floor(((event.clientX - left) / width) * this.#counts.length));
    });
    this.#strip.addEventListener('keydown', (event) => {
      const page = Math.ceil(this.#counts.length / 20);
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page }[event.key];
      const to = event.key === 'Home' ? 0 : event.key === 'End' ? this.#counts.length - 1 : step === undefined ? undefined : this.#here + step;
      if (to === undefined) return;
      event.preventDefault();
      this.#go(to);
    });
  }

  /**
   * @param {Draws} draws
   * @param {string} source the document, if there is one
   */
  show(draws, source) {
    // What is hidden cannot be scrolled.
    element('heat').hidden = false;
    this.#draws = draws;
    this.#end = documentBins(draws.texts, source);
    const chosen = this.#layers.value;
    const option = (/** @type {string} */ value, /** @type {string} */ label) => new Option(label, value, false, value === chosen);
    this.#layers.replaceChildren(option('all', 'all layers'), ...draws.layers.map((_, layer) => option(String(layer), `layer ${layer}`)));
    this.#spans = draws.texts.map((text) => Object.assign(document.createElement('span'), { textContent: text }));
    this.#text.replaceChildren(...this.#spans);
    this.#draw();
    this.#go(this.#places()[0] ?? 0);
  }

  #draw() {
    const { layers, texts } = this.#draws;
    const chosen = this.#layers.value === 'all' ? layers : layers.slice(Number(this.#layers.value), Number(this.#layers.value) + 1);
    this.#counts = texts.map((_, bin) => chosen.reduce((sum, counts) => sum + (counts[bin] ?? 0), 0));
    const most = Math.max(1, ...this.#counts.slice(0, this.#end));
    // Most places are sampled a little and a few a lot: a square root leaves both to be seen. What follows the document is
    // near to the answer, and would outshine all of it.
    const shares = this.#counts.map((count) => Math.min(1, Math.sqrt(count / most)));
    const mark = (/** @type {string} */ className, /** @type {number} */ at) => {
      const line = Object.assign(document.createElement('div'), { className });
      line.style.left = `${(100 * at) / this.#counts.length}%`;
      return line;
    };
    this.#strip.replaceChildren(strip(shares), mark('here', 0), ...(this.#end < this.#counts.length ? [mark('end', this.#end)] : []));
    this.#strip.setAttribute('aria-valuemax', String(this.#counts.length));
    for (const [bin, span] of this.#spans.entries()) span.style.setProperty('--share', (shares[bin] ?? 0).toFixed(3));
    const places = this.#places();
    this.#most.replaceChildren(...places.map((bin) => this.#link(bin)));
    if (places.length === 0) this.#most.replaceChildren(Object.assign(document.createElement('li'), { textContent: 'None: all keys were read, or none had to be.', className: 'hint' }));
    this.#mark();
  }

  /** Bins of the document that were sampled most. */
  #places() {
    const count = (/** @type {number} */ bin) => this.#counts[bin] ?? 0;
    return [...this.#counts.keys()].slice(0, this.#end).filter((bin) => count(bin) > 0).sort((a, b) => count(b) - count(a)).slice(0, PLACES);
  }

  /** @param {number} bin */
  #link(bin) {
    const button = Object.assign(document.createElement('button'), { type: 'button' });
    button.append(
      Object.assign(document.createElement('b'), { textContent: percent(this.#share(bin)) }),
      Object.assign(document.createElement('span'), { textContent: snippet([bin - 1, bin, bin + 1].map((at) => this.#draws.texts[at] ?? '').join('')) }),
    );
    button.addEventListener('click', () => { this.#go(bin); });
    const item = document.createElement('li');
    item.append(button);
    return item;
  }

  /** @param {number} bin */
  #go(bin) {
    this.#here = Math.min(Math.max(0, bin), Math.max(0, this.#counts.length - 1));
    this.#mark();
    const span = this.#spans[this.#here];
    if (span) this.#text.scrollTo({ top: span.offsetTop - this.#text.clientHeight / 3 });
  }

  #mark() {
    const { bin_tokens: tokens, texts } = this.#draws;
    const here = this.#strip.querySelector('.here');
    if (here instanceof HTMLElement) here.style.left = `${(100 * (this.#here + 0.5)) / Math.max(1, this.#counts.length)}%`;
    for (const [bin, span] of this.#spans.entries()) span.classList.toggle('here', bin === this.#here);
    const first = this.#here * tokens;
    const said = `Tokens ${first.toLocaleString('en')} to ${(first + tokens - 1).toLocaleString('en')}: ${percent(this.#share(this.#here))} of the sampled keys`;
    this.#place.textContent = said;
    this.#strip.setAttribute('aria-valuenow', String(this.#here + 1));
    this.#strip.setAttribute('aria-valuetext', `${said}. ${snippet(texts[this.#here] ?? '')}`);
  }

  /** @param {number} bin */
  #share(bin) {
    const all = this.#counts.reduce((sum, count) => sum + count, 0);
    return all === 0 ? 0 : (this.#counts[bin] ?? 0) / all;
  }
}

/**
 * How many bins there are up to the end of `source`, or of all where it is not among them.
 * @param {string[]} texts
 * @param {string} source
 */
function documentBins(texts, source) {
  const at = texts.join('').indexOf(source);
  if (source === '' || at < 0) return texts.length;
  let length = 0;
  const first = texts.findIndex((text) => (length += text.length) >= at + source.length);
  return first < 0 ? texts.length : first + 1;
}

/** @param {string} text */
function snippet(text) {
  return text.replace(/\s+/g, ' ').trim();
}

/** @param {number[]} shares */
function strip(shares) {
  const make = (/** @type {string} */ name) => document.createElementNS('http://www.w3.org/2000/svg', name);
  const svg = make('svg');
  svg.setAttribute('viewBox', `0 0 ${Math.max(1, shares.length)} 1`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  for (const [bin, share] of shares.entries()) {
    const rect = make('rect');
    for (const [name, value] of Object.entries({ x: bin, y: 1 - share, width: 1, height: share, 'fill-opacity': 0.35 + 0.65 * share })) rect.setAttribute(name, value.toFixed(3));
    svg.append(rect);
  }
  return svg;
}
