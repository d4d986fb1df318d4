// The page: a document, a conversation about it, and what its attention did.
import { chat, model } from './api.js';
import { element, input } from './dom.js';
import { showExact, showFigures } from './figures.js';
import { Heat } from './heat.js';

/** @typedef {import('./api.js').Message} Message */

/** Tokens that are written under exact attention, to know its time. */
const COMPARED = 17;

const heat = new Heat();
const [source, question] = [input('source'), input('question')];
const status = element('status');
/** @type {Message[]} */
let messages = [];
/** @type {{messages: Message[], report: import('./api.js').Report} | undefined} */
let last;
/** @type {AbortController | undefined} */
let running;
let name = '';
let context = Infinity;

async function connect() {
  const { id, context_length: most } = await model();
  name = id;
  context = most;
  element('model').textContent = `${id}, up to ${most.toLocaleString('en')} tokens`;
  arrange();
}

/**
 * The text in a file. A PDF, say, would be read as rubbish.
 * @param {File} file
 */
async function textOf(file) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes('\0')) return text;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  throw new Error(`${file.name} is no text in UTF-8; convert it first (pdftotext, pandoc, iconv)`);
}

/** What the form says of attention, as a request has it. */
function attention() {
  const mode = input('mode').value;
  if (mode === 'exact') return { policy: 'exact' };
  return mode === 'verified' ? { epsilon: Number(input('epsilon').value), delta: Number(input('delta').value) } : undefined;
}

/** @param {string} who */
function turn(who) {
  const shown = Object.assign(document.createElement('div'), { className: `turn ${who}` });
  const text = document.createElement('span');
  shown.append(Object.assign(document.createElement('b'), { textContent: who === 'user' ? 'You' : name }), text);
  const log = element('log');
  log.append(shown);
  return {
    remove: () => { shown.remove(); },
    add: (/** @type {string} */ more) => {
      text.append(more);
      log.scrollTop = log.scrollHeight;
    },
  };
}

async function answer() {
  const asked = question.value.trim();
  if (asked === '') return;
  const document_ = messages.length === 0 && source.value.trim() !== '' ? `${source.value.trim()}\n\n` : '';
  const request = [...messages, { role: /** @type {const} */ ('user'), content: document_ + asked }];
  const settings = attention();
  const said = turn('user');
  said.add(asked);
  const answered = turn('assistant');
  question.value = '';
  const started = performance.now();
  try {
    await working(document_ === '' ? 'Reading the question…' : 'Reading the document…', async (signal) => {
      const body = { model: name, messages: request, temperature: Number(input('temperature').value), max_tokens: Number(input('most-tokens').value), attention: settings, report: {} };
      let begun = false;
      const { text, usage, report } = await chat(body, signal, (more) => {
        if (!begun) status.textContent = 'Answering…';
        begun = true;
        answered.add(more);
      });
      messages = [...request, { role: 'assistant', content: text }];
      if (report === undefined) return;
      last = { messages: request, report };
      heat.show(report.draws, source.value.trim());
      showFigures(report, settings?.epsilon);
      const read = usage === undefined ? '' : `${usage.prompt_tokens.toLocaleString('en')} tokens of text, ${usage.prompt_tokens_details.cached_tokens.toLocaleString('en')} of them known already. `;
      status.textContent = `Answered in ${((performance.now() - started) / 1000).toFixed(1)} s. ${read}`;
    });
  } finally {
    if (messages.at(-2)?.content !== request.at(-1)?.content) {
      // Nothing was answered: the question is there to be asked again.
      said.remove();
      answered.remove();
      question.value = asked;
    }
    arrange();
  }
}

async function compare() {
  const before = last;
  if (before === undefined) return;
  await working('Measuring exact attention…', async (signal) => {
    const body = { model: name, messages: before.messages, temperature: 0, max_tokens: COMPARED, attention: { policy: 'exact' }, report: { bins: 1 } };
    const { text, report } = await chat(body, signal, () => undefined);
    if (report !== undefined) showExact(report, before.report, text);
    status.textContent = '';
  });
}

/**
 * Does one thing with the server, which the button ends.
 * @param {string} what
 * @param {(signal: AbortSignal) => Promise<void>} work
 */
async function working(what, work) {
  running = new AbortController();
  element('problem').textContent = '';
  status.textContent = what;
  const started = performance.now();
  // A long document is read for a minute, of which the server says nothing; seconds that pass show that it is not stuck.
  const timer = setInterval(() => {
    if (status.textContent?.startsWith(what)) status.textContent = `${what} ${((performance.now() - started) / 1000).toFixed(0)} s`;
  }, 1000);
  arrange();
  try {
    await work(running.signal);
  } catch (error) {
    status.textContent = '';
    if (!running.signal.aborted) throw error;
    status.textContent = 'Stopped.';
  } finally {
    clearInterval(timer);
    running = undefined;
    arrange();
  }
}

/** Shows what can be used now. */
function arrange() {
  const busy = running !== undefined;
  const begun = messages.length > 0;
  for (const id of ['send', 'compare', 'edit', 'again']) input(id).disabled = busy;
  element('stop').hidden = !busy;
  element('editor').hidden = begun;
  element('heat').hidden = last === undefined;
  element('edit').hidden = element('again').hidden = !begun;
  source.disabled = busy;
  for (const label of document.querySelectorAll('.verified')) /** @type {HTMLElement} */ (label).hidden = input('mode').value !== 'verified';
  const characters = source.value.length;
  // Most tokenizers make a token of some four characters of English.
  const tokens = Math.ceil(characters / 4);
  const long = tokens > context ? `, and the model takes ${context.toLocaleString('en')}: shorten it, or start the server with another model` : '';
  element('size').textContent = characters === 0 ? '' : `${characters.toLocaleString('en')} characters, in English some ${tokens.toLocaleString('en')} tokens${long}`;
}

function beginAnew() {
  messages = [];
  last = undefined;
  element('log').replaceChildren();
  element('figures').hidden = true;
  status.textContent = element('problem').textContent = '';
  arrange();
}

/** @param {() => Promise<void>} work */
function guarded(work) {
  work().catch((/** @type {Error} */ error) => { element('problem').textContent = `It failed: ${error.message}`; });
}

element('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  guarded(answer);
});
question.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!input('send').disabled) guarded(answer);
});
element('stop').addEventListener('click', () => { running?.abort(); });
element('compare').addEventListener('click', () => { guarded(compare); });
element('again').addEventListener('click', beginAnew);
element('edit').addEventListener('click', () => {
  beginAnew();
  source.focus();
});
input('file').addEventListener('change', () => {
  guarded(async () => {
    const [file] = input('file').files ?? [];
    if (file === undefined) return;
    beginAnew();
    source.value = '';
    source.value = await textOf(file);
    arrange();
  });
});
input('mode').addEventListener('change', arrange);
source.addEventListener('input', arrange);
arrange();
guarded(connect);
