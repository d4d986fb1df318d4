// Fidelity on a model of two layers with random weights, and the page that shows it.
import { join } from 'node:path';

import test from 'ava';

import { type Fidelity, evaluateFidelity } from '../src/eval/fidelity.js';
import { evaluateTexts } from '../src/eval/held-out.js';
import { fidelityReport } from '../src/eval/report/fidelity-report.js';
import { rulerReport } from '../src/eval/report/ruler-report.js';
import { type Variant, variantsOf } from '../src/eval/variants.js';
import { loadModel } from '../src/index.js';
import { randomTensor, writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyLlama, withTensor } from './support/tiny-llama.js';

const text = Array.from({ length: 900 }, (_, i) => `${(i * i * 7 + 3 * i) % 997} `).join('');

interface Options {
  readonly seeds?: number;
  readonly steps?: number;
  /** Larger queries, so that attention is on few keys as in trained models. With random ones it is a mean of all. */
  readonly peaked?: boolean;
}

async function measured(t: Parameters<typeof temporaryFolder>[0], variants: readonly Variant[], options: Options = {}): Promise<Fidelity> {
  let spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096 });
  for (const name of options.peaked ? ['blk.0.attn_q.weight', 'blk.1.attn_q.weight'] : []) {
    spec = withTensor(spec, name, randomTensor(name, 'F32', [128, 64], 5, 2));
  }
  await using model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec), { threads: 2 });
  return await evaluateFidelity(model, text, variants, { prefix: 1500, steps: options.steps ?? 20, seeds: options.seeds });
}

test('exact is exact after everything else', async (t) => {
  const { policies, exactPerplexity } = await measured(t, [{ policy: 'static' }, { policy: 'sketch', budget: 0.05 }, { policy: 'exact' }]);
  const [fixed, , exact] = policies;
  t.like(exact, { policy: 'exact', budget: 1, klToExact: 0, klLow: 0, klHigh: 0, top1Agreement: 1, relativeL2: 0, bytesReadFraction: 1, keysRead: 1 });
  // A mean over seeds may round.
  t.true(Math.abs(exact!.perplexity / exactPerplexity - 1) < 1e-14);
  t.true(exact!.perLayerHead.flat().every((error) => error === 0));
  // The control: the same figures do see a policy that leaves keys out.
  t.true(fixed!.klToExact > 0 && fixed!.relativeL2 > 0.01 && fixed!.perLayerHead.flat().every((error) => error > 0));
});

test('policies come in the order that they must', async (t) => {
  const variants = variantsOf({ policies: ['static', 'topk', 'oracle', 'quest', 'sketch', 'lsh'], budgets: [0.05, 0.4], sketchBits: [4], lshK: [6], lshL: 60 });
  const { policies } = await measured(t, variants, { seeds: 2, peaked: true });
  const row = (policy: string, budget?: number) => policies.find((one) => one.policy === policy && (budget === undefined || one.budget === budget))!;
  const fixed = row('static');
  t.is(policies.length, 10);
  for (const policy of ['topk', 'oracle', 'sketch']) {
    const [few, many] = [row(policy, 0.05), row(policy, 0.4)];
    t.true(many.relativeL2 < few.relativeL2 && many.klToExact < few.klToExact, policy);
    // The budget of sketch settles over some tens of steps.
    t.true(Math.abs(many.keysSampled / 0.4 - 1) < (policy === 'sketch' ? 0.3 : 0.01), `${policy} ${many.keysSampled}`);
    t.true(few.klLow <= few.klToExact && few.klToExact <= few.klHigh);
    t.true(many.bytesReadFraction > few.bytesReadFraction && few.bytesReadFraction > fixed.bytesReadFraction, policy);
  }
  for (const policy of ['topk', 'quest', 'lsh']) t.true(row(policy).relativeL2 < fixed.relativeL2, policy);
  t.is(row('oracle', 0.05).seeds, 2);
  t.is(row('topk', 0.05).seeds, 1, 'one run says all where nothing is drawn');
  t.deepEqual(fixed.perLayerHead.map((heads) => heads.length), [2, 2]);
});

test('the same seeds give the same figures, however many policies came before', async (t) => {
  const sketch = { policy: 'sketch', budget: 0.05 } as const;
  const [alone] = (await measured(t, [sketch])).policies;
  const after = (await measured(t, [{ policy: 'lsh' }, { policy: 'topk' }, sketch])).policies.at(-1);
  t.deepEqual(after, alone);
  const [more] = (await measured(t, [sketch], { seeds: 2 })).policies;
  t.not(more!.klToExact, alone!.klToExact);
});

