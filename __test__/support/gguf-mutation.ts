// GGUF files that lie: small models of every architecture, changed in what their header says and in its bytes.
import { array, bool, encodeGguf, f32, i32s, string, strings, u32, u64 } from './gguf-writer.js';
import type { GgufSpec, TensorSpec, Value } from './gguf-writer.js';
import { tinyArchitectures } from './tiny-architectures.js';
import { tinyLlama, withMetadata } from './tiny-llama.js';

type Random = () => number;

const huge = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

/** What a mutation puts in the place of a value. */
const values: readonly Value[] = [
  ...[0, 1, 2, 3, 255, 65_537, 2 ** 31, 2 ** 32 - 1].map(u32),
  ...huge.map(u64),
  ...[0, -1, 0.5, 1e-30, 1e30, Infinity, NaN].map(f32),
  ...['', 'llama', 'gemma3', 'gpt2', 'yarn', '__proto__', '\u0000', '..', 'x'.repeat(70_000)].map(string),
  string(Buffer.from([0xff, 0xc0, 0x80])),
  bool(true),
  strings([]),
  strings(['', '', 'a b', 'a b c']),
  i32s([-1, 2 ** 31 - 1]),
  ...huge.map((count) => array(8, count, Buffer.alloc(16))),
  ...[0, 6, 9, 12, 13, 99].map((type) => array(type, 2n ** 40n, Buffer.alloc(64))),
  array(9, 1n, Buffer.alloc(64)),
  { type: 99, bytes: Buffer.alloc(8) },
];

const sizes = [0, 1, 2, 3, 31, 33, 2 ** 31, 2 ** 32, 2 ** 52, Number.MAX_SAFE_INTEGER];

export function ggufSpecs(): GgufSpec[] {
  return [tinyLlama(), ...Object.values(tinyArchitectures).map(({ spec }) => spec)];
}

/** One to three changes, each to a value, a tensor, a count or a byte of the header, or a cut. */
export function mutatedGguf(seed: GgufSpec, random: Random): Buffer {
  const whole = (below: number) => Math.floor(random() * below);
  const one = <T>(list: readonly T[]): T => list[whole(list.length)] as T;
  let spec = seed;
  const header = () => encodeGguf({ ...spec, tensors: spec.tensors.map((tensor) => ({ ...tensor, data: Buffer.alloc(0) })) }).length;
  const bytewise: ((bytes: Buffer) => Buffer)[] = [];
  for (let change = 0; change < 1 + random() * 2; change++) {
    const kind = whole(10);
    if (kind < 3) spec = withMetadata(spec, { [one(Object.keys(spec.metadata))]: one([one(values), one(Object.values(spec.metadata)), undefined]) });
    else if (kind < 6) spec = changedTensor(spec, whole(spec.tensors.length), random);
    else if (kind === 6) spec = { ...spec, ...one([{ tensorCount: one(huge) }, { pairCount: one(huge) }, { version: whole(5) }, { magic: 'GGUf' }]) };
    else bytewise.push(kind === 9 ? (bytes) => bytes.subarray(0, whole(bytes.length)) : (bytes) => changedByte(bytes, header(), random));
  }
  return bytewise.reduce((bytes, change) => change(bytes), encodeGguf(spec));
}

function changedTensor({ tensors, ...rest }: GgufSpec, index: number, random: Random): GgufSpec {
  const whole = (below: number) => Math.floor(random() * below);
  const tensor = tensors[index];
  if (tensor === undefined) return { tensors, ...rest };
  const other = tensors[whole(tensors.length)] as TensorSpec;
  const { shape } = tensor;
  const axis = whole(shape.length);
  const changed: readonly (readonly TensorSpec[])[] = [
    [],
    [tensor, tensor],
    [{ ...tensor, name: other.name }],
    [{ ...tensor, type: whole(45) }],
    [{ ...tensor, shape: other.shape }],
    [{ ...tensor, shape: shape.map((size, i) => (i === axis ? (sizes[whole(sizes.length)] as number) : size)) }],
    [{ ...tensor, shape: [[], [1, ...shape], [1, 1, ...shape], [1, 1, 1, ...shape]][whole(4)] as number[] }],
    [{ ...tensor, offset: huge[whole(huge.length)] as bigint }],
    [{ ...tensor, offset: 32 * whole(64) }],
  ];
  return { ...rest, tensors: tensors.toSpliced(index, 1, ...(changed[whole(changed.length)] as TensorSpec[])) };
}

function changedByte(bytes: Buffer, below: number, random: Random): Buffer {
  const at = Math.floor(random() * Math.min(below, bytes.length));
  if (at < bytes.length) bytes[at] = random() < 0.5 ? Math.floor(random() * 256) : (bytes[at] as number) ^ (1 << Math.floor(random() * 8));
  return bytes;
}
