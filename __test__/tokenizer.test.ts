import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { openGguf } from '../src/model/gguf.js';
import { resolveModel } from '../src/model/resolve.js';
import { Tokenizer } from '../src/model/tokenizer.js';
import { bool, f32s, i32s, string, strings, u32, writeGguf } from './support/gguf-writer.js';
import type { GgufSpec } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama, tinyTokens, withMetadata } from './support/tiny-llama.js';

async function tokenizerOf(folder: string, spec: GgufSpec): Promise<Tokenizer> {
  await using file = await openGguf(writeGguf(join(folder, 'model.gguf'), spec));
  return new Tokenizer(file.tokenizer);
}

const id = (text: string) => tinyTokens.indexOf(text);

test('byte-level BPE merges as its list says, and knows every byte', async (t) => {
  const tokenizer = await tokenizerOf(temporaryFolder(t), tinyLlama());
  t.deepEqual(tokenizer.encode('hello w'), [id('hello'), id('Ġw')]);
  t.deepEqual(tokenizer.encode('hel'), [id('he'), id('l')]);
  for (const text of ['naïve café', '日本語 🐖', 'tabs\tand\r\nlines\n\n  ', '\u0000\u0085\uFEFF']) t.is(tokenizer.decode(tokenizer.encode(text)), text);
});

test('the text of a special token is that token only where it is asked for', async (t) => {
  const tokenizer = await tokenizerOf(temporaryFolder(t), tinyLlama());
  t.deepEqual(tokenizer.encode('<|im_end|>', { parseSpecial: true }), [2]);
  const typed = tokenizer.encode('<|im_end|>');
  t.false(typed.includes(2));
  t.is(tokenizer.decode(typed), '<|im_end|>');
  t.is(tokenizer.decode([2]), '');
  t.is(tokenizer.decode([2], { keepSpecial: true }), '<|im_end|>');
  t.deepEqual([...tokenizer.endTokens].sort(), [0, 2]);
});

test('a beginning of text comes once, where the model wants one', async (t) => {
  const tokenizer = await tokenizerOf(temporaryFolder(t), withMetadata(tinyLlama(), { 'tokenizer.ggml.add_bos_token': bool(true) }));
  t.deepEqual(tokenizer.encode('hello'), [1, id('hello')]);
  t.deepEqual(tokenizer.encode('<|im_start|>hello', { parseSpecial: true }), [1, id('hello')]);
  t.deepEqual(tokenizer.encode('hello', { addBos: false }), [id('hello')]);
});

test('streamed tokens make the same text, and no half characters', async (t) => {
  const tokenizer = await tokenizerOf(temporaryFolder(t), tinyLlama());
  const text = 'hello 日本 🐖 naïve';
  const stream = tokenizer.stream();
  const pieces = tokenizer.encode(text).map((token) => stream.push(token));
  t.is(pieces.join('') + stream.end(), text);
  t.true(pieces.every((piece) => !piece.includes('\uFFFD')));
  stream.push(tokenizer.encode('🐖')[0]!);
  t.is(stream.end(), '\uFFFD', 'what stays incomplete is marked');
});

test('SmolLM2’s tokens are those of its own tokenizer', async (t) => {
  await using file = await openGguf(await resolveModel('smollm2-135m'));
  const tokenizer = new Tokenizer(file.tokenizer);
  // From the recording of llama.cpp under reference/, and by eye: each digit is a token.
  t.deepEqual(tokenizer.encode('2026').length, 4);
  for (const text of ["I'll say: it's 3.14, isn't it?", '  two  spaces', 'fn main() {\n\tprintln!("hé");\n}']) t.is(tokenizer.decode(tokenizer.encode(text)), text);
});

test('Qwen’s words end before every digit, and characters are composed', async (t) => {
  const of = (pre: string) => tokenizerOf(temporaryFolder(t), withMetadata(tinyLlama(), {
    'tokenizer.ggml.pre': string(pre),
    'tokenizer.ggml.tokens': strings([...tinyTokens.slice(0, -1), '12']),
    'tokenizer.ggml.merges': strings(['h e', 'l l', 'he ll', 'hell o', '1 2']),
  }));
  const tokenizer = await of('qwen2');
  t.deepEqual(tokenizer.encode('123'), [id('1'), id('2'), id('3')]);
  t.deepEqual(tokenizer.encode('e\u0301'), tokenizer.encode('\u00e9'));
  // Control: others join digits.
  t.deepEqual((await of('gpt-2')).encode('123'), [tinyTokens.length - 1, id('3')]);
});

/** SentencePiece's kind of vocabulary: pieces with scores, bytes, ▁ for a space. */
function sentencePiece(): GgufSpec {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const pieces = ['▁', 'h', 'e', 'l', 'o', 'he', 'll', 'hell', 'hello', '▁hello'];
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...pieces];
  return withMetadata(tinyLlama(), {
    'tokenizer.ggml.model': string('llama'),
    'tokenizer.ggml.tokens': strings(tokens),
    'tokenizer.ggml.scores': f32s(tokens.map((_, i) => -i)),
    'tokenizer.ggml.token_type': i32s(tokens.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1))),
    'tokenizer.ggml.merges': undefined,
    'tokenizer.ggml.unknown_token_id': u32(0),
    'tokenizer.ggml.bos_token_id': u32(1),
    'tokenizer.ggml.eos_token_id': u32(2),
  });
}

test('SentencePiece’s BPE spells unknown characters in bytes', async (t) => {
  const folder = temporaryFolder(t);
  const spec = sentencePiece();
  // The embedding must have a row for each token; its values do not matter here.
  const tensors = spec.tensors.map((tensor) => (tensor.name === 'token_embd.weight' ? { ...tensor, shape: [269, 64], data: Buffer.alloc(269 * 64 * 4) } : tensor));
  const tokenizer = await tokenizerOf(folder, { ...spec, tensors });
  t.deepEqual(tokenizer.encode('hello'), [268]);
  t.is(tokenizer.decode(tokenizer.encode('hello 日 hello')), 'hello 日 hello');
});

test('an unknown pre-tokenizer is named, and a tokenizer.json beside the file takes its place', async (t) => {
  const folder = temporaryFolder(t);
  const spec = withMetadata(tinyLlama(), { 'tokenizer.ggml.pre': string('future') });
  const error = await t.throwsAsync(tokenizerOf(folder, spec));
  t.like(error, { code: 'UNSUPPORTED_TOKENIZER' });
  t.regex(error.message, /the pre-tokenizer "future"/);
  const vocab = Object.fromEntries(tinyTokens.map((token, at) => [token, at]));
  const json = {
    added_tokens: [0, 1, 2].map((at) => ({ id: at, content: tinyTokens[at], special: true, normalized: false, single_word: false, lstrip: false, rstrip: false })),
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    model: { type: 'BPE', vocab, merges: ['h e', 'l l', 'he ll', 'hell o', 'Ġ w'] },
    decoder: { type: 'ByteLevel' },
  };
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
  t.deepEqual((await tokenizerOf(folder, spec)).encode('hello w'), [id('hello'), id('Ġw')]);
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ ...json, model: { ...json.model, vocab: { ...vocab, hello: 5 } } }));
  t.like(await t.throwsAsync(tokenizerOf(folder, spec)), { code: 'UNSUPPORTED_TOKENIZER' }, 'another model’s tokenizer is not used');
});