test('dense layers are exact, and what they read counts', async (t) => {
  const variants = [[], [0], [0, 1]].map((denseLayers): Variant => ({ policy: 'sketch', budget: 0.05, denseLayers }));
  const { policies: [none, first, both] } = await measured(t, variants);
  t.true(none!.perLayerHead.flat().every((error) => error > 0));
  t.true(first!.perLayerHead[0]!.every((error) => error === 0) && first!.perLayerHead[1]!.every((error) => error > 0));
  t.like(both, { klToExact: 0, relativeL2: 0, bytesReadFraction: 1, keysRead: 1 });
  t.true(Math.abs(first!.bytesReadFraction - (1 + none!.bytesReadFraction) / 2) < 0.02, `${first!.bytesReadFraction}`);
  t.true(Math.abs(first!.keysSampled / 0.05 - 1) < 0.3, 'the layer that samples keeps the budget');
  const error = await t.throwsAsync(measured(t, [{ policy: 'sketch', denseLayers: [2] }]));
  t.like(error, { code: 'INVALID_OPTION', message: 'a layer of denseLayers is 2; it must be a whole number from 0 to 1' });
});

test('texts are shown beside the first', async (t) => {
  const spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 4096 });
  await using model = await loadModel(writeGguf(join(temporaryFolder(t), 'tiny.gguf'), spec), { threads: 2 });
  const variants = variantsOf({ policies: ['exact', 'sketch'], budgets: [0.05], sketchBits: [4, 1], lshK: [] });
  t.is(variants.length, 3);
  const options = { prefix: 900, steps: 12, seeds: 2 };
  const { policies, heldOut: [same, other] } = await evaluateTexts(model, [{ name: 'a', text }, { name: 'b', text }, { name: 'c', text: text.slice(500) }], variants, options);
  t.deepEqual(same!.policies.map(({ klToExact, ratio }) => [klToExact, ratio]), policies.map(({ klToExact }) => [klToExact, 1]));
  for (const { ratioLow, ratioHigh } of same!.policies) t.true(ratioLow <= 1 && ratioHigh >= 1);
  t.not(other!.policies[1]!.klToExact, policies[1]!.klToExact);
  const short = evaluateTexts(model, [{ name: 'a', text }, { name: 'b', text: 'short' }], variants, options);
  t.like(await t.throwsAsync(short), { code: 'INVALID_OPTION' });
});

test('what cannot be is refused before anything is read', async (t) => {
  t.throws(() => variantsOf({ policies: ['magic'], budgets: [0.1], sketchBits: [4], lshK: [10] }), { message: /policy magic is unknown/ });
  t.like(t.throws(() => variantsOf({ policies: ['sketch'], budgets: [2], sketchBits: [4], lshK: [10] })), { code: 'INVALID_OPTION' });
  const error = await t.throwsAsync(measured(t, [{ policy: 'exact' }], { steps: 10_000 }));
  t.like(error, { code: 'INVALID_OPTION' });
  t.regex(error.message, /prefix and steps need 11501/);
});

test('a report is one file that needs no other, and names every policy', async (t) => {
  const variants = variantsOf({ policies: ['exact', 'static', 'topk', 'oracle', 'quest', 'sketch', 'lsh'], budgets: [0.05, 0.2], sketchBits: [4], lshK: [8], lshL: 60 });
  const page = fidelityReport('tiny <model>', await measured(t, variants, { steps: 4 }));
  const selfContained = (html: string) => !/<script|<link|<img|<iframe|@import|\b(?:src|href|data)=|url\((?!#)/i.test(html);
  t.true(selfContained(page));
  t.false(selfContained(page.replace('</head>', '<link rel="stylesheet" href="x.css"></head>')), 'the control');
  for (const name of ['topk 5%', 'oracle 20%', 'quest 5%', 'sketch 20%, 4 bits', 'lsh K8 L60', 'static', 'exact']) t.true(page.includes(`>${name}<`), name);
  t.true(page.includes('tiny &lt;model&gt;') && !page.includes('<model>'));
  t.true(page.includes('prefers-color-scheme: dark'));
  // Four plots, and a map for each policy but exact.
  t.is(page.split('<svg').length - 1, 4 + 6);
  t.notRegex(page, /NaN|undefined|Infinity/);
  // A page of exact alone has nothing to plot, and does not fail.
  t.notRegex(fidelityReport('tiny', await measured(t, [{ policy: 'exact' }], { steps: 2 })), /NaN|undefined|Infinity/);
  t.true(selfContained(rulerReport('tiny', { seed: 0, rows: [], answers: [] })));
});
