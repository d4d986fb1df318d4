// What tune chooses, where it is kept, who takes it, and how it is undone.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import test, { type ExecutionContext } from 'ava';

import type { FidelityRow } from '../src/eval/fidelity.js';
import { Search } from '../src/eval/tune.js';
import type { Variant } from '../src/eval/variants.js';
import { loadModel, tune } from '../src/index.js';
import { failsWith, magicpig, model as tinyModel } from './support/command-line.js';
import { temporaryFolder } from './support/temporary.js';

const text = Array.from({ length: 700 }, (_, i) => `${(i * i * 7 + 3 * i) % 997} `).join('');

/** Tests have a cache of their own, one after the other. */
function ownCache(t: ExecutionContext): string {
  return (process.env.HF_HOME = temporaryFolder(t));
}

/** A model whose KL follows from the budget, and whose bytes are those of codes, of rows and of dense layers. */
function measuredBy(klOf: (variant: Variant) => number) {
  return {
    measure: (variant: Variant) => {
      const { policy, budget = 0, sketchBits = 4, lshK = 10, denseLayers = [] } = variant;
      const bytes = policy === 'lsh' ? 2 ** (6 - lshK) : sketchBits / 32 + 1.7 * budget;
      const klToExact = klOf(variant);
      const row = {
        policy, budget, denseLayers, klToExact, klLow: klToExact, klHigh: klToExact, bytesReadFraction: bytes + denseLayers.length * (1 - bytes) / 10,
        ...(policy === 'sketch' && { sketchBits }), ...(policy === 'lsh' && { lshK }), top1Agreement: 1, keysSampled: budget,
        perLayerHead: Array.from({ length: 10 }, (_, layer) => [layer === 3 ? 1 : 0.1]),
      };
      return Promise.resolve({ row: row as unknown as FidelityRow, kl: [] });
    },
  };
}

test('the search finds the budget that meets the target, with few runs', async (t) => {
  const of = (scale: number) => ({ budget = 0 }: Variant) => scale * budget ** -1.5;
  for (const [scale, target] of [[1e-5, 0.002], [1e-6, 0.002], [1e-5, 0.05]] as const) {
    const search = new Search(measuredBy(of(scale)), target, undefined);
    await search.sketch({ policy: 'sketch', sketchBits: 2 });
    const wanted = (scale / target) ** (1 / 1.5);
    const { budget = 0 } = search.best!.variant;
    t.true(budget >= wanted && budget < 1.2 * wanted, `${budget} for ${wanted}`);
    t.true(search.tried.length <= 8, `${search.tried.length} runs`);
  }
  const never = new Search(measuredBy(() => 1), 0.002, undefined);
  await never.sketch({ policy: 'sketch', sketchBits: 2 });
  await never.lsh();
  t.is(never.best, undefined);
});

test('it weighs bits, tables and dense layers by the bytes that they read', async (t) => {
  const search = new Search(measuredBy(({ policy, budget = 0, sketchBits = 4, lshK = 10, denseLayers = [] }) => {
    if (policy === 'lsh') return lshK <= 8 ? 0.001 : 1;
    // Codes of 4 bits are ten times better, and most of the error is layer 3's.
    return (sketchBits === 4 ? 1e-5 : 1e-4) * budget ** -1.5 * (denseLayers.includes(3) ? 1e-3 : 1);
  }), 0.002, undefined);
  for (const sketchBits of [2, 4]) await search.sketch({ policy: 'sketch', sketchBits });
  t.is(search.best?.variant.sketchBits, 4);
  await search.lsh();
  t.is(search.best?.variant.policy, 'sketch', 'a quarter of the bytes is more than an eighth and some keys');
  await search.dense();
  t.deepEqual(search.best?.variant.denseLayers, undefined, 'a tenth more bytes for a hundredth less');
  const deep = new Search(measuredBy(({ budget = 0, denseLayers = [] }) => (denseLayers.includes(3) ? 1e-6 : 1e-4) * budget ** -1.5), 0.002, undefined);
  await deep.sketch({ policy: 'sketch', sketchBits: 2 });
  await deep.dense();
  t.deepEqual(deep.best?.variant.denseLayers, [3]);
});

test.serial('what was tuned becomes the default of the model, until it is undone', async (t) => {
  const cache = ownCache(t);
  await using model = await loadModel(tinyModel(t, 2048), { threads: 2 });
  t.is(model.tuned(), undefined);
  const { chosen, tried, file } = await tune(model, text, { targetKl: 0.01, prefix: 1000, steps: 10, seeds: 1 });
  t.true(chosen.klHigh <= 0.01 && tried.some(({ meets }) => meets));
  t.true(file.startsWith(join(cache, 'magicpig', 'tuned')));
  t.deepEqual(model.tuned(), chosen);
  t.deepEqual(readdirSync(join(cache, 'magicpig', 'tuned')).length, 1, 'nothing half-written is left');

  using session = model.createSession();
  t.like(session.stats(), { tuned: true, policy: chosen.policy.policy });
  for (const options of [{ policy: 'exact' }, { policy: 'topk' }, { tuned: false }] as const) {
    using other = model.createSession(options);
    t.false(other.stats().tuned, JSON.stringify(options));
  }
  t.true(await model.resetTuned());
  t.false(await model.resetTuned());
  using after = model.createSession();
  t.false(after.stats().tuned);
});

