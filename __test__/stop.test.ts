import test from 'ava';

import { StopWatch } from '../src/decode/stop.js';

function watch(stops: string[], ...pieces: string[]): { shown: string; stopped: boolean } {
  const watcher = new StopWatch(stops);
  let shown = '';
  for (const piece of pieces) {
    const { text, stopped } = watcher.push(piece);
    shown += text;
    if (stopped) return { shown, stopped };
  }
  return { shown: shown + watcher.end(), stopped: false };
}

test('ends before a stop string, wherever the pieces are cut', (t) => {
  const text = 'one two STOP three';
  for (let cut = 0; cut <= text.length; cut += 1) {
    t.deepEqual(watch(['STOP'], text.slice(0, cut), text.slice(cut)), { shown: 'one two ', stopped: true }, `cut at ${cut}`);
  }
  t.deepEqual(watch(['STOP'], ...text.split('')), { shown: 'one two ', stopped: true });
});

test('shows at once what cannot begin a stop string, and holds back what can', (t) => {
  const watcher = new StopWatch(['\n\nUser:']);
  t.deepEqual(watcher.push('a line'), { text: 'a line', stopped: false });
  t.deepEqual(watcher.push('.\n'), { text: '.', stopped: false });
  t.deepEqual(watcher.push('\nUs'), { text: '', stopped: false });
  t.deepEqual(watcher.push('eful'), { text: '\n\nUseful', stopped: false });
});

test('a beginning that begins again is found', (t) => {
  t.deepEqual(watch(['aab'], 'a', 'a', 'a', 'b'), { shown: 'a', stopped: true });
});

test('the earliest of several stop strings counts', (t) => {
  t.deepEqual(watch(['four', 'two'], 'one two three four'), { shown: 'one ', stopped: true });
});

test('without stop strings, or with empty ones, everything is shown', (t) => {
  t.deepEqual(watch([], 'a', 'b'), { shown: 'ab', stopped: false });
  t.deepEqual(watch([''], 'a', 'b'), { shown: 'ab', stopped: false });
});

test('what was held back is shown when the text ends', (t) => {
  t.deepEqual(watch(['STOP'], 'so ST'), { shown: 'so ST', stopped: false });
});
