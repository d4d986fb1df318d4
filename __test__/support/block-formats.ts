// Quantised blocks by ggml's definitions once more (ggml-common.h, ggml-quants.c), apart from the core's: what that makes of blocks
// is held to this. This itself is held to the elements that the `gguf` Python package finds (quantised-blocks.test.ts).
import { tensorLayouts } from '../../src/model/tensor-types.js';
import type { QuantisedType } from '../../src/onnx/quantised-blocks.js';

/** A block's elements: those of group g are scales[g] * quant + offsets[g]. */
interface Unpacked {
  readonly quants: Int8Array;
  readonly scales: Float32Array;
  readonly offsets: Float32Array;
}

/** How a quantised type's blocks are read. */
interface BlockFormat {
  /** Elements of a block along a row, and of the groups in it that share a scale. */
  readonly elements: 32 | 256;
  readonly group: 16 | 32;
  /** Unpacks the block at `at` of `bytes`. */
  readonly unpack: (bytes: Uint8Array, at: number, out: Unpacked) => void;
}

const iq4nlValues = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** The exact value of an IEEE half. */
export function halfToFloat(half: number): number {
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

const byte = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;
const half = (bytes: Uint8Array, at: number): number => halfToFloat(byte(bytes, at) | (byte(bytes, at + 1) << 8));

/** A block of 32 elements of 4 bits, i and i + 16 in a byte, and where there are fifth bits these in four bytes before. */
function nibbles(bytes: Uint8Array, at: number, { quants }: Unpacked, zero: number, fifths: boolean): void {
  for (let i = 0; i < 32; i += 1) {
    const low = (byte(bytes, at + (i & 15)) >> (i & 16 ? 4 : 0)) & 15;
    const fifth = fifths ? ((byte(bytes, at - 4 + (i >> 3)) >> (i & 7)) & 1) << 4 : 0;
    quants[i] = (low | fifth) - zero;
  }
}

/** Blocks of 32 elements with a scale, and an offset where `quants` begin behind one. */
function small(offsets: boolean, quants: (bytes: Uint8Array, at: number, out: Unpacked) => void): BlockFormat {
  const unpack = (bytes: Uint8Array, at: number, out: Unpacked) => {
    out.scales[0] = half(bytes, at);
    out.offsets[0] = offsets ? half(bytes, at + 2) : 0;
    quants(bytes, at + (offsets ? 4 : 2), out);
  };
  return { elements: 32, group: 32, unpack };
}

/** The bits of 32 consecutive elements of a large block: in the bytes from `at` on, `shift` up, `count` of them. */
interface Bits {
  readonly at: number;
  readonly shift: number;
  readonly count: 1 | 2 | 4;
}

/** Blocks of 256 elements, whose groups have integers for scales and minima. */
interface Large {
  /** Where stretch b of 32 elements has its lower and its higher bits. */
  readonly low: (b: number) => Bits;
  readonly high?: (b: number) => Bits;
  /** Where the scale of scales is; that of minima follows. */
  readonly scale: number;
  /** What quants are counted from, in types without minima. */
  readonly zero: number;
  /** The scale of group g, and its minimum if there is one. */
  readonly codes: (bytes: Uint8Array, at: number, g: number) => readonly [scale: number, minimum: number];
}

function large(group: 16 | 32, offsets: boolean, { low, high, scale, zero, codes }: Large): BlockFormat {
  const unpack = (bytes: Uint8Array, at: number, out: Unpacked) => {
    for (let b = 0; b < 8; b += 1) {
      const lower = low(b);
      const higher = high?.(b);
      for (let i = 0; i < 32; i += 1) {
        let quant = (byte(bytes, at + lower.at + i) >> lower.shift) & ((1 << lower.count) - 1);
        if (higher) quant |= ((byte(bytes, at + higher.at + i) >> higher.shift) & ((1 << higher.count) - 1)) << lower.count;
        out.quants[32 * b + i] = quant - zero;
      }
    }
    const d = half(bytes, at + scale);
    const dmin = offsets ? half(bytes, at + scale + 2) : 0;
    for (let g = 0; g < 256 / group; g += 1) {
      const [groupScale, minimum] = codes(bytes, at, g);
      out.scales[g] = d * groupScale;
      out.offsets[g] = -dmin * minimum;
    }
  };
  return { elements: 256, group, unpack };
}

const quarter = (b: number) => Math.floor(b / 4);

/** Scales and minima of 6 bits: four of each in a byte's lower bits, the others split between two bytes (Q4_K and Q5_K). */
function sixBitPairs(bytes: Uint8Array, at: number, g: number): readonly [number, number] {
  const of = (i: number) => byte(bytes, at + 4 + i);
  if (g < 4) return [of(g) & 63, of(g + 4) & 63];
  return [(of(g + 4) & 15) | ((of(g - 4) >> 6) << 4), (of(g + 4) >> 4) | ((of(g) >> 6) << 4)];
}

/** Scales of 6 bits around 32: four bits in eight bytes, two in four more (Q3_K). */
function sixBitScale(bytes: Uint8Array, at: number, g: number): readonly [number, number] {
  const low = (byte(bytes, at + 96 + (g & 7)) >> (g & 8 ? 4 : 0)) & 15;
  const high = (byte(bytes, at + 104 + (g & 3)) >> (2 * quarter(g))) & 3;
  return [(low | (high << 4)) - 32, 0];
}

const blockFormats: Record<QuantisedType, BlockFormat> = {
  Q8_0: small(false, (bytes, at, { quants }) => {
    for (let i = 0; i < 32; i += 1) quants[i] = byte(bytes, at + i);
  }),
  Q4_0: small(false, (bytes, at, out) => { nibbles(bytes, at, out, 8, false); }),
  Q4_1: small(true, (bytes, at, out) => { nibbles(bytes, at, out, 0, false); }),
  Q5_0: small(false, (bytes, at, out) => { nibbles(bytes, at + 4, out, 16, true); }),
  Q5_1: small(true, (bytes, at, out) => { nibbles(bytes, at + 4, out, 0, true); }),
  IQ4_NL: small(false, (bytes, at, out) => {
    nibbles(bytes, at, out, 0, false);
    for (let i = 0; i < 32; i += 1) out.quants[i] = iq4nlValues[out.quants[i] ?? 0] ?? 0;
  }),
  Q2_K: large(16, true, {
    low: (b) => ({ at: 16 + 32 * quarter(b), shift: 2 * (b % 4), count: 2 }),
    scale: 80,
    zero: 0,
    codes: (bytes, at, g) => [byte(bytes, at + g) & 15, byte(bytes, at + g) >> 4],
  }),
  Q3_K: large(16, false, {
    low: (b) => ({ at: 32 + 32 * quarter(b), shift: 2 * (b % 4), count: 2 }),
    high: (b) => ({ at: 0, shift: b, count: 1 }),
    scale: 108,
    zero: 4,
    codes: sixBitScale,
  }),
  Q4_K: large(32, true, {
    low: (b) => ({ at: 16 + 32 * (b >> 1), shift: 4 * (b % 2), count: 4 }),
    scale: 0,
    zero: 0,
    codes: sixBitPairs,
  }),
  Q5_K: large(32, true, {
    low: (b) => ({ at: 48 + 32 * (b >> 1), shift: 4 * (b % 2), count: 4 }),
    high: (b) => ({ at: 16, shift: b, count: 1 }),
    scale: 0,
    zero: 0,
    codes: sixBitPairs,
  }),
  Q6_K: large(16, false, {
    low: (b) => ({ at: 64 * quarter(b) + 32 * (b % 2), shift: b % 4 < 2 ? 0 : 4, count: 4 }),
    high: (b) => ({ at: 128 + 32 * quarter(b), shift: 2 * (b % 4), count: 2 }),
    scale: 208,
    zero: 32,
    codes: (bytes, at, g) => [(byte(bytes, at + 192 + g) << 24) >> 24, 0],
  }),
};

/** The exact f32 elements of whole blocks. */
export function elementsOfBlocks(type: QuantisedType, bytes: Uint8Array): Float32Array {
  const { elements, group, unpack } = blockFormats[type];
  const { bytes: size } = tensorLayouts[type];
  const unpacked = { quants: new Int8Array(elements), scales: new Float32Array(elements / group), offsets: new Float32Array(elements / group) };
  const values = new Float32Array((bytes.length / size) * elements);
  for (let at = 0, to = 0; at < bytes.length; at += size) {
    unpack(bytes, at, unpacked);
    unpacked.quants.forEach((quant, i) => {
      const g = Math.floor(i / group);
      values[to++] = (unpacked.scales[g] ?? 0) * quant + (unpacked.offsets[g] ?? 0);
    });
  }
  return values;
}
