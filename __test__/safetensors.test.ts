// Folders that lie: every one ends in a typed error that names the path, soon, and within twice its size and 64 MiB.
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { MagicpigError } from '../src/errors.js';
import type { ErrorCode } from '../src/errors.js';
import { openSafetensors } from '../src/model/safetensors.js';
import { isPlainFileName } from '../src/model/safetensors-index.js';
import { Tokenizer } from '../src/model/tokenizer.js';
import { hubFolder } from './support/hub-architectures.js';
import { mutated } from './support/mutation.js';
import { encodeSafetensors, headerLength, inDtype, shardName, writeHubFolder } from './support/safetensors-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyArchitectures } from './support/tiny-architectures.js';

const whole = hubFolder('llama', tinyArchitectures.llama!.spec);
const indexName = 'model.safetensors.index.json';

type Damage = (folder: string) => void;
type Header = Record<string, { dtype?: unknown; shape?: unknown; data_offsets?: unknown }>;

const json = (name: string, change: (value: any) => unknown): Damage => (folder) => { // eslint-disable-line @typescript-eslint/no-explicit-any
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')))));
};
const config = (changes: Record<string, unknown>) => json('config.json', (value: object) => ({ ...value, ...changes }));
const scaling = (rope: unknown) => config({ rope_scaling: rope });
const text = (name: string, content: string | Buffer): Damage => (folder) => { writeFileSync(join(folder, name), content); };
/** The header of model.safetensors, said otherwise. */
const header = (change: (header: Header) => object): Damage => (folder) => {
  const path = join(folder, 'model.safetensors');
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE());
  const said = Buffer.from(JSON.stringify(change(JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Header)));
  writeFileSync(path, Buffer.concat([headerLength(said.length), said, bytes.subarray(8 + length)]));
};
const rawHeader = (said: string | Buffer): Damage => text('model.safetensors', Buffer.concat([headerLength(Buffer.byteLength(said)), Buffer.from(said as string)]));
const q = 'model.layers.0.self_attn.q_proj.weight';
const described = (change: object) => header((all) => ({ ...all, [q]: { ...all[q], ...change } }));
/** The folder in two shards, and its index, of which the file of one tensor has another name. */
const shard = (name: string): Damage => (folder) => {
  rmSync(join(folder, 'model.safetensors'));
  writeHubFolder(folder, whole, 2);
  json(indexName, (value: { weight_map: object }) => ({ weight_map: { ...value.weight_map, [q]: name } }))(folder);
};
const sharded = (damage: Damage): Damage => (folder) => {
  rmSync(join(folder, 'model.safetensors'));
  writeHubFolder(folder, whole, 2);
  damage(folder);
};
const nested = (depth: number) => '{"a":'.repeat(depth) + '1' + '}'.repeat(depth);

