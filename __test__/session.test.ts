// The API that users hold, on a model of two layers with random weights.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { loadModel, tune } from '../src/index.js';
import type { GenerateOptions, LoadOptions, Model, Prompt, Session, SessionOptions } from '../src/index.js';
import { string, writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama, withMetadata } from './support/tiny-llama.js';

const shape = { headDim: 64, heads: 2, kvHeads: 1, context: 2048 };

async function tinyModel(t: ExecutionContext, options: LoadOptions = {}): Promise<Model> {
  const model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama(shape)), { threads: 2, ...options });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

const longText = Array.from({ length: 1000 }, (_, i) => (i * i * 7 + 3 * i) % 264);

async function generated(session: Session, options: GenerateOptions): Promise<{ tokens: number[]; text: string }> {
  const tokens: number[] = [];
  let text = '';
  for await (const piece of session.generate(options)) {
    tokens.push(piece.token);
    text += piece.text;
  }
  return { tokens, text };
}

async function afterPrefill(model: Model, prompt: Prompt, options: SessionOptions, generate: GenerateOptions) {
  using session = model.createSession(options);
  await session.prefill(prompt);
  return { ...(await generated(session, generate)), stats: session.stats(), all: session.tokens };
}

test('the same seeds give the same text, with any number of threads', async (t) => {
  const sampling = { maxTokens: 40, temperature: 1, seed: 5 };
  const run = async (threads: number, seed = 1) => {
    const model = await tinyModel(t, { threads });
    return (await afterPrefill(model, longText, { policy: 'lsh', seed }, sampling)).tokens;
  };
  const tokens = await run(1);
  t.is(tokens.length, 40);
  t.deepEqual(await run(2), tokens);
});

test('figures add up', async (t) => {
  const model = await tinyModel(t);
  const { stats, tokens, all } = await afterPrefill(model, longText, { policy: 'lsh' }, { maxTokens: 30 });
  t.like(stats, { policy: 'lsh', promptTokens: 1000, generatedTokens: tokens.length, reusedTokens: 0, finishReason: tokens.length === 30 ? 'length' : 'stop' });
  t.is(all.length, 1000 + tokens.length);
  t.true(stats.keysRead > 68 / 1030 && stats.keysRead < 1, `keysRead ${stats.keysRead}`);
  t.true(stats.budget > 0 && stats.budget < stats.keysRead);
  t.true(stats.indexBytes > 0 && stats.indexBytesPerKey > 300);
  t.true(stats.decodeMsPerToken >= stats.attendMsPerToken && stats.attendMsPerToken > 0);
  const exact = await afterPrefill(model, longText, { policy: 'exact' }, { maxTokens: 3 });
  t.like(exact.stats, { keysRead: 1, indexBytes: 0, budget: 0 });
});

test('the sketch policy reads its budget, from a small index, the same on any number of threads', async (t) => {
  const run = async (threads: number) => {
    const model = await tinyModel(t, { threads });
    return afterPrefill(model, longText, { policy: 'sketch', budget: 0.1, seed: 3 }, { maxTokens: 60, temperature: 1, seed: 9 });
  };
  const { stats, tokens } = await run(1);
  t.true(Math.abs(stats.budget / 0.1 - 1) < 0.2, `budget ${stats.budget}`);
  t.true(stats.indexBytesPerKey > 32 && stats.indexBytesPerKey < 36, `${stats.indexBytesPerKey} bytes a key`);
  t.deepEqual((await run(2)).tokens, tokens);
  const model = await tinyModel(t);
  const coarse = await afterPrefill(model, longText, { policy: 'sketch', sketchBits: 1 }, { maxTokens: 3 });
  t.true(coarse.stats.indexBytesPerKey < 11);
});

test('rows of 8 bits take half the memory and tell nearly the same', async (t) => {
  const model = await tinyModel(t);
  const logits = async (options: SessionOptions) => {
    using session = model.createSession({ policy: 'exact', ...options });
    await session.prefill(longText.slice(0, 600));
    return { logits: (await session.step(longText[600]!)).slice(), rowBytes: session.stats().rowBytes };
  };
  const [bf16, int8, control] = [await logits({}), await logits({ rows: 'int8' }), await logits({ policy: 'lsh', lshK: 16, lshL: 2 })];
  t.is(bf16.rowBytes, 601 * 2 * 2 * 64 * 2);
  t.is(int8.rowBytes, 601 * 2 * (2 * 64 + 4));
  const distance = (a: Float32Array, b: Float32Array) => Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / a.reduce((sum, x) => sum + x * x, 0));
  const error = distance(bf16.logits, int8.logits);
  t.true(error > 0 && error < 0.01, `the logits are ${error} away`);
  t.true(distance(bf16.logits, control.logits) > error, 'less than those of the static set alone');
  for (const policy of ['exact', 'lsh', 'sketch'] as const) {
    const { tokens, stats } = await afterPrefill(model, longText, { policy, rows: 'int8' }, { maxTokens: 20, temperature: 1, seed: 4 });
    t.is(tokens.length, stats.generatedTokens, policy);
    t.is(stats.keysRead === 1, policy === 'exact');
  }
});

