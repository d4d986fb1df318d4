// `npm run fidelity`: measures what docs/fidelity.md shows, and writes its tables anew. It takes 11 minutes on two cores with AVX-512; what was
// measured is kept in target/fidelity, by the addon, model, text and policy, so that a run which was stopped goes on where it was.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { loadModel } from '../dist/index.js';
import { Comparison } from '../dist/eval/fidelity.js';
import { beside } from '../dist/eval/held-out.js';
import { variantsOf } from '../dist/eval/variants.js';
import { layersTable, policiesTable, textsTable } from './fidelity/tables.mjs';
import { readTexts } from './fidelity/texts.mjs';

const MODEL = 'smollm2-135m';
const OPTIONS = { prefix: 8064, steps: 128, seeds: 3 };
const BUDGETS = [0.0045, 0.007, 0.01, 0.02, 0.05];

const root = join(import.meta.dirname, '..');
const folder = join(root, 'target', 'fidelity');
const digest = (text) => createHash('sha256').update(text).digest('hex').slice(0, 16);
const addon = digest(readFileSync(join(root, 'magicpig.linux-x64-gnu.node')));

const choices = { lshK: [10, 11], lshL: 150 };
const main = [
  ...variantsOf({ ...choices, policies: ['sketch'], budgets: BUDGETS, sketchBits: [4, 2] }),
  ...variantsOf({ ...choices, policies: ['topk', 'oracle', 'quest', 'static', 'lsh'], budgets: [0.02] }),
];
const corrected = variantsOf({ ...choices, policies: ['sketch'], residual: true, budgets: [0.002, 0.0045, 0.007, 0.02], sketchBits: [8, 4] });
const elsewhere = [
  ...variantsOf({ ...choices, lshK: [10], policies: ['sketch', 'topk', 'lsh'], budgets: [0.02], sketchBits: [4, 2] }),
  ...variantsOf({ ...choices, lshK: [], policies: ['sketch'], residual: true, budgets: [0.002] }),
];

/** Each layer as the only one that samples; one seed, since nothing else is random then. */
function layerVariants(layers) {
  const all = Array.from({ length: layers }, (_, layer) => layer);
  return all.map((layer) => ({ policy: 'sketch', budget: 0.02, sketchBits: 4, denseLayers: all.filter((other) => other !== layer) }));
}

/** What was measured of each variant on a text, from the folder where it is there. */
async function measured(model, { name, text }, variants, options) {
  const file = (variant) => join(folder, `${digest(JSON.stringify([addon, MODEL, text, options, variant]))}.json`);
  const kept = (variant) => {
    try {
      return JSON.parse(readFileSync(file(variant), 'utf8'));
    } catch {
      return undefined;
    }
  };
  const missing = variants.filter((variant) => kept(variant) === undefined);
  if (missing.length > 0) {
    console.error(`${name}: reading`);
    const comparison = await Comparison.begin(model, text, options);
    try {
      for (const [index, variant] of missing.entries()) {
        const result = { ...(await comparison.measure(variant)), exactPerplexity: comparison.exactPerplexity };
        writeFileSync(file(variant), JSON.stringify(result));
        console.error(`${name}: ${index + 1} of ${missing.length}`);
      }
    } finally {
      comparison[Symbol.dispose]();
    }
  }
  return variants.map(kept);
}

/** Replaces what stands between the markers of each table. */
function rewrite(path, tables) {
  let text = readFileSync(path, 'utf8');
  for (const [name, table] of Object.entries(tables)) {
    const between = new RegExp(`(<!-- ${name}: [^>]*-->\n)[\\s\\S]*?(<!-- end of ${name} -->)`);
    if (!between.test(text)) throw new Error(`${path} has no markers of ${name}`);
    text = text.replace(between, (_, begin, end) => `${begin}${table}\n${end}`);
  }
  writeFileSync(path, text);
}

async function measureAll(model) {
  const [own, ...others] = await readTexts();
  const first = await measured(model, own, main, OPTIONS);
  const reference = await measured(model, own, elsewhere, OPTIONS);
  const heldOut = [];
  for (const text of others) {
    const results = await measured(model, text, elsewhere, OPTIONS);
    heldOut.push({ name: text.name, perplexity: results[0].exactPerplexity, rows: results.map((result, i) => beside(result, reference[i])) });
  }
  const layers = await measured(model, own, layerVariants(model.config.layers), { ...OPTIONS, seeds: 1 });
  const [{ exactPerplexity }] = reference;
  return {
    policies: policiesTable(first),
    residual: policiesTable(await measured(model, own, corrected, OPTIONS)),
    layers: layersTable(layers, first.find(({ row }) => row.policy === 'sketch' && row.sketchBits === 4 && row.budget === 0.02)),
    texts: textsTable([{ name: own.name, perplexity: exactPerplexity, rows: reference.map(({ row }) => row) }, ...heldOut]),
  };
}

mkdirSync(folder, { recursive: true });
const model = await loadModel(MODEL);
try {
  rewrite(join(root, 'docs', 'fidelity.md'), await measureAll(model));
} finally {
  await model[Symbol.asyncDispose]();
}
