// A llama.cpp cache of many tokens from one of few, by repeating its cells: for steps after texts whose reading would take it a quarter of an
// hour for each setting. What the cells hold makes no difference to a step's time.
//
// The layout is that of llama_state_seq_save_file, version 3 (llama.cpp, src/llama-kv-cache.cpp): tokens, then for one stream its cells'
// positions and sequences, then K and V of each layer, V by elements instead of cells where there is no flash attention.
import { readFileSync, writeSync, openSync, closeSync } from 'node:fs';

const MAGIC = 0x67677371;
const VERSION = 3;

/** Writes to `to` the state of `from` with its cells `times` over, at positions that go on. */
export function repeatCells(from, to, times) {
  const state = readFileSync(from);
  let at = 0;
  const u32 = () => state.readUInt32LE((at += 4) - 4);
  const u64 = () => Number(state.readBigUInt64LE((at += 8) - 8));
  const take = (bytes) => state.subarray(at, (at += bytes));
  if (u32() !== MAGIC || u32() !== VERSION) throw new Error(`${from} is not a state of version ${VERSION}`);
  const file = openSync(to, 'w');
  const write = (bytes) => { for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done); };
  const words = (...values) => { write(Buffer.from(Uint32Array.from(values).buffer)); };
  const size = (value) => { write(Buffer.from(BigUint64Array.of(BigInt(value)).buffer)); };
  const repeated = (bytes) => { for (let time = 0; time < times; time += 1) write(bytes); };
  const tokens = u32();
  words(MAGIC, VERSION, tokens * times);
  repeated(take(4 * tokens));
  const [streams, cells] = [u32(), u32()];
  if (streams !== 1 || cells !== tokens) throw new Error(`${streams} streams, ${cells} cells of ${tokens} tokens`);
  words(1, cells * times);
  for (let cell = 0; cell < cells; cell += 1) {
    if (u32() !== cell || u32() !== 1 || u32() !== 0) throw new Error(`cell ${cell} is not of one sequence`);
  }
  for (let cell = 0; cell < cells * times; cell += 1) words(cell, 1, 0);
  const [transposed, layers] = [u32(), u32()];
  words(transposed, layers);
  const rows = () => {
    words(u32());
    const bytes = u64();
    size(bytes);
    repeated(take(bytes * cells));
  };
  for (let layer = 0; layer < layers; layer += 1) rows();
  for (let layer = 0; layer < layers; layer += 1) {
    if (!transposed) {
      rows();
      continue;
    }
    const [type, bytes, elements] = [u32(), u32(), u32()];
    words(type, bytes, elements);
    for (let element = 0; element < elements; element += 1) repeated(take(bytes * cells));
  }
  write(state.subarray(at));
  closeSync(file);
}