test('a text read in pieces is the text read at once', async (t) => {
  const model = await tinyModel(t);
  using whole = model.createSession({ policy: 'exact' });
  using pieces = model.createSession({ policy: 'exact' });
  await whole.prefill(longText.slice(0, 600));
  await pieces.prefill(longText.slice(0, 599));
  const [a] = (await generated(whole, { maxTokens: 1 })).tokens;
  await pieces.prefill(longText.slice(599, 600));
  t.is((await generated(pieces, { maxTokens: 1 })).tokens[0], a);
  t.deepEqual(pieces.tokens, whole.tokens);
});

test('generating in two goes is generating in one, and greedy steps by hand are the same tokens', async (t) => {
  const model = await tinyModel(t);
  const once = await afterPrefill(model, 'hello', { policy: 'exact' }, { maxTokens: 12 });
  using session = model.createSession({ policy: 'exact' });
  await session.prefill('hello');
  const first = await generated(session, { maxTokens: 5 });
  const second = await generated(session, { maxTokens: 7 });
  t.deepEqual([...first.tokens, ...second.tokens], once.tokens);
});

test('leaving the loop early keeps what was shown', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill('hello');
  const shown: number[] = [];
  for await (const { token } of session.generate()) {
    shown.push(token);
    if (shown.length === 3) break;
  }
  t.deepEqual(session.tokens.slice(-3), shown);
  t.deepEqual((await generated(session, { maxTokens: 2 })).tokens.length, 2);
});

test('a stop string ends the text before it', async (t) => {
  const model = await tinyModel(t);
  const free = await afterPrefill(model, 'hello', { policy: 'exact' }, { maxTokens: 60, temperature: 1, seed: 2 });
  const stop = free.text.slice(9, 12);
  const { text, stats } = await afterPrefill(model, 'hello', { policy: 'exact' }, { maxTokens: 60, temperature: 1, seed: 2, stop });
  t.is(text, free.text.slice(0, free.text.indexOf(stop)));
  t.is(stats.finishReason, 'stop');
});

test('rewinding takes tokens back, rows and index included', async (t) => {
  const model = await tinyModel(t);
  const direct = await afterPrefill(model, longText.slice(0, 700), { policy: 'exact' }, { maxTokens: 5 });
  using session = model.createSession({ policy: 'exact' });
  await session.prefill(longText);
  session.rewind(699);
  await session.prefill(longText.slice(699, 700));
  t.deepEqual((await generated(session, { maxTokens: 5 })).tokens, direct.tokens);
});

test('an aborted prefill leaves the session as it was', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'lsh' });
  await session.prefill('hello');
  const { rowBytes } = session.stats();
  const controller = new AbortController();
  const error = await t.throwsAsync(session.prefill(longText, { signal: controller.signal, onProgress: () => { controller.abort(); } }));
  t.like(error, { code: 'ABORTED' });
  t.is(session.tokens.length, 1);
  t.is(session.stats().rowBytes, rowBytes);
  const { tokens } = await generated(session, { maxTokens: 4 });
  t.deepEqual(tokens, (await afterPrefill(model, 'hello', { policy: 'lsh' }, { maxTokens: 4 })).tokens);
});

test('an aborted step leaves logits unknown that were unknown', async (t) => {
  const model = await tinyModel(t);
  const rewound = async (abort: boolean) => {
    using session = model.createSession({ policy: 'exact' });
    await session.prefill(longText.slice(0, 60));
    session.rewind(40);
    if (abort) t.like(await t.throwsAsync(session.step(1, { signal: AbortSignal.abort() })), { code: 'ABORTED' });
    return (await generated(session, { maxTokens: 4 })).tokens;
  };
  t.deepEqual(await rewound(true), await rewound(false));
  using empty = model.createSession();
  await t.throwsAsync(empty.step(1, { signal: AbortSignal.abort() }));
  t.like(await t.throwsAsync(generated(empty, { maxTokens: 1 })), { code: 'EMPTY_PROMPT' });
});

