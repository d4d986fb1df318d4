// Whole steps in the addon: what the model's weights and a session must agree about. That logits are right is held by
// dense-graph.test.ts and exactness.test.ts.
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { nativeOptions } from '../src/decode/model.js';
import { openGguf } from '../src/model/gguf.js';
import type { LayerTensor, Tensor } from '../src/model/types.js';
import { NativeModel, NativeSession } from '../src/native.js';
import type { NativeModelOptions, NativeSessionOptions } from '../src/native.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

const vocabulary = 264;
const shape = { layers: 2, heads: 2, kvHeads: 1, headDim: 64 };

async function options(t: ExecutionContext): Promise<NativeModelOptions> {
  const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama(shape));
  await using file = await openGguf(path);
  const span = ({ type, shape: size, file: number, offset }: Tensor) => ({ type, outputs: size.length > 1 ? (size[0] as number) : 1, inputs: size.at(-1) as number, file: number, offset });
  const roles = ['attentionNorm', 'query', 'key', 'value', 'attentionOutput', 'mlpNorm', 'gate', 'up', 'down'] as const;
  const layer = (number: number) => ({
    rope: 0,
    ...(Object.fromEntries(roles.map((role) => [role, span(file.layerTensor(number, role))])) as Record<LayerTensor, ReturnType<typeof span>>),
  });
  const { hiddenSize, intermediateSize, rmsNormEps, rope } = file.config;
  return {
    files: [path], threads: 1, normOffset: 0, hiddenSize, intermediateSize, heads: 2, kvHeads: 1, headDim: 64, normEpsilon: rmsNormEps, activation: 'silu',
    embeddingScale: 1, queryScale: 1, ropes: [{ theta: rope.theta, dimensions: rope.dimensions, interleaved: true, factors: [], magnitude: 1 }], embedding: span(file.embedding), finalNorm: span(file.finalNorm),
    lmHead: span(file.lmHead), layers: [layer(0), layer(1)],
  };
}

function newSession(t: ExecutionContext, change: Partial<NativeSessionOptions> = {}): NativeSession {
  const session = NativeSession.create({ ...shape, threads: 2, seed: 1, ...change });
  t.teardown(() => { session.dispose(); });
  return session;
}

test('tokens at once are tokens one by one', async (t) => {
  const model = NativeModel.open(await options(t));
  const text = Array.from({ length: 20 }, (_, i) => (i * 29) % vocabulary);
  const [one, many] = [newSession(t), newSession(t)];
  const logits = new Float32Array(vocabulary);
  for (const token of text) one.decodeToken(model, token, logits);
  const together = await many.prefillTokens(model, text);
  t.true(together.every((value, i) => Math.abs(value - (logits[i] as number)) < 1e-3));
  // Negative control: one token less is another text.
  const shorter = await newSession(t).prefillTokens(model, text.slice(0, -1));
  t.false(shorter.every((value, i) => Math.abs(value - (logits[i] as number)) < 1e-3));
});

test('an output head of 8 bits says nearly the same', async (t) => {
  const wide = await options(t);
  const logitsOf = (change: Partial<NativeModelOptions>) => {
    const logits = new Float32Array(vocabulary);
    newSession(t).decodeToken(NativeModel.open({ ...wide, ...change }), 1, logits);
    return logits;
  };
  const [exact, rounded] = [logitsOf({}), logitsOf({ lmHead8Bits: true })];
  const rootMeanSquare = (values: Iterable<number>) => Math.sqrt(Array.from(values, (x) => x * x).reduce((a, b) => a + b) / vocabulary);
  const error = rootMeanSquare(exact.map((value, i) => value - (rounded[i] as number)));
  t.true(error < 0.01 * rootMeanSquare(exact), `${error}`);
  // Negative control: it is another head.
  t.true(error > 0);
});

test('the importance of a head is the norm of its part of the output projection', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama({ ...shape, heads: 3 }));
  await using file = await openGguf(path);
  const importance = NativeModel.open(nativeOptions(file, { threads: 1 })).headImportance();
  t.is(importance.length, 2 * 3);
  for (const layer of [0, 1]) {
    const { type, shape: [rows = 0, columns = 0], ...tensor } = file.layerTensor(layer, 'attentionOutput');
    t.is(type, 'F32');
    const weights = new Float32Array(tensor.bytes().slice().buffer);
    t.true(rows <= 128, 'all rows are in it');
    const norms = [0, 1, 2].map((head) => Math.hypot(...Array.from(weights).filter((_, i) => Math.floor((i % columns) / 64) === head)));
    const mean = (norms[0]! + norms[1]! + norms[2]!) / 3;
    for (const [head, norm] of norms.entries()) t.true(Math.abs(importance[3 * layer + head]! - norm / mean) < 1e-5);
  }
});

