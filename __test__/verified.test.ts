// Sessions that are asked for an error instead of a budget, and how coverage is counted.
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { clopperPearsonUpper, coverageOf } from '../src/eval/coverage.js';
import { evaluateFidelity } from '../src/eval/fidelity.js';
import { nameOf, variantsOf } from '../src/eval/variants.js';
import { type Model, type PolicyOptions, type SessionStats, loadModel } from '../src/index.js';
import { randomTensor, writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama, withTensor } from './support/tiny-llama.js';

const text = Array.from({ length: 900 }, (_, i) => `${(i * i * 7 + 3 * i) % 997} `).join('');

/** Two layers with random weights, and queries so large that attention is on few keys, as in trained models. */
async function peakedModel(t: ExecutionContext): Promise<Model> {
  let spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096 });
  for (const name of ['blk.0.attn_q.weight', 'blk.1.attn_q.weight']) spec = withTensor(spec, name, randomTensor(name, 'F32', [128, 64], 5, 2));
  const model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec), { threads: 2 });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

test('a session says how far off its steps are', async (t) => {
  const model = await peakedModel(t);
  const stats = async (options: PolicyOptions): Promise<SessionStats> => {
    using session = model.createSession(options);
    await session.prefill(text.slice(0, 1800));
    for await (const { token } of session.generate({ maxTokens: 30, temperature: 1 })) t.true(token >= 0);
    return session.stats();
  };
  t.is((await stats({ budget: 0.1 })).relativeError, undefined);
  const [coarse, fine] = [await stats({ epsilon: 0.4 }), await stats({ epsilon: 0.1, delta: 0.1 })];
  t.true(coarse.relativeError!.max <= 0.4 && coarse.relativeError!.mean > 0, JSON.stringify(coarse.relativeError));
  t.true(fine.relativeError!.max <= 0.1, JSON.stringify(fine.relativeError));
  t.true(fine.keysRead > coarse.keysRead, `${fine.keysRead} ${coarse.keysRead}`);
  const { relativeError } = await stats({ targetError: 0.2 });
  t.true(relativeError!.mean > 0.05 && relativeError!.mean < 0.6, JSON.stringify(relativeError));
});

test('eval fidelity counts violations, and how true predictions are', async (t) => {
  const model = await peakedModel(t);
  const variants = variantsOf({ policies: ['sketch', 'static'], budgets: [0.1], errors: [{ targetError: 0.2 }, { epsilon: 0.2, delta: 0.05 }], lshK: [10] });
  t.deepEqual(variants.map(nameOf), ['sketch to an error of 0.2', 'sketch verified to 0.2', 'static']);
  const { policies } = await evaluateFidelity(model, text, variants, { prefix: 1500, steps: 40, seeds: 2 });
  const [target, verified, fixed] = policies;
  t.like(target, { policy: 'sketch', targetError: 0.2, headSteps: 2 * 40 * 4 });
  t.true(Math.abs(target!.estimatedError! / target!.realError! - 1) < 0.3, `${target!.estimatedError} ${target!.realError}`);
  t.is(target!.violations, undefined, 'nothing was promised');
  t.like(verified, { policy: 'sketch', epsilon: 0.2, delta: 0.05, headSteps: 2 * 40 * 4 });
  t.true(verified!.upper! <= 0.05, `${verified!.violations} of ${verified!.headSteps}`);
  t.true(verified!.realError! < verified!.estimatedError!);
  t.is(fixed!.headSteps, undefined);
});

test('coverage sums runs, and its upper end is that of Clopper and Pearson', (t) => {
  const run = (violations: number) => ({ headSteps: 100, violations, outside: violations + 1, estimatedErrors: 5, realErrors: 2 });
  t.is(coverageOf([{ ...run(0), headSteps: 0 }]), undefined);
  t.like(coverageOf([run(3), run(1)]), { headSteps: 200, violations: 4, outside: 6, estimatedError: 0.05, realError: 0.02 });
  // 1 - 0.025^(1/n) where nothing happened; the others by R's binom.test.
  t.true(Math.abs(clopperPearsonUpper(0, 100) - (1 - 0.025 ** 0.01)) < 1e-8);
  t.true(Math.abs(clopperPearsonUpper(5, 100) - 0.1128349) < 1e-6);
  t.is(clopperPearsonUpper(7, 7), 1);
  // So many are just enough of 34,560 to be sure of 5%, and one more is not.
  const most = Array.from({ length: 1728 }, (_, k) => k).findLast((k) => clopperPearsonUpper(k, 34_560) <= 0.05)!;
  t.true(most > 1600 && clopperPearsonUpper(most + 1, 34_560) > 0.05, `${most}`);
});

test('what cannot be asked for is refused', async (t) => {
  const model = await peakedModel(t);
  for (const [options, message] of [
    [{ targetError: 0 }, /targetError is 0; it must be above 0 and below 1/],
    [{ targetError: Number.NaN }, /targetError is NaN/],
    [{ epsilon: 1 }, /epsilon is 1/],
    [{ epsilon: 0.1, delta: 0.3 }, /delta is 0.3; it must be above 0, up to 0.2/],
    [{ epsilon: 0.1, delta: 0 }, /delta is 0/],
    [{ delta: 0.1 }, /give epsilon too/],
    [{ targetError: 0.1, delta: 0.1 }, /give epsilon too/],
    [{ targetError: 0.1, budget: 0.1 }, /budget and targetError exclude each other/],
    [{ targetError: 0.1, epsilon: 0.1 }, /targetError and epsilon exclude each other/],
    [{ policy: 'lsh', epsilon: 0.1 }, /epsilon is for the policy sketch/],
    [{ policy: 'exact', targetError: 0.1 }, /targetError is for the policy sketch/],
  ] satisfies [PolicyOptions, RegExp][]) {
    t.like(t.throws(() => model.createSession(options)), { code: 'INVALID_OPTION' });
    t.throws(() => model.createSession(options), { message });
  }
});