const M = 'SAFETENSORS_MALFORMED';
const cases: readonly (readonly [string, Damage, ErrorCode, RegExp])[] = [
  ['a shard by ..', shard('../model-00001-of-00002.safetensors'), M, /not the name of a \.safetensors file in the same folder/],
  ['a shard called ..', shard('..'), M, /not the name/],
  ['a shard by an absolute path', shard('/etc/passwd.safetensors'), M, /not the name/],
  ['a shard by a drive', shard('C:\\x.safetensors'), M, /not the name/],
  ['a shard in a folder', shard('sub/x.safetensors'), M, /not the name/],
  ['a shard behind a backslash', shard('..\\x.safetensors'), M, /not the name/],
  ['a shard with NUL', shard('model\u0000.safetensors'), M, /not the name/],
  ['a shard with a line break', shard('a\nb.safetensors'), M, /not the name/],
  ['a shard that is a device of Windows', shard('CON.safetensors'), M, /not the name/],
  ['another one', shard('lpt1.x.safetensors'), M, /not the name/],
  ['a stream of a file', shard('x.safetensors:y.safetensors'), M, /not the name/],
  ['a shard of another kind', shard('config.json'), M, /not the name/],
  ['the index as its own shard', shard(indexName), M, /not the name/],
  ['a shard of 300 letters', shard(`${'x'.repeat(300)}.safetensors`), M, /not the name/],
  ['a shard without a name', shard(5 as unknown as string), M, /has no name/],
  ['a missing shard', sharded((folder) => { rmSync(join(folder, shardName(1, 2))); }), M, /00002-of-00002\.safetensors is missing/],
  ['a tensor in another shard than the index says', sharded((folder) => {
    json(indexName, (value: { weight_map: Record<string, string> }) => ({ weight_map: { ...value.weight_map, [q]: shardName(value.weight_map[q] === shardName(0, 2) ? 1 : 0, 2) } }))(folder);
  }), M, /is not in the file that/],
  ['a tensor in two shards', sharded((folder) => { rmSync(join(folder, shardName(1, 2))); linkSync(join(folder, shardName(0, 2)), join(folder, shardName(1, 2))); }), M, /as another file of the model has/],
  ['600 shards', sharded(json(indexName, () => ({ weight_map: Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`t${i}`, `${i}.safetensors`])) }))), M, /names 600 files/],
  ['an empty index', sharded(json(indexName, () => ({ weight_map: {} }))), M, /is empty/],
  ['an index without a map', sharded(json(indexName, () => ({ weight_map: [] }))), M, /no weight_map/],
  ['a link to itself', (folder) => { rmSync(join(folder, 'model.safetensors')); symlinkSync('model.safetensors', join(folder, 'model.safetensors')); }, 'FILE_UNREADABLE', /ELOOP/],
  ['a link to nothing', (folder) => { rmSync(join(folder, 'config.json')); symlinkSync('nothing', join(folder, 'config.json')); }, 'FILE_NOT_FOUND', /does not exist/],
  ['a link to a device', (folder) => { rmSync(join(folder, 'model.safetensors')); symlinkSync('/dev/zero', join(folder, 'model.safetensors')); }, 'FILE_UNREADABLE', /not a regular file/],
  ['a hard link to another file', (folder) => { rmSync(join(folder, 'model.safetensors')); linkSync(join(folder, 'config.json'), join(folder, 'model.safetensors')); }, M, /its header claims/],
  ['a folder as weights', (folder) => { rmSync(join(folder, 'model.safetensors')); mkdirSync(join(folder, 'model.safetensors')); }, 'FILE_UNREADABLE', /not a regular file/],
  ['a pipe as config.json', (folder) => { rmSync(join(folder, 'config.json')); execFileSync('mkfifo', [join(folder, 'config.json')]); }, 'FILE_UNREADABLE', /not a regular file/],
  ['no weights', (folder) => { rmSync(join(folder, 'model.safetensors')); }, M, /neither model\.safetensors nor/],
  ['no config.json', (folder) => { rmSync(join(folder, 'config.json')); }, M, /no config\.json/],
  ['an empty file', text('model.safetensors', ''), M, /has 0 bytes/],
  ['a header longer than the file', text('model.safetensors', headerLength(1 << 20)), M, /claims 1048576 bytes of a file of 8/],
  ['a header of 2^63 bytes', text('model.safetensors', headerLength(2n ** 63n)), M, /claims 9223372036854775808/],
  ['a header of 20 MB', rawHeader(Buffer.alloc(20_000_000, 0x20)), M, /10000000 are read at most/],
  ['a header that is no JSON', rawHeader('{"a'), M, /not JSON/],
  ['a header that is not UTF-8', rawHeader(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), M, /not UTF-8/],
  ['a header that is a list', rawHeader('[]'), M, /not a JSON object/],
  ['a header of brackets', rawHeader(nested(1_000_000)), M, /deep/],
  ['a header of nothing but values', rawHeader(`{"a":[${'[],'.repeat(3_000_000)}0]}`), M, /more than can be of use/],
  ['a header of keys that are nothing', rawHeader(`{${Array.from({ length: 600_000 }, (_, i) => `"${i.toString(36)}":0`).join(',')}}`), M, /600000 keys; 131072 are/],
  ['a header of as many keys as are read', rawHeader(`{${Array.from({ length: 131_072 }, (_, i) => `"${i.toString(36)}":0`).join(',')}}`), M, /has no description/],
  ['a tensor twice', rawHeader(`{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`), M, /there twice/],
  ['a file that was cut', (folder) => { truncateSync(join(folder, 'model.safetensors'), statSync(join(folder, 'model.safetensors')).size - 1); }, M, /download cut short/],
  ['bytes behind the last tensor', (folder) => { writeFileSync(join(folder, 'model.safetensors'), Buffer.alloc(5), { flag: 'a' }); }, M, /its tensors end at byte/],
  ['a dtype that lies', described({ dtype: 'BF16' }), M, /takes 32768 bytes/],
  ['a dtype that is no text', described({ dtype: 5 }), M, /no dtype/],
  ['a dtype from the future', described({ dtype: 'F3' }), 'UNSUPPORTED_QUANTISATION', /"F3"/],
  ['a dtype named like a method', described({ dtype: 'toString' }), 'UNSUPPORTED_QUANTISATION', /"toString"/],
  ['whole numbers as weights', header((all) => ({ ...all, [q]: { ...all[q], dtype: 'I32' } })), 'UNSUPPORTED_QUANTISATION', /is I32; of safetensors, magicpig reads F32, F16 and BF16\. Take/],
  ['offsets past any file', described({ data_offsets: [2 ** 60, 2 ** 60 + 65536] }), M, /data_offsets/],
  ['offsets past this file', described({ data_offsets: [2 ** 40, 2 ** 40 + 65536] }), M, /no tensor before|ends? at byte/],
  ['offsets the wrong way round', described({ data_offsets: [65536, 0] }), M, /from 65536 to 0/],
  ['negative offsets', described({ data_offsets: [-65536, 0] }), M, /data_offsets/],
  ['overlapping tensors', described({ data_offsets: [0, 65536] }), M, /overlaps/],
  ['a shape past any file', described({ shape: [2 ** 40, 2 ** 40] }), M, /larger than any file/],
  ['a shape of half a row', described({ shape: [0.5, 2] }), M, /shape/],
  ['a thousand axes', described({ shape: Array.from({ length: 1000 }, () => 1) }), M, /shape/],
  ['another shape than the model has', described({ shape: [64, 256] }), M, /the shape \[64, 256\].*call for \[256, 64\]/],
  ['a tensor of another architecture', header((all) => Object.fromEntries(Object.entries(all).map(([name, tensor]) => [name === q ? 'model.layers.0.mlp.experts.0.weight' : name, tensor]))), M, /q_proj\.weight" is missing/],
  ['a bias that would go unused', (folder) => {
    writeFileSync(join(folder, 'model.safetensors'), encodeSafetensors([...whole.tensors, { name: 'model.layers.0.self_attn.o_proj.bias', dtype: 'F32', shape: [1], data: Buffer.alloc(4) }]));
  }, 'UNSUPPORTED_ARCHITECTURE', /o_proj\.bias", which magicpig's llama does not use/],
  ['no head of its own', config({ hidden_size: 64, tie_word_embeddings: false, vocab_size: 63 }), M, /call for \[63, 64\]/],
  ['a config.json of brackets', text('config.json', nested(100_000)), M, /deep/],
  ['a config.json of 9 MB', text('config.json', `{"a":"${'x'.repeat(9_000_000)}"}`), M, /are read at most/],
  ['a config.json of nothing', text('config.json', ''), M, /not JSON/],
  ['no model_type', config({ model_type: null }), M, /model_type is missing/],
  ['an unknown model_type', config({ model_type: 'mamba' }), 'UNSUPPORTED_ARCHITECTURE', /"mamba"; magicpig reads llama, mistral, qwen2, qwen3, gemma2, gemma3_text, gemma3/],
  ['a model_type named like a method', config({ model_type: 'toString' }), 'UNSUPPORTED_ARCHITECTURE', /"toString"/],
  ['a model that another program quantised', config({ quantization_config: { quant_method: 'gptq' } }), 'UNSUPPORTED_QUANTISATION', /quantised for another program/],
  ['a billion layers', config({ num_hidden_layers: 1e9 }), M, /num_hidden_layers is 1000000000/],
  ['no layers', config({ num_hidden_layers: undefined }), M, /num_hidden_layers is missing/],
  ['a size that is text', config({ hidden_size: '64' }), M, /hidden_size is not a number/],
  ['a size that is a list', config({ hidden_size: [64] }), M, /hidden_size is not a number/],
  ['heads that do not divide', config({ num_key_value_heads: 3 }), M, /4 heads do not divide among 3/],
  ['a vocabulary of 2^40', config({ vocab_size: 2 ** 40 }), M, /vocab_size is/],
  ['an activation that is another one', config({ hidden_act: 'relu' }), 'UNSUPPORTED_ARCHITECTURE', /"relu"/],
  ['half of each head rotates', config({ partial_rotary_factor: 0.5 }), 'UNSUPPORTED_ARCHITECTURE', /0\.5 rotates/],
  ['an unknown scaling', scaling({ rope_type: 'longrope' }), 'UNSUPPORTED_ARCHITECTURE', /"longrope"/],
  ['a scaling without a factor', scaling({ rope_type: 'linear' }), M, /rope_scaling\.factor is missing/],
  ['a scaling by 0', scaling({ rope_type: 'llama3', factor: 0, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8 }), M, /rope_scaling\.factor is 0/],
  ['frequencies the wrong way round', scaling({ rope_type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 1, original_max_position_embeddings: 8 }), M, /not above low_freq_factor/],
  ['no tokenizer.json', (folder) => { rmSync(join(folder, 'tokenizer.json')); }, 'UNSUPPORTED_TOKENIZER', /save_pretrained/],
  ['a token past any vocabulary', json('tokenizer.json', (value: { model: { vocab: object } }) => ({ ...value, model: { ...value.model, vocab: { ...value.model.vocab, x: 1e15 } } })), 'UNSUPPORTED_TOKENIZER', /has the id 1000000000000000/],
  ['a tokenizer of another kind', json('tokenizer.json', (value: object) => ({ ...value, model: { type: 'Unigram', vocab: {} } })), 'UNSUPPORTED_TOKENIZER', /"Unigram"/],
  ['an added token of nothing', json('tokenizer.json', (value: object) => ({ ...value, added_tokens: [null] })), 'UNSUPPORTED_TOKENIZER', /added token/],
];

const bytesOf = (folder: string) => readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile()).reduce((sum, { name }) => sum + statSync(join(folder, name)).size, 0);

