import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gguf } from '@huggingface/gguf';
import test from 'ava';
import type { ExecutionContext } from 'ava';
import { MagicpigError } from '../src/errors.js';
import type { ErrorCode } from '../src/errors.js';
import { openGguf } from '../src/model/gguf.js';
import { readGgufHeader } from '../src/model/gguf-header.js';
import { open } from 'node:fs/promises';
import { array, bool, encodeGguf, f32, f32s, i32s, randomTensor, seededRandom, string, strings, u32, u64, writeGguf } from './support/gguf-writer.js';
import type { GgufSpec } from './support/gguf-writer.js';
import { mutated } from './support/mutation.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyArchitectures } from './support/tiny-architectures.js';
import { tinyLlama, tinyTokens, withMetadata, withTensor } from './support/tiny-llama.js';

/** Opens what should not open; the message has to name the file, match, and be one line. */
async function fails(t: ExecutionContext, path: string, code: ErrorCode, message: RegExp): Promise<void> {
  const error = await t.throwsAsync(openGguf(path), { instanceOf: MagicpigError });
  t.is(error.code, code, error.message);
  t.regex(error.message, message);
  t.true(error.message.includes(path));
  t.notRegex(error.message, /\n/);
}

const failsToOpen = test.macro(async (t, spec: GgufSpec, code: ErrorCode, message: RegExp) => {
  await fails(t, writeGguf(join(temporaryFolder(t), 'hostile.gguf'), spec), code, message);
});

const tiny = tinyLlama();
const tensor = (name: string) => tiny.tensors.find((found) => found.name === name)!;

test('reads the configuration, the shapes and the bytes', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tinyLlama({ type: 'Q4_1' }));
  await using model = await openGguf(path);
  t.like(model.config, { architecture: 'llama', name: 'tiny', layers: 2, hiddenSize: 64, intermediateSize: 96, heads: 4, kvHeads: 2, headDim: 16 });
  t.like(model.config, { vocabSize: tinyTokens.length, contextLength: 256, rope: { theta: 10_000, dimensions: 16, interleaved: true } });
  t.is(model.config.rope.factors, undefined);
  t.is(model.quantisation, 'Q4_1');
  t.deepEqual(model.layerTensor(1, 'gate').shape, [96, 64]);
  t.deepEqual(model.layerTensor(0, 'key').shape, [32, 64]);
  const written = tinyLlama({ type: 'Q4_1' }).tensors.find(({ name }) => name === 'blk.1.ffn_down.weight')!;
  const down = model.layerTensor(1, 'down');
  t.is(down.type, 'Q4_1');
  t.deepEqual(Buffer.from(down.bytes()), written.data);
  t.is(model.lmHead, model.embedding);
  t.throws(() => model.layerTensor(2, 'gate'), { code: 'INVALID_OPTION' });
});

test('a head of its own is taken where there is one', async (t) => {
  await using model = await openGguf(writeGguf(join(temporaryFolder(t), 'untied.gguf'), tinyLlama({ tied: false })));
  t.is(model.lmHead.name, 'output.weight');
});

test('agrees with @huggingface/gguf about a well-formed header', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'tiny.gguf'), withMetadata(tiny, { 'x.big': u64(2n ** 63n), 'x.flag': bool(true), 'x.floats': f32s([1, -2]) }));
  const theirs = await gguf(path, { allowLocalFile: true });
  const handle = await open(path);
  t.teardown(() => handle.close());
  const ours = readGgufHeader(handle.fd, path, (await handle.stat()).size);
  t.is(ours.dataStart, Number(theirs.tensorDataOffset));
  const plain = (value: unknown): unknown => (ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value);
  const expected = theirs.metadata as object as Record<string, unknown>;
  for (const [key, value] of ours.metadata.pairs) t.deepEqual(plain(value), expected[key], key);
  t.deepEqual(
    ours.tensors.map(({ name, dimensions, type, offset }) => ({ name, dimensions, type, offset })),
    theirs.tensorInfos.map(({ name, shape, dtype, offset }) => ({ name, dimensions: shape.map(Number), type: dtype, offset: Number(offset) })),
  );
});