test('an aborted generation can go on', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill('hello');
  const controller = new AbortController();
  const shown: number[] = [];
  const error = await t.throwsAsync(async () => {
    for await (const { token } of session.generate({ maxTokens: 10, signal: controller.signal })) {
      shown.push(token);
      if (shown.length === 4) controller.abort();
    }
  });
  t.like(error, { code: 'ABORTED' });
  const rest = await generated(session, { maxTokens: 6 });
  t.deepEqual([...shown, ...rest.tokens], (await afterPrefill(model, 'hello', { policy: 'exact' }, { maxTokens: 10 })).tokens);
});

test('one thing at a time, and nothing after the end', async (t) => {
  const model = await tinyModel(t);
  const session = model.createSession();
  const reading = session.prefill(longText);
  t.like(await t.throwsAsync(session.prefill('hello')), { code: 'SESSION_BUSY' });
  await reading;
  session[Symbol.dispose]();
  t.like(await t.throwsAsync(session.prefill('hello')), { code: 'DISPOSED' });
  t.like(t.throws(() => session.stats()), { code: 'DISPOSED' });
  session[Symbol.dispose]();
  await model[Symbol.asyncDispose]();
  t.like(t.throws(() => model.createSession()), { code: 'DISPOSED' });
});

test('rows leave no file behind', async (t) => {
  const model = await tinyModel(t);
  const directory = temporaryFolder(t);
  const session = model.createSession({ directory });
  await session.prefill(longText);
  t.true(session.stats().rowBytes > 0);
  session[Symbol.dispose]();
  t.deepEqual(readdirSync(directory), []);
});

test('chat messages are read by the model’s own template', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill([{ role: 'user', content: 'hello <|im_end|>' }]);
  t.is(session.tokens[0], 1);
  t.deepEqual(session.tokens, model.tokenizer.encode('<|im_start|>user\nhello <|im_end|><|im_end|>\n<|im_start|>assistant\n', { parseSpecial: true }));
});

test('the context is a limit, for reading and for writing', async (t) => {
  const model = await tinyModel(t, { context: 20 });
  using session = model.createSession({ policy: 'exact' });
  const error = await t.throwsAsync(session.prefill(longText.slice(0, 21)));
  t.like(error, { code: 'CONTEXT_EXCEEDED' });
  t.regex(error.message, /makes 21 tokens, and the context is 20/);
  await session.prefill(longText.slice(0, 15));
  const { tokens } = await generated(session, { temperature: 1, seed: 3 });
  t.true(tokens.length === 5 || model.tokenizer.endTokens.includes(tokens.at(-1) as number));
});

test('bad arguments are told before anything happens', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession();
  const code = 'INVALID_OPTION';
  for (const options of [{ lshK: 0 }, { lshK: 17 }, { lshL: 1 }, { lshL: 1001 }, { lshK: 2.5 }, { seed: -1 }, { budget: 0 }, { budget: 1.1 }, { sketchBits: 3 }, { residual: 'yes' as unknown as boolean }, { policy: 'magic' as 'lsh' }, { rows: 'int4' as 'int8' }]) {
    t.like(t.throws(() => model.createSession(options)), { code }, JSON.stringify(options));
  }
  t.like(t.throws(() => { session.setPolicy({ lshK: 0 }); }), { code });
  t.like(await t.throwsAsync(session.prefill([1, 264])), { code });
  t.like(await t.throwsAsync(session.prefill('')), { code: 'EMPTY_PROMPT' });
  // What JavaScript lets through.
  for (const nothing of [undefined, null, 1, {}]) t.like(await t.throwsAsync(session.prefill(nothing as never)), { code: 'INVALID_OPTION' }, JSON.stringify(nothing));
  t.like(await t.throwsAsync(generated(session, {})), { code: 'EMPTY_PROMPT' });
  await session.prefill('hello');
  for (const options of [{ temperature: -1 }, { topP: 0 }, { topP: 2 }, { minP: Number.NaN }, { topK: -1 }, { repetitionPenalty: 0 }, { maxTokens: -1 }]) {
    t.like(await t.throwsAsync(generated(session, options)), { code }, JSON.stringify(options));
  }
  t.like(t.throws(() => { session.rewind(99); }), { code });
  t.is((await generated(session, { maxTokens: 1 })).tokens.length, 1, 'the session still works');
});

