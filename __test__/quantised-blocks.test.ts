// What a block of each quantised type says is what the `gguf` Python package says (scripts/reference/gguf_blocks.py), and what
// ONNX Runtime is given is the same, for matrices of many rows as well.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test, { type ExecutionContext } from 'ava';

import { MagicpigError } from '../src/errors.js';
import { tensorLayouts, tensorTypeName } from '../src/model/tensor-types.js';
import type { Tensor } from '../src/model/types.js';
import { dequantise, packBlocks } from '../src/native.js';
import { packWeights } from '../src/onnx/quantised-blocks.js';
import type { PackedWeight, QuantisedType } from '../src/onnx/quantised-blocks.js';
import { elementsOfBlocks, halfToFloat } from './support/block-formats.js';

interface Recorded {
  readonly number: number;
  readonly block: string;
  readonly elements: string;
}

const recorded = JSON.parse(readFileSync(join(import.meta.dirname, 'reference', 'gguf-blocks.json'), 'utf8')) as Record<string, Recorded>;

const quantisedTypes = Object.keys(recorded) as QuantisedType[];

function matrix(type: QuantisedType, shape: readonly number[], bytes: Uint8Array): Tensor {
  return { name: type, type, shape, file: 0, offset: 0, bytes: () => bytes, row: () => bytes };
}

/** The same bytes for the same seed. */
function randomBytes(length: number, seed: number): Uint8Array {
  let state = seed;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

/** That the operator's definition gives the values [outputs, inputs]. Those that are finite: random bytes have scales that are not. */
function holds(t: ExecutionContext, packed: PackedWeight, values: Float32Array): void {
  const quant = (i: number) => (packed.bits === 8 ? packed.quants[i]! : (packed.quants[i >> 1]! >> (i & 1 ? 4 : 0)) & 15);
  const blocks = packed.inputs / packed.block;
  let held = 0;
  const wrong = values.findIndex((value, i) => {
    if (!Number.isFinite(value)) return false;
    held += 1;
    const place = Math.floor(i / packed.block);
    const offset = packed.offsets?.[(place % blocks) * packed.outputs + Math.floor(place / blocks)] ?? 0;
    const element = packed.scales[place]! * (quant(i) - 2 ** (packed.bits - 1)) + offset;
    // The offset is rounded to f32.
    return !(Math.abs(element - value) <= 2e-7 * (Math.abs(offset) + Math.abs(value)));
  });
  t.is(wrong, -1);
  t.is(values.length, packed.outputs * packed.inputs);
  t.true(held > 0.9 * values.length, `${held} of ${values.length}`);
}

test('every quantised type is recorded', (t) => {
  const quantised = Object.keys(tensorLayouts).filter((type) => tensorLayouts[type as keyof typeof tensorLayouts].block > 1);
  t.deepEqual(Object.keys(recorded).sort(), quantised.sort());
});

for (const [type, { number, block, elements }] of Object.entries(recorded)) {
  test(`${type} blocks hold what another reader finds in them`, (t) => {
    const kind = type as QuantisedType;
    const bytes = Uint8Array.from(Buffer.from(block, 'hex'));
    const values = new Float32Array(Uint8Array.from(Buffer.from(elements, 'hex')).buffer);
    t.is(tensorTypeName(number), type);
    t.is(bytes.length, tensorLayouts[kind].bytes);
    // The two differ in the sign of zeros alone.
    t.deepEqual(dequantise(kind, bytes).map((x) => x + 0), values.map((x) => x + 0));
    t.deepEqual(elementsOfBlocks(kind, bytes).map((x) => x + 0), values.map((x) => x + 0));
    holds(t, packWeights([matrix(kind, [1, values.length], bytes)], kind), values);
  });
}

for (const type of quantisedTypes) {
  test(`${type} matrices lie side by side along the outputs`, (t) => {
    const { block, bytes } = tensorLayouts[type];
    const inputs = 768;
    // More rows than one task packs, and no whole number of tasks.
    const parts = [75, 1, 34].map((outputs, seed) => matrix(type, [outputs, inputs], randomBytes((outputs * inputs / block) * bytes, seed)));
    const values = parts.flatMap((part) => [...elementsOfBlocks(type, part.bytes())]);
    const packed = packWeights(parts, type);
    holds(t, packed, Float32Array.from(values));
    t.is(packed.outputs, 110);
  });
}

test('dequantised values are exact, however many there are', (t) => {
  const same = (values: Float32Array, expected: Float32Array, equal = (a: number, b: number) => a === b || (Number.isNaN(a) && Number.isNaN(b))) => {
    t.is(values.length, expected.length);
    t.is(values.findIndex((value, i) => !equal(value, expected[i]!)), -1);
  };
  for (const type of quantisedTypes) {
    const bytes = randomBytes(10_000 * tensorLayouts[type].bytes, 1);
    // Where a scale is infinite, what is taken from a product may be the product.
    same(dequantise(type, bytes), elementsOfBlocks(type, bytes), (a, b) => a === b || (!Number.isFinite(a) && !Number.isFinite(b)));
  }
  const halves = Uint16Array.from({ length: 3 * 65536 }, (_, i) => i);
  const bytes = new Uint8Array(halves.buffer);
  same(dequantise('F16', bytes), Float32Array.from(halves, halfToFloat));
  const floats = new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
  same(dequantise('BF16', bytes), floats);
  same(dequantise('F32', new Uint8Array(floats.buffer)), floats);
});

test('bytes that are no whole rows are refused', (t) => {
  const row = new Uint8Array(36);
  const refused = (call: () => unknown, message: RegExp) => t.throws(call, { instanceOf: MagicpigError, code: 'INVALID_OPTION', message });
  t.is(packBlocks('Q4_0', [row, row], 2, 64).scales.length, 4);
  t.is(packBlocks('Q4_1', [new Uint8Array()], 0, 64).offsets?.length, 0);
  refused(() => packBlocks('Q4_0', [row, row], 3, 64), /Q4_0 .* 3 x 64/);
  refused(() => packBlocks('Q4_0', [row, row.subarray(1)], 2, 64), /2 x 64/);
  refused(() => packBlocks('Q4_0', [row], 1, 48), /1 x 48/);
  refused(() => packBlocks('Q4_0', [row], 1, 0), /1 x 0/);
  refused(() => packBlocks('Q4_0', [row], NaN, 64), /outputs is NaN/);
  refused(() => packBlocks('Q4_0', [row], 1, 64.5), /inputs is 64.5/);
  refused(() => packBlocks('Q4_0', [], 0, 64), /0 x 64|blocks/);
  refused(() => packBlocks('F16', [row], 1, 18), /F16 .* blocks/);
  refused(() => packBlocks('Q9_9', [row], 1, 64), /Q9_9 is unknown/);
  refused(() => dequantise('Q4_0', row.subarray(1)), /whole blocks/);
  refused(() => dequantise('', row), /unknown/);
  t.is(dequantise('Q4_0', new Uint8Array()).length, 0);
});