test('a token that begins with a byte order mark keeps it', async (t) => {
  const tokens = ['\uFEFF', ...tinyTokens.slice(1)];
  const path = writeGguf(join(temporaryFolder(t), 'mark.gguf'), withMetadata(tiny, { 'tokenizer.ggml.tokens': strings(tokens) }));
  await using model = await openGguf(path);
  t.is((model.tokenizer.tokenizerJson as { model: { vocab: Record<string, number> } }).model.vocab['\uFEFF'], 0);
});

test('every truncation is an error, wherever the file is cut', async (t) => {
  const whole = encodeGguf(tinyLlama({ layers: 1 }));
  const path = join(temporaryFolder(t), 'cut.gguf');
  for (let length = 0; length < whole.length; length += length < 9000 ? 37 : 4099) {
    writeFileSync(path, whole.subarray(0, length));
    const error = await t.throwsAsync(openGguf(path), { instanceOf: MagicpigError }, `cut to ${length} bytes`);
    t.is(error.code, 'GGUF_MALFORMED', error.message);
  }
  writeFileSync(path, whole);
  await (await openGguf(path))[Symbol.asyncDispose]();
});

test('damaged headers end in a typed error or in a model, never otherwise', async (t) => {
  const whole = encodeGguf(tinyLlama({ layers: 1 }));
  const random = seededRandom(7);
  const path = join(temporaryFolder(t), 'damaged.gguf');
  let refused = 0;
  for (let round = 0; round < 400; round++) {
    const damaged = Buffer.from(whole);
    for (let i = 0; i < 4; i++) damaged[Math.floor(random() * (round % 2 ? 1500 : 9000))] = Math.floor(random() * 256);
    writeFileSync(path, damaged);
    try {
      await (await openGguf(path))[Symbol.asyncDispose]();
    } catch (error) {
      t.true(MagicpigError.isInstance(error), String((error as Error).stack));
      refused++;
    }
  }
  t.true(refused > 200, `${refused} of 400 refused`);
});

test('other magic', failsToOpen, { ...tiny, magic: 'GGML' }, 'GGUF_MALFORMED', /does not begin with "GGUF"/);
test('version 1', failsToOpen, { ...tiny, version: 1 }, 'GGUF_MALFORMED', /version 1/);
test('big-endian', failsToOpen, { ...tiny, version: 0x03000000 }, 'GGUF_MALFORMED', /big-endian/);
test('a huge count of tensors', failsToOpen, { ...tiny, tensorCount: 2n ** 63n }, 'GGUF_MALFORMED', /claims 9223372036854775808 tensors/);
test('a huge count of pairs', failsToOpen, { ...tiny, pairCount: 2n ** 40n }, 'GGUF_MALFORMED', /claims \d+ metadata pairs/);
test('one tensor too many', failsToOpen, { ...tiny, tensorCount: BigInt(tiny.tensors.length + 1) }, 'GGUF_MALFORMED', /./);
test('a huge array', failsToOpen, withMetadata(tiny, { x: array(0, 2n ** 50n, Buffer.alloc(4)) }), 'GGUF_MALFORMED', /elements of "x"/);
test('an array in an array', failsToOpen, withMetadata(tiny, { x: array(9, 1, Buffer.alloc(64)) }), 'GGUF_MALFORMED', /unknown type 9/);
test('an unknown type of value', failsToOpen, withMetadata(tiny, { x: { type: 77, bytes: Buffer.alloc(8) } }), 'GGUF_MALFORMED', /unknown type 77/);
test('a string that is not UTF-8', failsToOpen, withMetadata(tiny, { x: string(Buffer.of(0xff, 0xfe)) }), 'GGUF_MALFORMED', /not UTF-8/);
test('a string longer than the file', failsToOpen, withMetadata(tiny, { x: { type: 8, bytes: Buffer.alloc(8, 0xff) } }), 'GGUF_MALFORMED', /ends within its header/);
test('an odd alignment', failsToOpen, withMetadata(tiny, { 'general.alignment': u32(24) }), 'GGUF_MALFORMED', /power of two/);
test('a part of a split file', failsToOpen, withMetadata(tiny, { 'split.count': u32(3) }), 'GGUF_MALFORMED', /one of 3 parts/);

