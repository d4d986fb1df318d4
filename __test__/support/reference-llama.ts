import type { QuantisedType } from '../../src/onnx/quantised-blocks.js';
import { elementsOfBlocks, halfToFloat as half } from './block-formats.js';
import type { GgufSpec, TensorSpec } from './gguf-writer.js';
import type { TinyShape } from './tiny-llama.js';

type Matrix = number[][];

/** The elements of a tensor, by the formats' definitions in ggml. */
export function elements({ type, data }: TensorSpec): number[] {
  const out: number[] = [];
  const each = (bytes: number, read: (at: number) => void) => {
    for (let at = 0; at < data.length; at += bytes) read(at);
  };
  const nibbles = (at: number, value: (quant: number) => number) => {
    for (let i = 0; i < 16; i += 1) out.push(value(data[at + i]! & 15));
    for (let i = 0; i < 16; i += 1) out.push(value(data[at + i]! >> 4));
  };
  switch (type) {
    case 'F32': each(4, (at) => out.push(data.readFloatLE(at))); break;
    case 'F16': each(2, (at) => out.push(half(data.readUInt16LE(at)))); break;
    case 'BF16': each(2, (at) => out.push(Buffer.from([0, 0, data[at]!, data[at + 1]!]).readFloatLE())); break;
    case 'Q8_0': each(34, (at) => {
      for (let i = 0; i < 32; i += 1) out.push(half(data.readUInt16LE(at)) * data.readInt8(at + 2 + i));
    }); break;
    case 'Q4_0': each(18, (at) => { nibbles(at + 2, (quant) => half(data.readUInt16LE(at)) * (quant - 8)); }); break;
    case 'Q4_1': each(20, (at) => { nibbles(at + 4, (quant) => half(data.readUInt16LE(at)) * quant + half(data.readUInt16LE(at + 2))); }); break;
    default: out.push(...elementsOfBlocks(type as QuantisedType, data));
  }
  return out;
}

/**
 * A llama in float64, straight from its equations: logits [tokens, vocabulary] of a whole text at once. With a window, of a
 * token's own and the newest before it; with divisors of the rotary frequencies, one for each pair.
 */
export function referenceLogits(
  spec: GgufSpec,
  shape: TinyShape,
  tokens: readonly number[],
  { theta = 10_000, window = Infinity, divisors = [] }: { theta?: number | undefined; window?: number | undefined; divisors?: readonly number[] } = {},
): Matrix {
  const weight = (name: string): Matrix => {
    const tensor = spec.tensors.find((candidate) => candidate.name === name);
    if (tensor === undefined) throw new Error(`no tensor ${name}`);
    const values = elements(tensor);
    const columns = tensor.shape.at(-1)!;
    return Array.from({ length: values.length / columns }, (_, row) => values.slice(row * columns, (row + 1) * columns));
  };
  const product = (rows: Matrix, w: Matrix) => rows.map((row) => w.map((column) => column.reduce((sum, value, i) => sum + value * row[i]!, 0)));
  const norm = (rows: Matrix, name: string) => {
    const [scale] = weight(name) as [number[]];
    return rows.map((row) => {
      const root = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + 1e-5);
      return row.map((value, i) => (value / root) * scale[i]!);
    });
  };
  const add = (a: Matrix, b: Matrix) => a.map((row, r) => row.map((value, c) => value + b[r]![c]!));
  const { headDim, heads, kvHeads } = shape;
  const rotate = (rows: Matrix) => rows.map((row, position) => row.map((value, i) => {
    const pair = Math.floor((i % headDim) / 2);
    const angle = (position * theta ** ((-2 * pair) / headDim)) / (divisors[pair] ?? 1);
    const other = i % 2 === 0 ? -row[i + 1]! : row[i - 1]!;
    return value * Math.cos(angle) + other * Math.sin(angle);
  }));

  const embedding = weight('token_embd.weight');
  let x = tokens.map((token) => embedding[token]!);
  for (let layer = 0; layer < shape.layers; layer += 1) {
    const name = (role: string) => `blk.${layer}.${role}.weight`;
    const normed = norm(x, name('attn_norm'));
    const q = rotate(product(normed, weight(name('attn_q'))));
    const k = rotate(product(normed, weight(name('attn_k'))));
    const v = product(normed, weight(name('attn_v')));
    const attended = q.map((query, row) => Array.from({ length: heads }, (_, head) => {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const first = Math.max(0, row + 1 - window);
      const weights = k.slice(first, row + 1).map((key) => {
        let score = 0;
        for (let i = 0; i < headDim; i += 1) score += query[head * headDim + i]! * key[kvHead * headDim + i]!;
        return Math.exp(score / Math.sqrt(headDim));
      });
      const total = weights.reduce((a, b) => a + b);
      return Array.from({ length: headDim }, (_, i) => weights.reduce((sum, w, at) => sum + (w / total) * v[first + at]![kvHead * headDim + i]!, 0));
    }).flat());
    x = add(x, product(attended, weight(name('attn_output'))));
    const mlp = norm(x, name('ffn_norm'));
    const gate = product(mlp, weight(name('ffn_gate')));
    const up = product(mlp, weight(name('ffn_up')));
    const hidden = gate.map((row, r) => row.map((value, c) => (value / (1 + Math.exp(-value))) * up[r]![c]!));
    x = add(x, product(hidden, weight(name('ffn_down'))));
  }
  return product(norm(x, 'output_norm.weight'), weight(shape.tied ? 'token_embd.weight' : 'output.weight'));
}
