// What requests may say of attention, and what the server tells of it.
import test from 'ava';
import type { ExecutionContext } from 'ava';

import { apiKey, runningServer } from './support/server.js';
import type { RunningServer } from './support/server.js';

let running: RunningServer;
test.before(async () => {
  running = await runningServer({ parallel: 1, budget: 0.05 });
});
test.after.always(async () => {
  await running[Symbol.asyncDispose]();
});

interface Report {
  readonly policy: string;
  readonly keys_read: number;
  readonly ms_per_token: number;
  readonly relative_error: { mean: number; max: number; read_whole: number } | null;
  readonly steps: readonly { text: string; ms: number | null; keys_read: number | null; relative_error: number | null }[];
  readonly draws: { bin_tokens: number; texts: string[]; layers: number[][] };
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly cached: number;
  readonly prompt: number;
  readonly report: Report | undefined;
  readonly error: { code: string; message: string; param: string | null } | undefined;
}

/** Some 1,200 tokens, of which the last 64 are the window and the others are indexed. */
const book = Array.from({ length: 100 }, (_, at) => `Line ${at} – ü. `).join('');

/** Long enough for steps, whatever the weights say. */
const answered = { response_format: { type: 'json_schema', json_schema: { name: 'list', schema: { type: 'array', items: { type: 'boolean' }, minItems: 6, maxItems: 6 } } } };

async function ask(fields: object): Promise<Answer> {
  const response = await fetch(`${running.server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: book }], temperature: 0, ...answered, ...fields }),
  });
  interface Body { choices?: [{ message: { content: string } }]; usage?: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } }; report?: Report; error?: Answer['error'] }
  const { choices, usage, report, error } = (await response.json()) as Body;
  const [choice] = choices ?? [];
  return { status: response.status, text: choice?.message.content ?? '', cached: usage?.prompt_tokens_details.cached_tokens ?? 0, prompt: usage?.prompt_tokens ?? 0, report, error };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}

/** Draws are whole numbers, of bins that cover the text with its answer. */
function whole(t: ExecutionContext, { draws, steps }: Report): void {
  t.is(draws.texts.length, draws.layers[0]!.length);
  t.true(draws.layers.flat().every((count) => Number.isInteger(count) && count >= 0));
  t.true(draws.texts.join('').includes(book), 'bins put together are the text, whatever characters they cut');
  t.true(draws.texts.join('').endsWith(steps.map(({ text }) => text).join('')));
}

test.serial('a report is there for who asks for it, and says where keys were drawn', async (t) => {
  t.is((await ask({})).report, undefined);
  const { report, text } = await ask({ report: {} });
  whole(t, report!);
  t.like(report, { policy: 'sketch', relative_error: null });
  t.is(report!.draws.layers.length, 2);
  t.true(report!.draws.texts.length > 300 && (report!.draws.texts.length - 1) * report!.draws.bin_tokens < 512 * report!.draws.bin_tokens + 100);
  t.is(report!.steps.map((step) => step.text).join(''), text);
  // The first token came of reading.
  t.is(report!.steps[0]!.ms, null);
  t.true(report!.steps.slice(1).every(({ ms, keys_read: keys }) => ms! > 0 && keys! > 0.05 && keys! < 0.5));
  const counts = report!.draws.layers.map(sum);
  t.true(counts.every((count) => count > 0), JSON.stringify(counts));
  // What is always read is not drawn: sinks, and the newest tokens.
  t.true(report!.draws.layers.every((layer) => layer[0] === 0 && layer.at(-1) === 0));
  const coarse = (await ask({ report: { bins: 10 } })).report!;
  whole(t, coarse);
  t.true(coarse.draws.texts.length >= 9 && coarse.draws.texts.length <= 11, String(coarse.draws.texts.length));
});

test.serial('exact reads all, over the rows that are there, and the next answer is sampled as before', async (t) => {
  const sampled = await ask({ report: { bins: 8 } });
  const exact = await ask({ report: { bins: 8 }, attention: { policy: 'exact' } });
  t.like(exact.report, { policy: 'exact', keys_read: 1, relative_error: null });
  t.is(sum(exact.report!.draws.layers.flat()), 0);
  t.true(exact.cached >= exact.prompt - 1, 'nothing is read again');
  const again = await ask({ report: { bins: 8 } });
  t.is(again.report!.policy, 'sketch');
  t.true(again.report!.keys_read < 0.5 && again.report!.keys_read > 0.5 * sampled.report!.keys_read);
});

test.serial('with epsilon every step says how far it may be off, and a budget ends it', async (t) => {
  const { report } = await ask({ report: { bins: 8 }, attention: { epsilon: 0.1, delta: 0.05 } });
  const { mean, max, read_whole: wholly } = report!.relative_error!;
  t.true(mean > 0 && max <= 0.1 && mean <= max && wholly >= 0 && wholly <= 1, JSON.stringify(report!.relative_error));
  const errors = report!.steps.slice(1).map((step) => step.relative_error!);
  t.true(errors.every((error) => error >= 0 && error <= 0.1));
  t.true(Math.abs(sum(errors) / errors.length - mean) < 1e-9);
  const target = (await ask({ report: {}, attention: { target_error: 0.2 } })).report!;
  t.true(target.relative_error!.mean > 0);
  const dense = (await ask({ report: {}, attention: { budget: 0.1, dense_layers: [0] } })).report!;
  t.is(dense.relative_error, null);
  t.is(sum(dense.draws.layers[0]!), 0);
  t.true(sum(dense.draws.layers[1]!) > 0);
});

test.serial('what needs another index, or contradicts itself, is refused and costs nothing', async (t) => {
  await ask({});
  const refused = [{ policy: 'lsh' }, { policy: 'topk' }, { policy: 'exact', epsilon: 0.1 }, { epsilon: 0.1, budget: 0.1 }, { delta: 0.1 }, { epsilon: 2 }, { dense_layers: [9] }, { sketch_bits: 1 }];
  for (const attention of refused) {
    const { status, error } = await ask({ attention });
    t.is(status, 400, JSON.stringify(attention));
    t.true(error!.message.length > 10 && !error!.message.includes('\n'));
  }
  t.is((await ask({ n: 2, report: {} })).error!.code, 'unsupported_combination');
  t.is((await ask({ report: { bins: 10_000 } })).status, 400);
  const after = await ask({});
  t.true(after.cached >= after.prompt - 1, 'the session is still there');
});