test('weights rounded to 8 and 4 bits say nearly the same, and less so with fewer bits', async (t) => {
  const wide = await options(t);
  const logitsOf = (native: NativeModel) => {
    const logits = new Float32Array(vocabulary);
    newSession(t).decodeToken(native, 1, logits);
    return logits;
  };
  const exact = logitsOf(NativeModel.open(wide));
  const rootMeanSquare = (values: Iterable<number>) => Math.sqrt(Array.from(values, (x) => x * x).reduce((a, b) => a + b) / vocabulary);
  const errorOf = async (bits: number) => {
    const rounded = logitsOf(await NativeModel.load({ ...wide, bits }));
    return rootMeanSquare(exact.map((value, i) => value - (rounded[i] as number))) / rootMeanSquare(exact);
  };
  const [eight, four] = [await errorOf(8), await errorOf(4)];
  t.true(eight > 0 && eight < 0.02, `${eight}`);
  t.true(four > 2 * eight && four < 0.3, `${four}`);
  await t.throwsAsync(NativeModel.load({ ...wide, bits: 3 }), { code: 'INVALID_OPTION', message: /bits is 3/ });
  await t.throwsAsync(NativeModel.load({ ...wide, files: ['/no/such/file'], bits: 4 }), { code: 'FILE_UNREADABLE' });
});

test('a failed step can be taken back', async (t) => {
  const model = NativeModel.open(await options(t));
  const session = newSession(t);
  const logits = new Float32Array(vocabulary);
  session.decodeToken(model, 1, logits);
  const fails = (call: () => void, message: RegExp) => {
    t.regex(t.throws(call, { code: 'INVALID_OPTION' }).message, message);
    t.is(session.stats().tokens, 1);
  };
  fails(() => { session.decodeToken(model, vocabulary, logits); }, /token 264 of a vocabulary of 264/);
  fails(() => { session.decodeToken(model, -1, logits); }, /token is -1/);
  fails(() => { session.decodeToken(model, 1, new Float32Array(3)); }, /3 logits; there must be 264/);
  await t.throwsAsync(session.prefillTokens(model, []), { code: 'INVALID_OPTION' });
  session.decodeToken(model, 2, logits);
  t.is(session.stats().tokens, 2);
});

test('a session of another shape is refused', async (t) => {
  const model = NativeModel.open(await options(t));
  const logits = new Float32Array(vocabulary);
  for (const change of [{ layers: 1 }, { layers: 3 }, { heads: 4 }, { headDim: 128 }, { kvHeads: 2 }]) {
    const session = newSession(t, change);
    const error = t.throws(() => { session.decodeToken(model, 1, logits); }, { code: 'INVALID_OPTION' });
    t.regex(error.message, /another attention shape/, JSON.stringify(change));
  }
});

test('weights that are not where they should be are refused before they are read', async (t) => {
  const good = await options(t);
  const fails = (change: Partial<NativeModelOptions>, code: string, message: RegExp) => {
    t.regex(t.throws(() => NativeModel.open({ ...good, ...change }), { code }).message, message);
  };
  fails({ files: ['/no/such/file'] }, 'FILE_UNREADABLE', /cannot map \/no\/such\/file/);
  fails({ embedding: { ...good.embedding, offset: 2 ** 50 } }, 'GGUF_MALFORMED', /a matrix of \w+, 264 x 64 at byte \d+, is not in a file of \d+ bytes/);
  fails({ embedding: { ...good.embedding, offset: 1.5 } }, 'INVALID_OPTION', /no number of bytes/);
  fails({ lmHead: { ...good.lmHead, type: 'IQ3_S' } }, 'GGUF_MALFORMED', /type IQ3_S is unknown/);
  fails({ hiddenSize: 32 }, 'GGUF_MALFORMED', /attention_norm is 1x64, not 1x32/);
  const [rope] = good.ropes;
  fails({ ropes: [{ ...rope!, dimensions: 63 }] }, 'GGUF_MALFORMED', /63 of 64 dimensions rotate/);
  fails({ ropes: [] }, 'GGUF_MALFORMED', /rope 0 of 0/);
  fails({ activation: 'relu' as 'silu' }, 'INVALID_OPTION', /activation relu is none of silu, gelu/);
  const [first, second] = good.layers;
  fails({ layers: [{ ...first!, queryBias: good.finalNorm }, second!] }, 'GGUF_MALFORMED', /query_bias is 1x64, not 1x128/);
});