/** Tuned options of a model, without measuring. */
function withTuned(t: ExecutionContext, file: string, policy: object, rest: object = {}): void {
  const measured = { targetKl: 0.01, klToExact: 0.005, klHigh: 0.006, top1Agreement: 0.9, bytesReadFraction: 0.1, prefix: 1000, steps: 10, seeds: 1, date: '2026-01-01T00:00:00.000Z' };
  writeFileSync(file, JSON.stringify({ version: 1, model: 'tiny', policy, ...measured, ...rest }));
  t.pass();
}

test.serial('sessions take the tuned options that nothing else contradicts', async (t) => {
  ownCache(t);
  await using model = await loadModel(tinyModel(t, 2048), { threads: 1 });
  const { file } = await tune(model, text, { targetKl: 50, prefix: 700, steps: 2, seeds: 1 });
  withTuned(t, file, { policy: 'sketch', sketchBits: 2, budget: 0.1, budgetTokens: 1000, denseLayers: [1] });
  const tokens = model.tokenizer.encode(text).slice(0, 900);
  const drawn = async (options: Parameters<typeof model.createSession>[0]) => {
    using session = model.createSession(options);
    await session.prefill(tokens);
    const written: number[] = [];
    for await (const { token } of session.generate({ maxTokens: 40 })) written.push(token);
    t.true(written.length > 20, 'enough for the budget to settle');
    const { tuned, budget, keysRead, indexBytesPerKey } = session.stats();
    return { tuned, budget, dense: keysRead > 0.5, bits: Math.round((indexBytesPerKey - 2) / 8) };
  };
  const expected = await drawn({});
  t.like(expected, { tuned: true, dense: true, bits: 2 });
  // The tuned budget is of 1,000 tokens: about as much of 900, where it is not settled yet.
  t.true(Math.abs(expected.budget / 0.1 - 1) < 0.35, `${expected.budget}`);
  const other = await drawn({ budget: 0.3, denseLayers: [] });
  t.like(other, { tuned: true, dense: false, bits: 2 });
  t.true(Math.abs(other.budget / 0.3 - 1) < 0.35, `${other.budget}`);
  t.like(await drawn({ sketchBits: 4 }), { tuned: false, dense: false, bits: 4 });

  const folder = join(temporaryFolder(t), 'session');
  {
    using kept = await model.openSession(folder);
    t.true(kept.stats().tuned);
    await kept.prefill(tokens);
  }
  withTuned(t, file, { policy: 'sketch', sketchBits: 4, budget: 0.1, denseLayers: [] });
  using again = await model.openSession(folder);
  t.false(again.stats().tuned, "the session's own index has other codes");
});

test.serial('a file that is damaged is told, and can be removed', async (t) => {
  ownCache(t);
  await using model = await loadModel(tinyModel(t), { threads: 1 });
  const { file } = await tune(model, text, { targetKl: 50, prefix: 700, steps: 2, seeds: 1 });
  const whole = readFileSync(file, 'utf8');
  const sketch = { policy: 'sketch', sketchBits: 4, budget: 0.1 };
  const damages: [string, RegExp][] = [
    [whole.slice(0, 60), /JSON|Unterminated/],
    ['[]', /no object/],
    [whole.replace('"version": 1', '"version": 2'), /version is 2/],
    [whole.replace(/"klHigh": [^,]+/, '"klHigh": null'), /klHigh is null/],
  ];
  for (const [damaged, message] of damages) {
    writeFileSync(file, damaged);
    const error = t.throws(() => model.createSession());
    t.like(error, { code: 'TUNED_DAMAGED' });
    t.regex(error.message, message);
    t.regex(error.message, /tune --reset/);
  }
  for (const policy of [{ ...sketch, budget: '0.1' }, { ...sketch, budget: 7 }, { ...sketch, policy: 'magic' }, { ...sketch, denseLayers: 3 }, {}]) {
    withTuned(t, file, policy);
    t.like(t.throws(() => model.createSession()), { code: 'TUNED_DAMAGED' }, JSON.stringify(policy));
  }
  using plain = model.createSession({ tuned: false });
  t.false(plain.stats().tuned);
  t.true(await model.resetTuned());
  using after = model.createSession();
  t.false(after.stats().tuned);
});

test.serial('the command line tunes, says so, and undoes it', async (t) => {
  const folder = temporaryFolder(t);
  const [file, path, env] = [join(folder, 'text.txt'), tinyModel(t, 2048), { HF_HOME: folder }];
  writeFileSync(file, text);
  const json = async (...args: string[]) => {
    const outcome = await magicpig([...args, '-m', path, '--json'], { env });
    t.is(outcome.code, 0, outcome.stdout);
    return JSON.parse(outcome.stdout) as Record<string, unknown>;
  };
  const result = await json('tune', '-f', file, '--target-kl', '0.05', '--prefix', '700', '--steps', '4', '--seeds', '1');
  t.deepEqual(Object.keys(result), ['model', 'chosen', 'tried', 'file']);
  t.true((result.tried as unknown[]).length > 0);
  const generated = await magicpig(['generate', '-m', path, '-p', 'hello', '-n', '2'], { env });
  t.regex(generated.stderr, /; \w+ as tuned\n$/);
  const inspected = await magicpig(['inspect', path, '--json'], { env });
  t.deepEqual((JSON.parse(inspected.stdout) as { tuned: unknown }).tuned, result.chosen);
  t.deepEqual(await json('tune', '--reset'), { model: path, reset: true });
  failsWith(t, await magicpig(['tune', '-m', path, '-f', file, '--target-kl', '0'], { env }), 2, /--target-kl is 0/);
});
