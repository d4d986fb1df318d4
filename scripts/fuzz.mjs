// Fuzzes the opening of a session's folder: `npm run fuzz -- [SECONDS]`, 60 by default. It fails on the first input that
// makes it crash, which stays in fuzz/artifacts. The flags are those of cargo fuzz, which thus need not be installed.
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { StepFailed, step } from './support/step.mjs';

process.chdir(join(import.meta.dirname, '..', 'fuzz'));
const target = 'open_session';
const seconds = Number(process.argv[2] ?? 60);
const coverage = ['level=4', 'inline-8bit-counters', 'pc-table'].map((what) => `-Cllvm-args=-sanitizer-coverage-${what}`);
const [, host] = /^host: (.*)$/m.exec(execFileSync('rustc', ['-vV'], { encoding: 'utf8' }));
const [corpus, artifacts] = ['corpus', 'artifacts'].map((name) => join(name, target));
for (const folder of [corpus, artifacts]) mkdirSync(folder, { recursive: true });

try {
  await step('fuzz build', 'cargo', ['build', '--release', '--locked', '--target', host, '--bin', target], {
    env: { RUSTFLAGS: ['--cfg fuzzing', '-Cpasses=sancov-module', ...coverage].join(' ') },
  });
  await step('fuzzing', join('target', host, 'release', target), [`-max_total_time=${seconds}`, `-artifact_prefix=${artifacts}/`, '-print_final_stats=1', corpus]);
  console.log(`${target}: no crash in ${seconds} s`);
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  console.log(error.message);
  process.exitCode = 1;
}
