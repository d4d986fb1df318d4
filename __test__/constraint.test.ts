// Text that is held to a schema, and probabilities that are reported, without a server.
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { loadModel } from '../src/index.js';
import type { GeneratedToken, Model } from '../src/index.js';
import { samplingFrom } from '../src/decode/options.js';
import { Sampler } from '../src/decode/sampler.js';
import { tokenBytes } from '../src/model/token-bytes.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

async function tinyModel(t: ExecutionContext): Promise<Model> {
  const model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama({ headDim: 64, heads: 2, kvHeads: 1 })), { threads: 1 });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

test('tokens are drawn only from those that are allowed, in proportion', (t) => {
  const scores = Float32Array.of(5, 1, 1, 4, 0, 0);
  for (const options of [{ temperature: 0 }, { temperature: 1 }, { temperature: 1, topP: 0.99 }, { temperature: 1, topK: 5 }, { temperature: 1, minP: 0.001 }]) {
    const sampler = new Sampler(samplingFrom({ seed: 3, ...options }));
    const drawn = Array.from({ length: 2000 }, () => sampler.next(scores, [], Uint32Array.of(0b000110)));
    const ones = drawn.filter((token) => token === 1).length;
    t.true(drawn.every((token) => token === 1 || token === 2), JSON.stringify(options));
    // Four standard errors of 2,000 draws of two equals; the most likely one of them, the first, without temperature.
    if (options.temperature === 0) t.is(ones, 2000);
    else t.true(Math.abs(ones - 1000) < 90, `${ones} of 2000`);
  }
});

test('a schema holds the text, and a second generation begins anew', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession();
  await session.prefill('hello');
  const schema = { type: 'object', properties: { kind: { enum: ['cat', 'dög'] }, legs: { type: 'integer', minimum: 0, maximum: 9 } }, required: ['kind', 'legs'], additionalProperties: false };
  for (const seed of [1, 2]) {
    let text = '';
    for await (const piece of session.generate({ temperature: 1.5, seed, maxTokens: 60, constraint: model.jsonConstraint(schema) })) text += piece.text;
    t.regex(text, /^\{"kind": "(cat|dög)", "legs": \d\}$/);
    t.is(session.stats().finishReason, 'stop');
  }
  for (const wrong of [{ type: 'nothing' }, { type: 'string', pattern: '(((' }, { $ref: '#/nowhere' }]) t.throws(() => model.jsonConstraint(wrong), { code: 'INVALID_SCHEMA' });
  const disposed = model.jsonConstraint(schema);
  disposed[Symbol.dispose]();
  t.throws(() => disposed.allowed(), { code: 'DISPOSED' });
  const loop: Record<string, unknown> = {};
  loop['properties'] = loop;
  t.throws(() => model.jsonConstraint(loop), { code: 'INVALID_SCHEMA' });
});

test('reported log-probabilities are those of the logits', async (t) => {
  const model = await tinyModel(t);
  using session = model.createSession({ policy: 'exact' });
  await session.prefill([70, 71]);
  const pieces: GeneratedToken[] = [];
  for await (const piece of session.generate({ maxTokens: 2, temperature: 1, seed: 4, logprobs: 3 })) pieces.push(piece);
  using forced = model.createSession({ policy: 'exact' });
  await forced.prefill([70]);
  for (const [i, token] of [71, pieces[0]!.token].entries()) {
    const logits = await forced.step(token);
    const all = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
    const { token: next, logprob, top } = pieces[i]!;
    // Prefill and step round differently in the last bits.
    t.true(Math.abs(logprob! - (logits[next]! - all)) < 1e-3);
    t.deepEqual(top!.map((one) => one.token), [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 3));
  }
});

test('bytes of tokens: of byte-level and of SentencePiece vocabularies, none of special tokens', async (t) => {
  const model = await tinyModel(t);
  const { tokenizer } = model;
  for (const text of ['hello wörld', 'tab\t', '日本']) {
    const bytes = tokenizer.encode(text, { addBos: false }).flatMap((id) => [...model.tokenBytes[id]!]);
    t.is(new TextDecoder().decode(Uint8Array.from(bytes)), text);
  }
  t.is(model.tokenBytes[tokenizer.endTokens[0]!]!.length, 0);
  const pieces = tokenBytes({
    tokenizerJson: { model: { vocab: { '<s>': 0, '▁wör': 1, '<0xE6>': 2 } }, added_tokens: [{ id: 0, content: '<s>', special: true }], decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }] } },
    tokenizerConfig: {}, bosToken: 0, endTokens: [0], addBosToken: true,
  }, 4);
  t.deepEqual(pieces.map((bytes) => [...bytes]), [[], [...new TextEncoder().encode(' wör')], [0xe6], []]);
});
