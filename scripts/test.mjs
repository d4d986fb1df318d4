// `npm test`: from a bare clone through build, lint and all tests, to one closing line of counts. Stops at the first failure.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { build, install } from './support/build.mjs';
import { checkRequirements } from './support/requirements.mjs';
import { StepFailed, step } from './support/step.mjs';

process.chdir(join(import.meta.dirname, '..'));

/** Tests that ran, by language: a suite that finds none of its tests must not look like success. */
const counts = { Rust: { passed: 0, failed: 0 }, TypeScript: { passed: 0, failed: 0 } };

/** The addon's types are committed, so that one can read and lint without building: they must be what the build makes. */
async function buildWithoutDrift() {
  const committed = readFileSync('index.d.ts', 'utf8');
  await build({ always: ['build:native'] });
  if (readFileSync('index.d.ts', 'utf8') !== committed) {
    throw new StepFailed('index.d.ts was not what the build makes of crates/node; it is now: commit it');
  }
}

async function testRust() {
  await step('Rust tests', 'cargo', ['test', '--workspace', '--locked'], {
    onLine: (line) => {
      console.log(line);
      const [, passed, failed] = /^test result: \w+\. (\d+) passed; (\d+) failed/.exec(line) ?? [];
      counts.Rust.passed += Number(passed ?? 0);
      counts.Rust.failed += Number(failed ?? 0);
    },
  });
}

/** The instruction sets that the processor has, as the kernel lists them: another witness than the code under test. */
function expectedIsas() {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1].split(' '));
  const has = (...names) => names.every((name) => flags.has(name));
  const avx512 = has('avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni');
  return ['scalar', ...(has('avx2', 'fma', 'f16c') ? ['avx2'] : []), ...(avx512 ? ['avx512'] : [])];
}

/** Runs the kernels' tests once more for what they say about their coverage, which cargo hides when tests pass. */
async function reportIsaCoverage() {
  const expected = process.platform === 'linux' && process.arch === 'x64' ? expectedIsas() : ['scalar'];
  let reports = 0;
  const untested = new Set();
  await step('ISA coverage', 'cargo', ['test', '--workspace', '--locked', '--', '--nocapture', 'isa_'], {
    onLine: (line) => {
      const [report, tested] = /isa-coverage: .*tested ([^;]*).*/.exec(line) ?? [];
      if (report === undefined) return;
      console.log(report);
      reports += 1;
      for (const isa of expected) if (!tested.split(' ').includes(isa)) untested.add(isa);
    },
  });
  if (reports === 0) throw new StepFailed('ISA coverage failed: no test of a kernel said what it covered');
  if (untested.size > 0) throw new StepFailed(`ISA coverage failed: this machine has ${[...untested].join(', ')}, and some kernel was not tested on it`);
}

async function testTypeScript() {
  await step('TypeScript tests', process.execPath, ['node_modules/ava/entrypoints/cli.mjs', '--tap'], {
    env: { CI: 'true' },
    onLine: (line) => {
      console.log(line);
      const [, outcome, count] = /^# (pass|fail) (\d+)$/.exec(line) ?? [];
      if (outcome === 'pass') counts.TypeScript.passed += Number(count);
      if (outcome === 'fail') counts.TypeScript.failed += Number(count);
    },
  });
}

function requireTests() {
  for (const [language, { passed }] of Object.entries(counts)) {
    if (passed === 0) throw new StepFailed(`${language} tests failed: none ran`);
  }
}

const npx = (tool, ...args) => [process.execPath, [join('node_modules', tool), ...args], { to: 1 }];

try {
  await checkRequirements();
  await install();
  await buildWithoutDrift();
  await step('cargo fmt', 'cargo', ['fmt', '--all', '--check'], { to: 1 });
  await step('clippy', 'cargo', ['clippy', '--workspace', '--all-targets', '--locked', '--', '-D', 'warnings'], { to: 1 });
  await step('tsc', ...npx('typescript/bin/tsc', '-p', 'tsconfig.test.json', '--noEmit'));
  await step('tsc of the page', ...npx('typescript/bin/tsc', '-p', 'tsconfig.page.json'));
  await step('eslint', ...npx('eslint/bin/eslint.js', '.', '--max-warnings', '0'));
  await step('docs/api.md', process.execPath, ['scripts/api-docs.mjs', '--check']);
  await testRust();
  await reportIsaCoverage();
  await testTypeScript();
  requireTests();
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  console.log(error.message);
  process.exitCode = 1;
}
const total = (outcome) => counts.Rust[outcome] + counts.TypeScript[outcome];
console.log(`${total('passed')} passed, ${total('failed')} failed`);