test('an unknown architecture', failsToOpen, withMetadata(tiny, { 'general.architecture': string('mamba') }), 'UNSUPPORTED_ARCHITECTURE', /"mamba"; magicpig reads llama, qwen2, qwen3, gemma2, gemma3/);
test('no architecture', failsToOpen, withMetadata(tiny, { 'general.architecture': undefined }), 'GGUF_MALFORMED', /general.architecture is missing/);
test('an unknown rotary scaling', failsToOpen, withMetadata(tiny, { 'llama.rope.scaling.type': string('longrope') }), 'UNSUPPORTED_ARCHITECTURE', /"longrope".*"none", "linear" and "yarn"/);
test('yarn of another kind', failsToOpen, withMetadata(tiny, { 'llama.rope.scaling.type': string('yarn'), 'llama.rope.scaling.yarn_log_multiplier': f32(0.1) }), 'UNSUPPORTED_ARCHITECTURE', /log multiplier/);
test('yarn over frequencies that are all one', failsToOpen, withMetadata(tiny, { 'llama.rope.scaling.type': string('yarn'), 'llama.rope.freq_base': f32(1) }), 'GGUF_MALFORMED', /YaRN cannot scale/);
test('a qwen2 without its biases', failsToOpen, withTensor(tinyArchitectures.qwen2!.spec, 'blk.1.attn_k.bias', undefined), 'GGUF_MALFORMED', /attn_k\.bias" is missing/);
test('a qwen2 with a window', failsToOpen, withMetadata(tinyArchitectures.qwen2!.spec, { 'qwen2.attention.sliding_window': u32(64) }), 'UNSUPPORTED_ARCHITECTURE', /a window of 64 tokens.*llama, gemma2 and gemma3/);
test('a pattern of windows for other layers', failsToOpen, withMetadata(tinyArchitectures.gemma3!.spec, { 'gemma3.attention.sliding_window_pattern': i32s([1, 0]) }), 'GGUF_MALFORMED', /lists 2 layers of 7/);
test('a norm of heads of another size', failsToOpen, withTensor(tinyArchitectures.qwen3!.spec, 'blk.0.attn_q_norm.weight', { shape: [64, 2] }), 'GGUF_MALFORMED', /call for \[128\]/);
test('a tensor of another architecture', failsToOpen, { ...tiny, tensors: [...tiny.tensors, randomTensor('blk.0.attn_q_norm.weight', 'F32', [16], 1)] }, 'UNSUPPORTED_ARCHITECTURE', /magicpig's llama does not use/);
test('no layers', failsToOpen, withMetadata(tiny, { 'llama.block_count': u32(0) }), 'GGUF_MALFORMED', /block_count is 0/);
test('too many layers', failsToOpen, withMetadata(tiny, { 'llama.block_count': u32(4_000_000_000) }), 'GGUF_MALFORMED', /block_count is 4000000000/);
test('a missing key', failsToOpen, withMetadata(tiny, { 'llama.embedding_length': undefined }), 'GGUF_MALFORMED', /embedding_length is missing/);
test('a key of another type', failsToOpen, withMetadata(tiny, { 'llama.embedding_length': string('64') }), 'GGUF_MALFORMED', /embedding_length is not a number/);
test('heads that do not divide', failsToOpen, withMetadata(tiny, { 'llama.attention.head_count_kv': u32(3) }), 'GGUF_MALFORMED', /4 heads do not divide among 3/);
test('KV heads by layer', failsToOpen, withMetadata(tiny, { 'llama.attention.head_count_kv': i32s([2, 1]) }), 'UNSUPPORTED_ARCHITECTURE', /differs by layer/);
test('eps that is no number', failsToOpen, withMetadata(tiny, { 'llama.attention.layer_norm_rms_epsilon': f32(NaN) }), 'GGUF_MALFORMED', /epsilon is NaN/);
test('negative eps', failsToOpen, withMetadata(tiny, { 'llama.attention.layer_norm_rms_epsilon': f32(-1) }), 'GGUF_MALFORMED', /epsilon is -1/);
test('infinite theta', failsToOpen, withMetadata(tiny, { 'llama.rope.freq_base': f32(Infinity) }), 'GGUF_MALFORMED', /freq_base is Infinity/);
test('odd rotation', failsToOpen, withMetadata(tiny, { 'llama.rope.dimension_count': u32(15) }), 'GGUF_MALFORMED', /does not make pairs/);
test('a vocabulary of another size', failsToOpen, withMetadata(tiny, { 'llama.vocab_size': u32(7) }), 'GGUF_MALFORMED', /vocab_size is 7/);

test('an unknown quantisation', failsToOpen, withTensor(tiny, 'blk.0.attn_q.weight', { type: 16 }), 'UNSUPPORTED_QUANTISATION', /"blk.0.attn_q.weight" is IQ2_XXS.*Q4_K_M/);
test('a type from the future', failsToOpen, withTensor(tiny, 'blk.0.attn_q.weight', { type: 99 }), 'UNSUPPORTED_QUANTISATION', /is type 99/);
test('a missing tensor', failsToOpen, withTensor(tiny, 'blk.1.ffn_up.weight', undefined), 'GGUF_MALFORMED', /"blk.1.ffn_up.weight" is missing/);
test('a tensor twice', failsToOpen, { ...tiny, tensors: [...tiny.tensors, tensor('output_norm.weight')] }, 'GGUF_MALFORMED', /is there twice/);
test('a wrong shape', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { shape: [64, 32] }), 'GGUF_MALFORMED', /the shape \[64, 32\], but the metadata call for \[32, 64\]/);
test('a dimension of 0', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { shape: [0, 64] }), 'GGUF_MALFORMED', /a dimension of 0/);
test('no dimensions', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { shape: [] }), 'GGUF_MALFORMED', /has 0 dimensions/);
test('a product past any file', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { shape: [2 ** 50, 2 ** 50] }), 'GGUF_MALFORMED', /larger than any file/);
test('rows of part of a block', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { type: 'Q8_0', shape: [64, 33] }), 'GGUF_MALFORMED', /whole blocks of 32/);
test('an offset past the end', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { offset: 2 ** 40 }), 'GGUF_MALFORMED', /ends at byte/);
test('an offset past any file', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { offset: 2n ** 63n }), 'GGUF_MALFORMED', /the offset of/);
test('an unaligned offset', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { offset: 7 }), 'GGUF_MALFORMED', /not aligned to 32/);
test('overlapping tensors', failsToOpen, withTensor(tiny, 'blk.0.attn_k.weight', { offset: 32 }), 'GGUF_MALFORMED', /overlaps "token_embd.weight"/);
test(
  'a bias that would go unused',
  failsToOpen,
  { ...tiny, tensors: [...tiny.tensors, randomTensor('blk.0.attn_output.bias', 'F32', [64], 1)] },
  'UNSUPPORTED_ARCHITECTURE',
  /"blk.0.attn_output.bias"/,
);

