// A model of a known shape with random weights of 4 or 8 bits, to measure with where the real one is not at hand: what a step costs does not
// depend on what the weights are. `node random-model.mjs llama-3.1-8b OUT.gguf [q4_0|q8_0]`
import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';

const shapes = {
  'llama-3.1-8b': { layers: 32, hidden: 4096, heads: 32, kvHeads: 8, headDim: 128, feedForward: 14_336, vocabulary: 128_256, context: 131_072, theta: 500_000 },
  'llama-3.2-1b': { layers: 16, hidden: 2048, heads: 32, kvHeads: 8, headDim: 64, feedForward: 8192, vocabulary: 128_256, context: 131_072, theta: 500_000 },
};
/** Blocks of 32 elements that begin with a scale in f16: GGUF's number of the type, bytes, and the standard deviation of a random quant. */
const formats = {
  q4_0: { type: 2, blockBytes: 18, spread: 4.6 },
  q8_0: { type: 8, blockBytes: 34, spread: 73.9 },
};
const ELEMENTS = 32;
/** As in trained models, scores spread by a few units. */
const QUERY_GAIN = 2.5;
const ALIGNMENT = 32;
const F32 = 0;

const [name = '', path, weights = 'q4_0'] = process.argv.slice(2);
const [shape, format] = [shapes[name], formats[weights]];
if (shape === undefined || path === undefined || format === undefined) {
  console.error(`usage: node random-model.mjs ${Object.keys(shapes).join('|')} OUT.gguf [${Object.keys(formats).join('|')}]`);
  process.exit(2);
}
const { layers, hidden, heads, kvHeads, headDim, feedForward, vocabulary } = shape;

const u32 = (n) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n) => Buffer.from(BigUint64Array.of(BigInt(n)).buffer);
const text = (string) => Buffer.concat([u64(Buffer.byteLength(string)), Buffer.from(string)]);
const value = {
  u32: (n) => Buffer.concat([u32(4), u32(n)]),
  f32: (x) => Buffer.concat([u32(6), Buffer.from(Float32Array.of(x).buffer)]),
  string: (string) => Buffer.concat([u32(8), text(string)]),
  strings: (list) => Buffer.concat([u32(9), u32(8), u64(list.length), ...list.map(text)]),
};

/** The letters in which byte-level BPE spells bytes, and names that no text has. */
const printable = (byte) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
let next = 256;
const letters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
const tokens = [...letters, 'he', ...Array.from({ length: vocabulary - 257 }, (_, i) => `<|${i}|>`)];

const metadata = {
  'general.architecture': value.string('llama'),
  'general.name': value.string(`${name} with random weights`),
  'llama.block_count': value.u32(layers),
  'llama.context_length': value.u32(shape.context),
  'llama.embedding_length': value.u32(hidden),
  'llama.feed_forward_length': value.u32(feedForward),
  'llama.attention.head_count': value.u32(heads),
  'llama.attention.head_count_kv': value.u32(kvHeads),
  'llama.attention.key_length': value.u32(headDim),
  'llama.attention.value_length': value.u32(headDim),
  'llama.attention.layer_norm_rms_epsilon': value.f32(1e-5),
  'llama.rope.freq_base': value.f32(shape.theta),
  'llama.rope.dimension_count': value.u32(headDim),
  'tokenizer.ggml.model': value.string('gpt2'),
  'tokenizer.ggml.pre': value.string('llama-bpe'),
  'tokenizer.ggml.tokens': value.strings(tokens),
  'tokenizer.ggml.merges': value.strings(['h e']),
  'tokenizer.ggml.eos_token_id': value.u32(vocabulary - 1),
};
const matrix = (name, outputs, inputs, gain = 1) => ({ name, type: format.type, shape: [outputs, inputs], bytes: (outputs * inputs * format.blockBytes) / ELEMENTS, scale: gain / (format.spread * Math.sqrt(inputs)) });
const norm = (name) => ({ name, type: F32, shape: [hidden], bytes: 4 * hidden });
const tensors = [
  matrix('token_embd.weight', vocabulary, hidden, Math.sqrt(hidden)),
  norm('output_norm.weight'),
  matrix('output.weight', vocabulary, hidden),
  ...Array.from({ length: layers }, (_, layer) => [
    norm(`blk.${layer}.attn_norm.weight`),
    matrix(`blk.${layer}.attn_q.weight`, heads * headDim, hidden, QUERY_GAIN),
    matrix(`blk.${layer}.attn_k.weight`, kvHeads * headDim, hidden),
    matrix(`blk.${layer}.attn_v.weight`, kvHeads * headDim, hidden),
    matrix(`blk.${layer}.attn_output.weight`, hidden, heads * headDim),
    norm(`blk.${layer}.ffn_norm.weight`),
    matrix(`blk.${layer}.ffn_gate.weight`, feedForward, hidden),
    matrix(`blk.${layer}.ffn_up.weight`, feedForward, hidden),
    matrix(`blk.${layer}.ffn_down.weight`, hidden, feedForward),
  ]).flat(),
];

/** The bits of a positive number that is normal in f16. */
function half(x) {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0];
  return ((bits >> 13) & 0x3ff) | (((bits >> 23) - 112) << 10);
}

/** Random blocks, of which each matrix takes some from a place of its own: to make 5 GB of them would take longer than to write them. */
const pool = randomFillSync(Buffer.alloc(format.blockBytes * (1 << 20)));
let place = 0;

function writeTensor(file, { type, shape, bytes, scale }) {
  if (type === F32) {
    writeSync(file, Buffer.from(new Float32Array(shape[0]).fill(1).buffer));
  } else {
    const bits = half(scale);
    for (let at = 0; at < pool.length; at += format.blockBytes) pool.writeUInt16LE(bits, at);
    for (let left = bytes; left > 0;) {
      const some = Math.min(left, pool.length - place);
      left -= writeSync(file, pool, place, some);
      place = (place + some + 7919 * format.blockBytes) % pool.length;
    }
  }
  writeSync(file, Buffer.alloc((ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT));
}

let offset = 0;
const infos = tensors.map(({ name, type, shape, bytes }) => {
  const info = Buffer.concat([text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type), u64(offset)]);
  offset += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  return info;
});
const pairs = Object.entries(metadata).map(([key, bytes]) => Buffer.concat([text(key), bytes]));
const header = Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(pairs.length), ...pairs, ...infos]);
const file = openSync(path, 'w');
writeSync(file, header);
writeSync(file, Buffer.alloc((ALIGNMENT - (header.length % ALIGNMENT)) % ALIGNMENT));
for (const tensor of tensors) writeTensor(file, tensor);
closeSync(file);
console.log(`${path}: ${(offset / 1e9).toFixed(2)} GB`);
