// The server, as the page asks it. A key, where it wants one, is the browser's to send: it asked for it to load the page.

/**
 * @typedef {{text: string, ms: number | null, attend_ms: number | null, keys_read: number | null, relative_error: number | null}} Step
 * @typedef {{bin_tokens: number, texts: string[], layers: number[][]}} Draws
 * @typedef {{policy: string, keys_read: number, ms_per_token: number, relative_error: {mean: number, max: number, read_whole: number} | null, steps: Step[], draws: Draws}} Report
 * @typedef {{prompt_tokens: number, completion_tokens: number, prompt_tokens_details: {cached_tokens: number}}} Usage
 * @typedef {{role: 'user' | 'assistant', content: string}} Message
 * @typedef {{text: string, reason: string, usage: Usage | undefined, report: Report | undefined}} Answer
 */

/** The one model that the server has. */
export async function model() {
  const { data } = /** @type {{data: [{id: string, context_length: number}]}} */ (await (await ask('/v1/models')).json());
  return data[0];
}

/**
 * An answer, whose text is told as it comes.
 * @param {object} body
 * @param {AbortSignal} signal
 * @param {(text: string) => void} onText
 * @returns {Promise<Answer>}
 */
export async function chat(body, signal, onText) {
  const response = await ask('/v1/chat/completions', { method: 'POST', body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }), signal });
  /** @type {Answer} */
  const answer = { text: '', reason: 'length', usage: undefined, report: undefined };
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    answer.usage = event.usage ?? answer.usage;
    answer.report = event.report ?? answer.report;
    if (choice === undefined) continue;
    answer.reason = choice.finish_reason ?? answer.reason;
    const text = choice.delta.content ?? '';
    answer.text += text;
    if (text !== '') onText(text);
  }
  return answer;
}

/**
 * @param {string} path
 * @param {RequestInit} init
 */
async function ask(path, init = {}) {
  // The page's own address may have the key within it, and with that no request can be made.
  const response = await fetch(new URL(path, location.origin), { ...init, headers: { 'content-type': 'application/json' } }).catch((/** @type {Error} */ error) => {
    if (error.name === 'AbortError') throw error;
    throw new Error('the server cannot be reached; is it still running?', { cause: error });
  });
  if (response.ok) return response;
  if (response.status === 401) throw new Error('the server has another key now; open it in another tab, which asks for the key, and try again here');
  const { error } = /** @type {{error: {message: string}}} */ (await response.json());
  throw new Error(error.message);
}

/**
 * Events of a stream, up to the one that ends it.
 * @param {Response} response
 * @returns {AsyncGenerator<{choices: {delta: {content?: string}, finish_reason: string | null}[], usage?: Usage | null, report?: Report, error?: {message: string}}>}
 */
async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error('the answer ended too soon; the server may have stopped');
    const parts = (rest + decoder.decode(value, { stream: true })).split('\n\n');
    rest = /** @type {string} */ (parts.pop());
    for (const part of parts) {
      if (part === 'data: [DONE]') return;
      if (!part.startsWith('data: ')) continue;
      const event = JSON.parse(part.slice(6));
      yield { choices: [], ...event };
    }
  }
}