test('an unknown tokenizer', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.model': string('rwkv') }), 'UNSUPPORTED_TOKENIZER', /"rwkv"/);
test('an unknown pre-tokenizer', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.pre': string('falcon') }), 'UNSUPPORTED_TOKENIZER', /"falcon"/);
test('a pre-tokenizer named like a method', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.pre': string('toString') }), 'UNSUPPORTED_TOKENIZER', /"toString"/);
test('a merge of nothing', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.merges': strings(['q z']) }), 'GGUF_MALFORMED', /"q z" does not make a token/);
test('an end token past the vocabulary', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.eos_token_id': u32(60_000) }), 'GGUF_MALFORMED', /eos_token_id is 60000/);
test('kinds for other tokens', failsToOpen, withMetadata(tiny, { 'tokenizer.ggml.token_type': i32s([1]) }), 'GGUF_MALFORMED', /token_type/);

test.serial('megabytes of hostile arrays cost no more than their size', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'large.gguf'), withMetadata(tiny, { x: array(7, 2 ** 21, Buffer.alloc(2 ** 21, 1)), y: array(8, 2 ** 20, Buffer.alloc(2 ** 23)) }));
  const before = process.memoryUsage().rss;
  const started = performance.now();
  await (await openGguf(path))[Symbol.asyncDispose]();
  t.true(performance.now() - started < 5000);
  t.true(process.memoryUsage().rss - before < 85 * 2 ** 20, 'memory: twice 10 MiB and 64 MiB');
});

test("Llama 3.1's divisors and linear scaling", async (t) => {
  const folder = temporaryFolder(t);
  const divisors = Float32Array.from([1, 1, 1, 1, 2, 4, 8, 8]);
  const tensors = [...tiny.tensors, { name: 'rope_freqs.weight', type: 'F32' as const, shape: [8], data: Buffer.from(divisors.buffer) }];
  await using scaled = await openGguf(writeGguf(join(folder, 'freqs.gguf'), { ...tiny, tensors }));
  t.deepEqual(scaled.config.rope.factors, Float64Array.from(divisors));
  await using linear = await openGguf(
    writeGguf(join(folder, 'linear.gguf'), withMetadata(tiny, { 'llama.rope.scaling.type': string('linear'), 'llama.rope.scaling.factor': f32(4) })),
  );
  t.deepEqual(linear.config.rope.factors, new Float64Array(8).fill(4));
  const zero = [...tiny.tensors, { name: 'rope_freqs.weight', type: 'F32' as const, shape: [8], data: Buffer.alloc(32) }];
  await fails(t, writeGguf(join(folder, 'zero.gguf'), { ...tiny, tensors: zero }), 'GGUF_MALFORMED', /divisor that is not above 0/);
});

test('a file that becomes shorter while it is open', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'shrinks.gguf'), tiny);
  await using model = await openGguf(path);
  truncateSync(path, 12_000);
  t.throws(() => model.layerTensor(1, 'down').bytes(), { code: 'GGUF_MALFORMED', message: /became shorter/ });
});