test('a text in the place of a number is told from the number', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession();
  await session.prefill('hello');
  const refused = async (work: () => unknown, message: string) => {
    t.like(await t.throwsAsync(async () => { await work(); }), { code: 'INVALID_OPTION', message });
  };
  await refused(() => loadModel('nowhere.gguf', { threads: '2' as unknown as number }), 'threads is "2"; it must be a whole number from 1 to 1024');
  await refused(() => loadModel('nowhere.gguf', { weights: '3' as '4' }), 'weights is "3"; it must be file, 8 or 4');
  await refused(() => loadModel('nowhere.gguf', { threads: [2] as unknown as number }), 'threads is a list; it must be a whole number from 1 to 1024');
  await refused(() => model.createSession({ budget: '0.5' as unknown as number }), 'budget is "0.5"; it must be above 0, up to 1');
  await refused(() => model.createSession({ targetError: '0.5' as unknown as number }), 'targetError is "0.5"; it must be above 0 and below 1');
  await refused(() => generated(session, { temperature: '0.5' as unknown as number }), 'temperature is "0.5"; it must be from 0 to 100');
  await refused(() => { session.rewind('1' as unknown as number); }, 'tokens is "1"; it must be a whole number from 0 to 1');
  // Controls: the numbers.
  await using one = await tinyModel(t, { threads: 1, weights: 'file' });
  for (const options of [{ budget: 0.5 }, { targetError: 0.5 }]) one.createSession(options).dispose();
  t.is((await generated(session, { temperature: 0.5, maxTokens: 1 })).tokens.length, 1);
});

test('an option that there is not is refused by its name, with those that there are', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession();
  await session.prefill('hello');
  const folder = join(temporaryFolder(t), 'kept');
  const takers: [name: string, listed: RegExp, call: (options: never) => unknown, right: object][] = [
    ['loadModel', /^threads, .*onProgress$/, (options) => loadModel('nowhere.gguf', options), { threads: 2, context: 12 }],
    ['createSession', /^policy, budget, .*tuned$/, (options) => { model.createSession(options).dispose(); }, { policy: 'lsh', rows: 'int8', seed: 1, directory: temporaryFolder(t), tuned: false }],
    ['openSession', /^policy, budget, .*readOnly$/, async (options) => { (await model.openSession(folder, options)).dispose(); }, { policy: 'sketch', create: true, readOnly: false }],
    ['prefill', /^whole, signal, onProgress$/, (options) => session.prefill('hello', options), { whole: true, onProgress: () => undefined }],
    ['generate', /^maxTokens, temperature, .*signal$/, (options) => generated(session, options), { maxTokens: 1, temperature: 1, seed: 2, stop: ['x'], logprobs: 1 }],
    ['step', /^signal, out$/, (options) => session.step(1, options), { signal: new AbortController().signal, out: new Float32Array(model.config.vocabSize) }],
    ['stepBatch', /^signal, out$/, (options) => model.stepBatch([session], [1], options), { signal: undefined, out: [new Float32Array(model.config.vocabSize)] }],
    ['setPolicy', /^policy, budget, .*lshL$/, (options) => { session.setPolicy(options); }, { policy: 'exact', denseLayers: [0] }],
    ['fork', /^signal$/, (options) => session.fork(`${folder}2`, options), { signal: undefined }],
    ['checkpoint', /^signal$/, (options) => session.checkpoint(options), {}],
    ['tune', /^targetKl, .*onTried$/, (options) => tune(model, 'too short', options), { targetKl: 0.1, steps: 3 }],
  ];
  // Right names get so far: there is no such model, the session has no folder, the text is too short.
  const further: Record<string, { code: string }> = { loadModel: { code: 'MODEL_NOT_FOUND' }, checkpoint: { code: 'SESSION_READ_ONLY' }, tune: { code: 'INVALID_OPTION' } };
  for (const [taker, listed, call, right] of takers) {
    const attempt = async (options: unknown) => { await call(options as never); };
    for (const wrong of [{ ...right, maxToken: 3 }, { ...right, maxToken: undefined }]) {
      const error = await t.throwsAsync(attempt(wrong), { code: 'INVALID_OPTION' }, taker);
      const begin = `there is no option maxToken; ${taker} takes `;
      t.is(error.message.slice(0, begin.length), begin);
      t.regex(error.message.slice(begin.length), listed);
      t.notRegex(error.message, /budgetTokens|chunkTokens/);
    }
    await t.throwsAsync(attempt(null), { code: 'INVALID_OPTION', message: `the options of ${taker} are null; they must be an object` });
    await t.throwsAsync(attempt('lsh'), { code: 'INVALID_OPTION', message: `the options of ${taker} are "lsh"; they must be an object` });
    const later = further[taker];
    if (later === undefined) await t.notThrowsAsync(attempt(right), taker);
    else t.notRegex((await t.throwsAsync(attempt(right), later)).message, /no option/);
  }
  await t.throwsAsync(async () => { await generated(session, { 'max\ntokens': 3 } as never); }, { message: /^there is no option "max\\ntokens"; / });
});

