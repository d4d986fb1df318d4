// Samples of every task: long enough and not too long, the answer in them and where they say it is, the same for the same seed.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { Random } from '../src/eval/random.js';
import { fitted } from '../src/eval/ruler/fit.js';
import { hidden, readProse, sentencesOf } from '../src/eval/ruler/prose.js';
import { evaluateRuler } from '../src/eval/ruler/run.js';
import { scoreOf } from '../src/eval/ruler/task.js';
import { tasks, tasksFrom } from '../src/eval/ruler/tasks.js';
import { rulerReport } from '../src/eval/report/ruler-report.js';
import { loadModel } from '../src/index.js';
import type { Model } from '../src/index.js';
import { writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama } from './support/tiny-llama.js';

const prose = Array.from({ length: 50 }, (_, i) => `Sentence ${i} is about nothing.`);

async function tinyModel(t: Parameters<typeof temporaryFolder>[0]): Promise<Model> {
  const spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096 });
  const model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec), { threads: 2 });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

const count = (text: string, part: string) => text.split(part).length - 1;

for (const task of tasks) {
  test(`${task.name}: the same seed gives the same sample, another one another`, (t) => {
    const make = (seed: number) => task.make(new Random(seed), 60, prose);
    t.deepEqual(make(3), make(3));
    t.notDeepEqual(make(3), make(4));
  });

  test(`${task.name}: every reference is in the text, different, and not given away`, (t) => {
    for (let seed = 0; seed < 20; seed += 1) {
      const { prompt, answerPrefix, references } = task.make(new Random(seed), 60, prose);
      t.true(references.length > 0);
      t.is(new Set(references).size, references.length);
      for (const reference of references) {
        t.true(prompt.includes(reference), reference);
        t.false(answerPrefix.includes(reference), reference);
        t.false((prompt.split('\n\n').at(-1) ?? '').includes(reference), 'the question has no answer in it');
      }
      t.is(scoreOf(`It says ${references.join(', ')}.`, references), 1);
      t.is(scoreOf('I do not know.', references), 0);
    }
  });
}

test('needles: as many as a task says, in sentences of their own, where their depths are', (t) => {
  const sizes = { niah_single_1: 1, niah_single_2: 1, niah_single_3: 1, niah_multikey_1: 1, niah_multikey_2: 1, niah_multikey_3: 1, niah_multivalue: 4, niah_multiquery: 4 };
  for (const [name, wanted] of Object.entries(sizes)) {
    const [task] = tasksFrom([name]);
    for (let seed = 0; seed < 20; seed += 1) {
      const { prompt, references, depths } = task!.make(new Random(seed), 200, prose);
      t.is(references.length, wanted, name);
      t.is(depths.length, wanted, name);
      const body = prompt.slice(prompt.indexOf('\n\n') + 2, prompt.lastIndexOf('\n\n'));
      // Lines or sentences are of about the same length, so a place in the text is about a depth.
      for (const [i, reference] of references.entries()) {
        t.is(count(body, reference), 1, `${name} ${reference}`);
        t.true(Math.abs(body.indexOf(reference) / body.length - depths[i]!) < 0.05, `${name}: ${body.indexOf(reference) / body.length} is not ${depths[i]}`);
      }
    }
  }
});