test('no tensors after closing', async (t) => {
  const model = await openGguf(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), tiny));
  const head = model.lmHead;
  await model[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
  t.throws(() => head.bytes(), { code: 'DISPOSED' });
});

test('paths that are no file', async (t) => {
  const folder = temporaryFolder(t);
  await fails(t, join(folder, 'absent.gguf'), 'FILE_NOT_FOUND', /does not exist/);
  mkdirSync(join(folder, 'folder.gguf'));
  await fails(t, join(folder, 'folder.gguf'), 'FILE_UNREADABLE', /not a regular file/);
  await fails(t, '/dev/zero', 'FILE_UNREADABLE', /not a regular file/);
  writeFileSync(join(folder, 'empty.gguf'), '');
  await fails(t, join(folder, 'empty.gguf'), 'GGUF_MALFORMED', /does not begin/);
});

test.serial('mutated files', async (t) => {
  const { inputs, taken, slowestMs } = await mutated('GGUF', { most: 400 }, 11, temporaryFolder(t));
  t.log(`${inputs} inputs, ${taken} taken, the slowest in ${slowestMs.toFixed(0)} ms`);
  // Some are harmless and most are not, or it would not be the parser that is tested.
  t.true(taken > 0 && taken < inputs / 2, `${taken} of ${inputs}`);
});
