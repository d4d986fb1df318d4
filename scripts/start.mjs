// `npm start`: from a bare clone to a language model that has read a long text and writes on. Arguments after `--` go to
// `magicpig generate` and win over the ones here.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';

import { build, install } from './support/build.mjs';
import { checkRequirements } from './support/requirements.mjs';
import { StepFailed } from './support/step.mjs';

/**
 * Of English prose, 28,000 characters are 6,300 to 7,700 tokens: long enough to show what sampling saves, and
 * the model's context of 8,192 still has room for what it writes.
 */
const PROMPT_CHARACTERS = 28_000;

process.chdir(join(import.meta.dirname, '..'));

/** What the model is to go on from: a small one drifts off without a hint of what should come. */
const LEAD = '\n\n## What this text has said so far\n\nA language model reads a text as tokens.';

/** Small models repeat themselves when they always take the most likely token. */
const SAMPLING = [['--temperature', '0.6'], ['--top-p', '0.9'], ['--repetition-penalty', '1.1']];

/** The text up to its last whole paragraph within the limit. */
function beginning(text, characters) {
  return text.length <= characters ? text : text.slice(0, text.lastIndexOf('\n\n', characters));
}

/** The arguments of `generate`: what the person passes, then what is passed for them where they said nothing. */
function withDefaults(args, defaults) {
  const given = (name) => args.some((arg) => arg === name || arg.startsWith(`${name}=`));
  const filled = defaults.filter(([name]) => !given(name));
  return [...args, ...filled.flat()];
}

/** Runs the command line with this process's streams. A terminal's Ctrl-C reaches both; the command decides how it ends. */
function runCommandLine(args) {
  const child = spawn(process.execPath, ['dist/cli/main.js', ...args], { stdio: 'inherit' });
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => { resolve(code ?? 128 + constants.signals[signal]); });
  });
}

try {
  await checkRequirements();
  await install();
  await build();
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  console.error(error.message);
  process.exit(1);
}

const args = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'magicpig-start-'));
try {
  const prompt = join(folder, 'prompt.md');
  writeFileSync(prompt, beginning(readFileSync('docs/sampled-attention.md', 'utf8'), PROMPT_CHARACTERS) + LEAD);
  const source = args.some((arg) => /^--prompt(-file)?(=|$)/.test(arg)) ? [] : [['--prompt-file', prompt]];
  process.exitCode = await runCommandLine([
    'generate',
    ...withDefaults(args, [['--model', 'smollm2-135m'], ...source, ['--max-tokens', '256'], ...SAMPLING]),
  ]);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
