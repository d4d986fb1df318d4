// How a long text is cut for the sake of those who write beside it, and that its rows are the same however it is cut.
import test from 'ava';

import { loadModel } from '../src/index.js';
import { ReadingPace } from '../src/server/engine/reading-pace.js';
import { Turns } from '../src/server/engine/turns.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

test('turns of reading fit the time while others wait, and are whole when nobody does', (t) => {
  let clock = 0;
  let crowded = true;
  const pace = new ReadingPace(() => crowded, () => clock);
  const turn = (msPerToken: number) => {
    const tokens = pace.next();
    clock += tokens * msPerToken;
    pace.read();
    // Others write meanwhile.
    clock += 1000;
    return tokens;
  };
  t.deepEqual([turn(1), turn(1), turn(1.2), turn(1.2), turn(50), turn(50), turn(0.1), turn(0.1)], [32, 128, 128, 96, 96, 32, 32, 512]);
  crowded = false;
  t.deepEqual([turn(9), turn(9)], [512, 512]);
  crowded = true;
  t.is(turn(1), 32);
});

test('whoever takes turns alone is not in a crowd', (t) => {
  const turns = new Turns();
  const one = turns.join();
  t.false(turns.crowded);
  const other = turns.join();
  t.true(turns.crowded);
  one.leave();
  t.false(turns.crowded);
  other.leave();
});

test('a text has the same logits to the bit however it is cut', async (t) => {
  const path = writeGguf(`${temporaryFolder(t)}/tiny.gguf`, tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 2048 }));
  await using model = await loadModel(path, { threads: 2 });
  for (const length of [32, 33, 65, 700]) {
    const tokens = Array.from({ length }, (_, i) => (i * 7919 + (i % 13) * 31) % 250);
    const after = async (sizes: readonly number[]) => {
      using session = model.createSession();
      let next = 0;
      await session.prefill(tokens, { chunkTokens: () => sizes[next++ % sizes.length] ?? 0 });
      return [...(await session.step(5))];
    };
    const whole = await after([512]);
    for (const sizes of [[32], [96, 32], [512, 64, 160]]) t.deepEqual(await after(sizes), whole, `${length} tokens by ${sizes.join()}`);
  }
});