async function refused(t: ExecutionContext, name: string, folder: string, code: ErrorCode, message: RegExp): Promise<void> {
  const before = process.memoryUsage().rss;
  const started = performance.now();
  const error = await t.throwsAsync(openSafetensors(folder), { instanceOf: MagicpigError }, name);
  const [seconds, grown] = [(performance.now() - started) / 1000, process.memoryUsage().rss - before];
  t.is(error.code, code, `${name}: ${error.message}`);
  t.regex(error.message, message, name);
  t.true(error.message.includes(folder) && !error.message.includes('\n'), `${name}: ${error.message}`);
  t.true(seconds < 2, `${name}: ${seconds} s`);
  t.true(grown <= 2 * bytesOf(folder) + 64 * 2 ** 20, `${name}: ${grown} bytes`);
}

test.serial(`${cases.length} hostile folders`, async (t) => {
  t.true(cases.length >= 40);
  const root = temporaryFolder(t);
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const open = process.platform === 'linux' ? descriptors() : 0;
  for (const [i, [name, damage, code, message]] of cases.entries()) {
    const folder = writeHubFolder(join(root, String(i)), whole);
    damage(folder);
    await refused(t, name, folder, code, message);
    rmSync(folder, { recursive: true });
  }
  if (process.platform === 'linux') t.is(descriptors(), open, 'every file is closed again');
  // Negative control: what the cases begin from is a model.
  await (await openSafetensors(writeHubFolder(join(root, 'whole'), whole)))[Symbol.asyncDispose]();
});