test('what is no model and no prompt is called what it is', async (t) => {
  for (const [reference, what] of [[undefined, 'undefined'], [5, '5'], [{ path: 'x' }, 'an object'], [['x'], 'a list'], [new URL('file:///x'), 'a URL']] as const) {
    const message = `the model is ${what}; it must be a text: a path, hf:owner/name, or a short name such as smollm2-135m`;
    await t.throwsAsync(loadModel(reference as never), { code: 'INVALID_OPTION', message });
  }
  const model = await tinyModel(t);
  using session = model.createSession();
  for (const [prompt, message] of [
    [Buffer.from('hi'), 'the prompt is a Buffer; give its text, by toString()'],
    [new TextEncoder().encode('hi'), 'the prompt is a Uint8Array; give its text, by new TextDecoder().decode(), or token ids, by Array.from()'],
    [Uint32Array.of(1, 2), 'the prompt is a Uint32Array; give its token ids, by Array.from()'],
    [Promise.resolve('hi'), 'the prompt is a Promise; give what it comes to, by await'],
    [{ role: 'user', content: 'x' }, 'the prompt is one message; give a list of them'],
    [{ text: 'x' }, 'the prompt is an object; it must be a text, token ids or chat messages'],
    [null, 'the prompt is null; it must be a text, token ids or chat messages'],
    [[{ rol: 'user', content: 'x' }], 'message 0 has no role; it has rol, content'],
    [[{ role: 'user', content: 'x' }, { role: 'user', contents: 'x' }], 'message 1 has no content; it has role, contents'],
    [[{ role: 'user', content: 5 }], 'the content of message 0 is 5; it must be a text'],
    [[{ role: 'user', content: Buffer.from('hi') }], 'the content of message 0 is a Buffer; it must be a text'],
    [[{ role: 5, content: 'x' }], 'the role of message 0 is 5; it must be a text, such as "user"'],
    [['hi'], `message 0 is "hi"; it must have a role and content, as in { role: 'user', content: 'hello' }`],
    [[1, '2'], `message 0 is 1; it must have a role and content, as in { role: 'user', content: 'hello' }`],
    [[{ role: 'assistant', tool_calls: [] }], 'message 0 has no content; it has role, tool_calls'],
  ] as const) {
    await t.throwsAsync(session.prefill(prompt as never), { code: 'INVALID_OPTION', message });
  }
  t.is(session.tokens.length, 0);
  // Controls: what the same was meant to be.
  for (const prompt of ['hi', [1, 2], [{ role: 'user', content: 'x' }], [{ role: 'user', content: '' }]]) await session.prefill(prompt);
  t.true(session.tokens.length > 4);
  // What a template makes of calls without content, and of content of parts, is its own affair.
  for (const content of [{ tool_calls: [{}] }, { content: null, tool_calls: [{}] }, { content: [{ type: 'text', text: 'x' }] }]) {
    const error = await session.prefill([{ role: 'assistant', ...content } as never]).catch((failure: unknown) => failure);
    if (error !== undefined) t.like(error, { code: 'TEMPLATE_FAILED' });
  }
});

test('a model that cannot be run says why before its weights are loaded', async (t) => {
  const folder = temporaryFolder(t);
  const heads = await t.throwsAsync(loadModel(writeGguf(join(folder, 'heads.gguf'), tinyLlama())));
  t.like(heads, { code: 'UNSUPPORTED_ARCHITECTURE' });
  t.regex(heads.message, /heads of 16 dimensions; attention takes 64, 80, 96, 112, 128, 256/);
  const unknown = await t.throwsAsync(loadModel(writeGguf(join(folder, 'mamba.gguf'), withMetadata(tinyLlama(shape), { 'general.architecture': string('mamba') }))));
  t.like(unknown, { code: 'UNSUPPORTED_ARCHITECTURE' });
  t.regex(unknown.message, /mamba/);
  t.like(await t.throwsAsync(loadModel(join(folder, 'heads.gguf'), { threads: 0 })), { code: 'INVALID_OPTION' });
  t.like(await t.throwsAsync(loadModel(writeGguf(join(folder, 'tiny.gguf'), tinyLlama(shape)), { signal: AbortSignal.abort() })), { code: 'ABORTED' });
});
