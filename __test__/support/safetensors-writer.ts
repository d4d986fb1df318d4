// Folders as the hub has models: a GGUF model of the tests, told in the hub's words.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { TensorSpec } from './gguf-writer.js';

export type Dtype = 'F32' | 'F16' | 'BF16';

export interface HubTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Buffer;
}

export interface HubFolderSpec {
  readonly config: Record<string, unknown>;
  readonly tensors: readonly HubTensor[];
  /** Further files: JSON for objects. */
  readonly files: Readonly<Record<string, object | string>>;
}

/** A header for tensors one after the other, and their bytes. `pad` spaces make the header longer. */
export function encodeSafetensors(tensors: readonly HubTensor[], { pad = 0, metadata }: { pad?: number; metadata?: object } = {}): Buffer {
  let at = 0;
  const entries = tensors.map(({ name, dtype, shape, data }): [string, object] => [name, { dtype, shape, data_offsets: [at, (at += data.length)] }]);
  const header = Buffer.from(JSON.stringify({ ...(metadata && { __metadata__: metadata }), ...Object.fromEntries(entries) }) + ' '.repeat(pad));
  return Buffer.concat([headerLength(header.length), header, ...tensors.map(({ data }) => data)]);
}

export function headerLength(bytes: number | bigint): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes));
  return length;
}

/** Writes a folder, its tensors in so many files. */
export function writeHubFolder(path: string, { config, tensors, files }: HubFolderSpec, shards = 1, options: { pad?: number } = {}): string {
  mkdirSync(path, { recursive: true });
  const write = (name: string, content: object | string) => {
    writeFileSync(join(path, name), typeof content === 'string' ? content : JSON.stringify(content));
  };
  write('config.json', config);
  for (const [name, content] of Object.entries(files)) write(name, content);
  if (shards === 1) {
    writeFileSync(join(path, 'model.safetensors'), encodeSafetensors(tensors, { ...options, metadata: { format: 'pt' } }));
    return path;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const name = shardName(shard, shards);
    const part = tensors.filter((_, i) => i % shards === shard);
    for (const tensor of part) weightMap[tensor.name] = name;
    writeFileSync(join(path, name), encodeSafetensors(part, options));
  }
  write('model.safetensors.index.json', { metadata: { total_size: 0 }, weight_map: weightMap });
  return path;
}

export const shardName = (shard: number, shards: number) => `model-${String(shard + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}.safetensors`;

/** An F32 tensor's elements in another type, rounded to the nearest. */
export function inDtype(tensor: HubTensor, dtype: Dtype): HubTensor {
  if (dtype === 'F32') return tensor;
  const data = Buffer.alloc(tensor.data.length / 2);
  for (let i = 0; i < data.length / 2; i++) data.writeUInt16LE((dtype === 'BF16' ? bf16 : f16)(tensor.data.readFloatLE(4 * i)), 2 * i);
  return { ...tensor, dtype, data };
}

const bits = (x: number) => new Uint32Array(Float32Array.of(x).buffer)[0]!;

function bf16(x: number): number {
  const whole = bits(x);
  return (whole + 0x7fff + ((whole >>> 16) & 1)) >>> 16;
}

/** Of numbers that are normal in f16 or next to zero, as the tests' weights are. */
function f16(x: number): number {
  const [sign, magnitude] = [x < 0 ? 0x8000 : 0, Math.abs(x)];
  if (magnitude < 2 ** -14) return sign | Math.round(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  // A fraction that rounds up to one carries into the exponent by itself.
  return sign | (((exponent + 15) << 10) + Math.round((magnitude / 2 ** exponent - 1) * 1024));
}

/** Rows of heads whose pairs are neighbours (GGUF's llama), with the pairs apart again, as the hub has them. */
export function unpermuted({ data, shape, ...rest }: TensorSpec, headDim: number): TensorSpec {
  const [rows, columns] = [shape[0]!, shape.length > 1 ? shape[1]! : 1];
  const out = Buffer.alloc(data.length);
  for (let row = 0; row < rows; row++) {
    const [head, inside] = [Math.floor(row / headDim), row % headDim];
    const to = head * headDim + (inside % 2) * (headDim / 2) + (inside >> 1);
    data.copy(out, 4 * columns * to, 4 * columns * row, 4 * columns * (row + 1));
  }
  return { ...rest, shape, data: out };
}