test('needles: three others in multikey_1, a needle a line in multikey_2, uuids for keys in multikey_3', (t) => {
  const make = (name: string) => tasksFrom([name])[0]!.make(new Random(1), 30, prose);
  t.is(count(make('niah_multikey_1').prompt, 'Take note that'), 4);
  t.is(count(make('niah_multikey_2').prompt, 'Take note that'), 31);
  const pattern = /[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/g;
  t.is([...make('niah_multikey_3').prompt.matchAll(pattern)].length, 2 * 31 + 1);
  t.regex(make('niah_single_1').references[0]!, /^[1-9]\d{6}$/);
});

test('needles are at all depths', (t) => {
  const depths = Array.from({ length: 300 }, (_, seed) => tasksFrom(['niah_single_2'])[0]!.make(new Random(seed), 100, prose).depths[0]!);
  for (let fifth = 0; fifth < 5; fifth += 1) {
    const here = depths.filter((depth) => Math.min(4, Math.floor(depth * 5)) === fifth).length;
    t.true(here > 30, `${here} of 300 in fifth ${fifth}`);
  }
});

test('hiding keeps all texts, in order', (t) => {
  const { texts, depths } = hidden(new Random(4), ['a', 'b', 'c'], ['1', '2', '3', '4']);
  t.deepEqual(texts.filter((text) => /[a-c]/.test(text)), ['a', 'b', 'c']);
  t.deepEqual(texts.filter((text) => /\d/.test(text)), ['1', '2', '3', '4']);
  t.deepEqual(depths, depths.toSorted((a, b) => a - b));
});

test('vt: following the assignments from the value gives the references', (t) => {
  const { prompt, references } = tasksFrom(['vt'])[0]!.make(new Random(2), 40, prose);
  const asked = prompt.slice(prompt.lastIndexOf('Some lines'));
  const value = /have the value (\d+)/.exec(asked)?.[1];
  const found: string[] = [];
  for (const [, name, of] of asked.matchAll(/SET (\w+) TO (?:THE VALUE OF )?(\w+)/g)) {
    if (of === value || found.includes(of!)) found.push(name!);
  }
  t.deepEqual(found, [...references]);
  t.is(found.length, 5);
});

test('cwe and fwe: counting gives the references', (t) => {
  for (const size of [10, 100, 599, 600, 1000, 3000]) {
    const frequencies = (text: string) => {
      const counts = new Map<string, number>();
      for (const word of text.match(/[a-z]+/g) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
      return [...counts].sort((a, b) => b[1] - a[1]);
    };
    const common = tasksFrom(['cwe'])[0]!.make(new Random(size), size, prose);
    const list = common.prompt.split('\n\n').at(-2)!;
    const [first, after] = [frequencies(list).slice(0, 10), frequencies(list)[10]!];
    t.deepEqual(first.map(([word]) => word).sort(), [...common.references].sort());
    t.true(first.every(([, times]) => times > after[1]), `cwe ${size}`);
    const frequent = tasksFrom(['fwe'])[0]!.make(new Random(size), size, prose);
    const coded = frequencies(frequent.prompt.split('\n\n')[1]!);
    t.deepEqual(coded.slice(0, 3).map(([word]) => word).sort(), [...frequent.references].sort());
    t.true((coded[3]?.[1] ?? 0) < coded[2]![1], `fwe ${size}`);
  }
});

test('scores are shares of references, whatever the case', (t) => {
  t.is(scoreOf('ABC and def', ['abc', 'DEF', 'ghi', 'jkl']), 0.5);
  t.is(scoreOf('', ['a']), 0);
});

test('prose: sentences of paragraphs, without code, tables, lists and headings', async (t) => {
  const text = '# Title\n\nOne *thing* is [here](http://x.y). It costs 3.5 coins!\n\n```\ncode. code.\n```\n\n| a | b |\n\n- item. item.\n\n“No,” he said.';
  t.deepEqual(sentencesOf(text), ['One thing is here.', 'It costs 3.5 coins!', '“No,” he said.']);
  t.true((await readProse(undefined)).length > 100);
  const file = join(temporaryFolder(t), 'short.txt');
  writeFileSync(file, 'Too short.');
  t.like(await t.throwsAsync(readProse(file)), { code: 'INVALID_OPTION' });
  t.like(await t.throwsAsync(readProse('/nowhere/at/all')), { code: 'FILE_NOT_FOUND' });
});

test('samples fill their length and no more', async (t) => {
  const model = await tinyModel(t);
  for (const task of tasks) {
    // A token of the tiny model is hardly more than a letter.
    const { tokens, sample } = fitted(model, task, 4096, 7, prose);
    t.true(tokens.length + task.answerTokens <= 4096, task.name);
    // A line of noise is 130 letters.
    t.true(tokens.length + task.answerTokens > 4096 - 150, `${task.name}: ${tokens.length + task.answerTokens}`);
    t.true(model.tokenizer.decode(tokens).endsWith(sample.answerPrefix));
    t.deepEqual(fitted(model, task, 4096, 7, prose).tokens, tokens);
  }
  const error = t.throws(() => fitted(model, tasks[0]!, 300, 7, prose));
  t.like(error, { code: 'INVALID_OPTION' });
  t.regex(error.message, /300 tokens are too few for niah_single_1/);
});

test('exact beside itself does not differ, and the report names every policy and task', async (t) => {
  const model = await tinyModel(t);
  const few = tasksFrom(['niah_single_2', 'fwe']);
  const variants = [{ policy: 'exact' }, { policy: 'static' }, { policy: 'sketch', budget: 0.1 }] as const;
  const run = () => evaluateRuler(model, variants, { tasks: few, lengths: [1200], samples: 2, prose });
  const result = await run();
  t.is(result.rows.length, 6);
  for (const row of result.rows) {
    // A model of random weights knows nothing.
    t.like(row, { length: 1200, samples: 2, exactScore: 0, informative: false });
    if (row.policy === 'exact') t.like(row, { difference: 0, low: 0, high: 0, keysRead: 1 });
    else t.true(row.keysRead < 0.5);
  }
  const answers = (policy: string) => result.answers.filter((answer) => answer.policy === policy).map(({ answer }) => answer);
  t.notDeepEqual(answers('static'), answers('exact'));
  t.deepEqual(await run(), result, 'the same seed gives the same answers');
  const page = rulerReport('tiny', result);
  for (const name of ['exact', 'static', 'sketch 10%', 'niah_single_2', 'fwe']) t.true(page.includes(name), name);
});