test('a link may lead anywhere from a folder of one’s own, and within the repository from the hub’s cache', async (t) => {
  const root = temporaryFolder(t);
  const linked = (folder: string, target: string) => {
    renameSync(join(folder, 'model.safetensors'), target);
    symlinkSync(target, join(folder, 'model.safetensors'));
    return folder;
  };
  await (await openSafetensors(linked(writeHubFolder(join(root, 'own'), whole), join(root, 'elsewhere.safetensors'))))[Symbol.asyncDispose]();
  const repository = join(root, 'models--owner--name');
  const snapshot = (commit: string) => writeHubFolder(join(repository, 'snapshots', commit), whole);
  mkdirSync(join(repository, 'blobs'), { recursive: true });
  await (await openSafetensors(linked(snapshot('a'), join(repository, 'blobs', '1'))))[Symbol.asyncDispose]();
  await refused(t, 'out of the repository', linked(snapshot('b'), join(root, 'outside')), M, /out of the repository's folder in the cache/);
});

for (const parser of ['header', 'index', 'config.json'] as const) {
  test.serial(`mutated input to the parser of ${parser}`, async (t) => {
    const { inputs, taken, slowestMs } = await mutated(parser, { most: 400 }, 11, temporaryFolder(t));
    t.log(`${inputs} inputs, ${taken} taken, the slowest in ${slowestMs.toFixed(0)} ms`);
    // Some are harmless and most are not, or it would not be the parser that is tested.
    t.true(taken > 0 && taken < inputs / 2, `${taken} of ${inputs}`);
    t.true(slowestMs < 2000);
  });
}

test('names of files, on every system', (t) => {
  for (const name of ['a.safetensors', 'model-00001-of-00002.safetensors', 'console.safetensors', 'ä b.json']) t.true(isPlainFileName(name), name);
  for (const name of ['', '.', '..', 'a/b', 'a\\b', 'a:b', 'a\u0000', 'nul', 'NUL.txt', 'Aux.safetensors', 'com¹.x', 'a.', 'a ']) t.false(isPlainFileName(name), name);
});

test('tokens, ends and template come from the folder', async (t) => {
  const root = temporaryFolder(t);
  const folder = writeHubFolder(join(root, 'model'), whole);
  config({ vocab_size: 70, eos_token_id: 5 })(folder);
  // Padded rows of the embedding have no token, and a token of images no row.
  writeFileSync(join(folder, 'model.safetensors'), encodeSafetensors(whole.tensors.map((tensor) => {
    if (!/embed_tokens|lm_head/.test(tensor.name)) return tensor;
    return { ...tensor, shape: [70, tensor.shape[1]!], data: Buffer.concat([tensor.data, Buffer.alloc((70 - tensor.shape[0]!) * tensor.shape[1]! * 4)]) };
  })));
  json('tokenizer.json', (value: { added_tokens: object[] }) => ({ ...value, added_tokens: [...value.added_tokens, { id: 90, content: '<image>', special: true }], post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<|endoftext|>' } }, { Sequence: { id: 'A' } }] } }))(folder);
  text('tokenizer_config.json', JSON.stringify({ bos_token: '<|endoftext|>', eos_token: '<|endoftext|>', chat_template: [{ name: 'tool_use', template: 'x' }, { name: 'default', template: 'y' }] }))(folder);
  text('generation_config.json', JSON.stringify({ eos_token_id: [0, 7] }))(folder);
  await using model = await openSafetensors(folder);
  t.deepEqual(model.tokenizer.endTokens, [0, 7, 5]);
  t.true(model.tokenizer.addBosToken);
  t.is(model.chatTemplate, 'y');
  const tokenizer = new Tokenizer(model.tokenizer);
  t.deepEqual(tokenizer.encode('hell'), [0, tokenizer.encode('he', { addBos: false })[0]!, tokenizer.encode('ll', { addBos: false })[0]!]);
  t.is(tokenizer.decode([3, 69, 4]), 'ab');
  t.true(tokenizer.encode('<image>', { parseSpecial: true }).every((id) => id < 70));
  text('chat_template.jinja', 'z')(folder);
  await using newer = await openSafetensors(folder);
  t.is(newer.chatTemplate, 'z');
});

test('a file that becomes shorter while it is open', async (t) => {
  const folder = writeHubFolder(join(temporaryFolder(t), 'model'), { ...whole, tensors: whole.tensors.map((tensor) => inDtype(tensor, 'BF16')) });
  await using model = await openSafetensors(folder);
  t.is(model.quantisation, 'BF16');
  truncateSync(join(folder, 'model.safetensors'), 5000);
  t.throws(() => model.layerTensor(1, 'down').bytes(), { code: M, message: /became shorter/ });
});
