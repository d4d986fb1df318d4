// `npm run try:packages`: packs the package and this platform's addon as a release does, installs both in an empty folder where
// there is no Rust, and runs there what README shows: the command line and the example of the API.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';

import { StepFailed } from './support/step.mjs';
import { platforms, problems } from './support/packages.mjs';

const root = join(import.meta.dirname, '..');
const here = Object.values(platforms).find(({ os, cpu }) => os === process.platform && cpu === process.arch);
const folder = mkdtempSync(join(tmpdir(), 'magicpig-packages-'));

/** The environment of someone who has Node.js, and no Rust. */
const withoutRust = {
  ...process.env,
  PATH: [dirname(process.execPath), ...process.env.PATH.split(delimiter).filter((path) => !existsSync(join(path, 'cargo')) && !existsSync(join(path, 'rustc')))].join(delimiter),
  CARGO_HOME: undefined,
  RUSTUP_HOME: undefined,
};

/** Runs a command to its end and returns what it printed. Fails where it does not exit with `status`, or takes minutes. */
function run(name, cwd, command, args, { env = withoutRust, status = 0 } = {}) {
  const started = performance.now();
  const result = spawnSync(command, args, { cwd, env, encoding: 'utf8', timeout: 300_000, shell: process.platform === 'win32' });
  if (result.status !== status) throw new StepFailed(`${name} exited with ${result.status ?? result.signal ?? result.error}:\n${result.stdout}${result.stderr}`);
  console.log(`${name}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

const expect = (truth, what) => { if (!truth) throw new StepFailed(what); };

function megabytes(path) {
  if (!statSync(path).isDirectory()) return statSync(path).size / 1e6;
  return readdirSync(path).reduce((sum, name) => sum + megabytes(join(path, name)), 0);
}

/** A copy of what is published, with a folder for each platform's package: the checkout stays as it is. */
function stage() {
  const staged = join(folder, 'release');
  mkdirSync(staged);
  const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of ['package.json', 'README.md', 'LICENSE', ...files]) cpSync(join(root, name), join(staged, name), { recursive: true });
  const napi = join(root, 'node_modules', '@napi-rs', 'cli', 'dist', 'cli.js');
  run('napi create-npm-dirs', staged, process.execPath, [napi, 'create-npm-dirs']);
  const addon = `magicpig.${here.name}.node`;
  cpSync(join(root, addon), join(staged, 'npm', here.name, addon));
  // In a release napi pre-publish does this, which refuses to while addons of other platforms are missing.
  const manifest = JSON.parse(readFileSync(join(staged, 'package.json'), 'utf8'));
  manifest.optionalDependencies = Object.fromEntries(manifest.napi.targets.map((target) => [`magicpig-${platforms[target].name}`, manifest.version]));
  writeFileSync(join(staged, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  return staged;
}

/** README's first example of the API. */
function exampleOfReadme() {
  const [, example] = /## Use it\n\n```js\n([^]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8')) ?? [];
  expect(example !== undefined, 'README.md has no example under "Use it"');
  return example;
}

try {
  expect(here !== undefined, `there is no package for ${process.platform} ${process.arch}`);
  const staged = stage();
  const gate = problems(staged);
  console.log(`the gate: ${gate.join('\n  ') || 'nothing missing'}`);
  const foreign = Object.values(platforms).filter(({ name }) => name !== here.name);
  for (const { name } of foreign) expect(gate.some((problem) => problem.includes(`magicpig-${name} has no binary`)), `the gate does not miss ${name}`);
  expect(gate.every((problem) => problem.includes('has no binary') || problem.includes('needs glibc')), 'the gate finds more than what was not built here');

  const pack = (where) => join(folder, JSON.parse(run(`npm pack ${where}`, join(staged, where), 'npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder]).stdout)[0].filename);
  const tarballs = [pack('.'), pack(join('npm', here.name))];
  for (const tarball of tarballs) console.log(`  ${tarball}: ${megabytes(tarball).toFixed(2)} MB`);

  const user = join(folder, 'user');
  mkdirSync(user);
  writeFileSync(join(user, 'package.json'), '{ "private": true, "type": "module" }\n');
  run('npm install', user, 'npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', ...tarballs]);
  const installed = readdirSync(join(user, 'node_modules'));
  console.log(`  installed: ${megabytes(join(user, 'node_modules')).toFixed(0)} MB`);
  expect(!installed.includes('onnxruntime-node'), 'ONNX Runtime was installed, which is 290 MB that the CPU does without');
  expect(spawnSync('cargo', ['--version'], { env: withoutRust }).error !== undefined, 'there is Rust on the PATH');

  const generate = ['--no-install', 'magicpig', 'generate', '-p', 'Once upon a time', '-n', '16', '--json'];
  const { text, generatedTokens } = JSON.parse(run('magicpig generate', user, 'npx', generate).stdout);
  expect(generatedTokens === 16, 'generate wrote something else than 16 tokens');
  console.log(`  Once upon a time${text}`);

  const source = exampleOfReadme();
  writeFileSync(join(user, 'notes.md'), 'Pigs are curious animals. '.repeat(40));
  writeFileSync(join(user, 'example.mjs'), source);
  writeFileSync(join(user, 'example.mts'), `import process from 'node:process';\n${source}`);
  cpSync(join(root, 'node_modules', '@types', 'node'), join(user, 'node_modules', '@types', 'node'), { recursive: true });
  cpSync(join(root, 'node_modules', 'undici-types'), join(user, 'node_modules', 'undici-types'), { recursive: true });
  const tsc = [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '--noEmit', '--strict', '--target', 'es2023', '--lib', 'es2023,esnext.disposable', '--module', 'nodenext', '--types', 'node', 'example.mts'];
  run('tsc of the example, with all types', user, process.execPath, tsc);
  expect(/[\d.]+\n$/.test(run("README's example", user, process.execPath, ['example.mjs']).stdout), 'the example did not print the fraction of keys it read');

  rmSync(join(user, 'node_modules', `magicpig-${here.name}`), { recursive: true });
  const missing = run('magicpig generate, without the addon', user, 'npx', generate, { status: 1 }).stdout;
  const { error } = JSON.parse(missing);
  expect(error.code === 'NATIVE_MISSING' && error.message.includes(`${process.platform} ${process.arch}`), missing);
  console.log(`  ${error.message}`);
  console.log('the packages work');
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  console.error(error.message);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
