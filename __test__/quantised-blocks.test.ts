// What a block of each quantised type says is what the `gguf` Python package says (scripts/reference/gguf_blocks.py), and what
// ONNX Runtime is given is the same.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { tensorLayouts, tensorTypeName } from '../src/model/tensor-types.js';
import type { Tensor } from '../src/model/types.js';
import { dequantise, packWeights } from '../src/onnx/quantised-blocks.js';
import type { QuantisedType } from '../src/onnx/quantised-blocks.js';

interface Recorded {
  readonly number: number;
  readonly block: string;
  readonly elements: string;
}

const recorded = JSON.parse(readFileSync(join(import.meta.dirname, 'reference', 'gguf-blocks.json'), 'utf8')) as Record<string, Recorded>;

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

    const tensor: Tensor = { name: type, type: kind, shape: [1, values.length], file: 0, offset: 0, bytes: () => bytes, row: () => bytes };
    const packed = packWeights([tensor], kind);
    const quant = (i: number) => (packed.bits === 8 ? packed.quants[i]! : (packed.quants[i >> 1]! >> (i & 1 ? 4 : 0)) & 15);
    values.forEach((value, i) => {
      const group = Math.floor(i / packed.block);
      const held = packed.scales[group]! * (quant(i) - 2 ** (packed.bits - 1)) + (packed.offsets?.[group] ?? 0);
      // The offset is rounded to f32.
      t.true(Math.abs(held - value) <= 2e-7 * (Math.abs(packed.offsets?.[group] ?? 0) + Math.abs(value)), `${i}: ${held} ${value}`);
    });
  });
}
