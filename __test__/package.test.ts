// What is published: the built package, by its own name, as its users import it.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import test from 'ava';

const root = join(import.meta.dirname, '..');
const run = promisify(execFile);
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
  bin: { magicpig: string };
  overrides: Record<string, string>;
};

test('the built package exports what the sources do', async (t) => {
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', "console.log(Object.keys(await import('magicpig')).sort().join())"], { cwd: root });
  t.is(stdout.trim(), Object.keys(await import('../src/index.js')).sort().join());
  t.is(stdout.trim(), [
    'MagicpigError', 'cpuInfo', 'errorCodes', 'exportSession', 'importSession', 'inspectSession', 'listSessions', 'loadModel', 'removeSession',
    'tune', 'verifySession',
  ].join());
});

test('only the root can be imported', async (t) => {
  const error = await t.throwsAsync(run(process.execPath, ['--input-type=module', '-e', "await import('magicpig/dist/native.js')"], { cwd: root }));
  t.regex(error.message, /ERR_PACKAGE_PATH_NOT_EXPORTED/);
});

test('the package holds the program and its types, and no addon, source or test', async (t) => {
  const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  for (const wanted of ['package.json', 'README.md', 'LICENSE', 'index.js', 'index.d.ts', 'dist/index.js', 'dist/index.d.ts', 'dist/server/page/index.html', 'dist/server/page/main.js', 'dist/server/page/page.css', manifest.bin.magicpig]) {
    t.true(paths.includes(wanted), wanted);
  }
  t.deepEqual(paths.filter((path) => /^(src|crates|__test__|scripts|npm)\/|\.node$/.test(path)), [], 'addons have packages of their own');
  // Whoever has installed it reads it there.
  const links = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map(([, path]) => path);
  t.true(links.length > 5);
  t.deepEqual(links.filter((path) => !paths.includes(path ?? '')), [], 'what README links to is there');
});

test('what is overridden is for development only, since overrides do not reach who installs the package', (t) => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, { dev?: boolean }> };
  const places = (name: string) => Object.entries(packages).filter(([path]) => path.endsWith(`node_modules/${name}`));
  t.deepEqual(Object.keys(manifest.overrides).filter((name) => places(name).some(([, { dev }]) => dev !== true)), []);
  t.true(places('fastify').some(([, { dev }]) => dev !== true), 'a control: a dependency would be found');
});

test('installing it runs no script', (t) => {
  t.deepEqual(Object.keys(manifest.scripts).filter((name) => /^(pre|post)?install$|^prepare$/.test(name)), []);
});
