// The gate before publishing: it lets through what is whole, and nothing else.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { temporaryFolder } from './support/temporary.js';

const root = join(import.meta.dirname, '..');
// @ts-expect-error the scripts have no types
const { platforms, problems } = (await import('../scripts/support/packages.mjs')) as {
  platforms: Record<string, { name: string; os: string; cpu: string; libc?: string; machine: string }>;
  problems: (root: string) => string[];
};

/** The first bytes of an executable for each platform. */
function header(machine: string): Buffer {
  const bytes = Buffer.alloc(256);
  if (machine.startsWith('ELF')) {
    bytes.writeUInt32BE(0x7f454c46, 0);
    bytes.writeUInt16LE(machine.endsWith('arm64') ? 0xb7 : 0x3e, 18);
    bytes.write('\0GLIBC_2.28\0', 100, 'latin1');
  } else if (machine.startsWith('Mach-O')) {
    bytes.writeUInt32LE(0xfeedfacf, 0);
    bytes.writeUInt32LE(0x0100000c, 4);
  } else {
    bytes.write('MZ', 0, 'latin1');
    bytes.writeUInt32LE(0x80, 0x3c);
    bytes.write('PE\0\0', 0x80, 'latin1');
    bytes.writeUInt16LE(machine.endsWith('arm64') ? 0xaa64 : 0x8664, 0x84);
  }
  return bytes;
}

function write(path: string, content: object): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, JSON.stringify(content));
}

/** A release that is whole, as far as a gate can see. */
function release(t: ExecutionContext) {
  const folder = temporaryFolder(t);
  cpSync(join(root, 'index.d.ts'), join(folder, 'index.d.ts'));
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string; optionalDependencies?: Record<string, string>; napi: { targets: string[] } };
  const { version } = manifest;
  const symbols = Buffer.from([...readFileSync(join(root, 'index.d.ts'), 'utf8').matchAll(/^export declare (?:function|class) (\w+)/gm)].map(([, symbol]) => symbol).join('\0'));
  manifest.optionalDependencies = {};
  for (const { name, os, cpu, libc, machine } of Object.values(platforms)) {
    manifest.optionalDependencies[`magicpig-${name}`] = version;
    const main = `magicpig.${name}.node`;
    write(join(folder, 'npm', name, 'package.json'), { name: `magicpig-${name}`, version, main, files: [main], os: [os], cpu: [cpu], ...(libc !== undefined && { libc: [libc] }) });
    writeFileSync(join(folder, 'npm', name, main), Buffer.concat([header(machine), symbols]));
  }
  write(join(folder, 'package.json'), manifest);
  return { folder, manifest };
}

const addon = (folder: string, name: string) => join(folder, 'npm', name, `magicpig.${name}.node`);

test('a release that is whole is let through', (t) => {
  const { folder, manifest } = release(t);
  t.deepEqual(problems(folder), []);
  t.deepEqual(manifest.napi.targets, Object.keys(platforms));
});

for (const [name, spoil, said] of [
  ['a binary missing', (folder) => { rmSync(addon(folder, 'win32-arm64-msvc')); }, /^magicpig-win32-arm64-msvc has no binary: .* is missing$/],
  ['a package missing', (folder) => { rmSync(join(folder, 'npm', 'darwin-arm64'), { recursive: true }); }, /^magicpig-darwin-arm64 is missing/],
  ['a binary of another platform', (folder) => { cpSync(addon(folder, 'linux-x64-gnu'), addon(folder, 'linux-arm64-gnu')); }, /is ELF x86-64, and not ELF arm64$/],
  ['a binary of an older source', (folder) => { writeFileSync(addon(folder, 'darwin-arm64'), header('Mach-O arm64')); }, /was made of another source: it has no \w+/],
  ['a binary for newer systems', (folder) => { writeFileSync(addon(folder, 'linux-x64-gnu'), Buffer.concat([readFileSync(addon(folder, 'linux-x64-gnu')), Buffer.from('\0GLIBC_2.34\0')])); }, /needs glibc 2\.34, and 2\.28/],
  ['a package of another version', (folder) => { edit(join(folder, 'npm', 'linux-x64-gnu', 'package.json'), (manifest) => { manifest.version = '0.0.9'; }); }, /has version "0\.0\.9", and not/],
  ['a dependency of another version', (folder) => { edit(join(folder, 'package.json'), ({ optionalDependencies }) => { (optionalDependencies as Record<string, string>)['magicpig-linux-x64-gnu'] = '^0.1.0'; }); }, /linux-x64-gnu \^0\.1\.0 among its optionalDependencies/],
  ['an install script', (folder) => { edit(join(folder, 'package.json'), (manifest) => { manifest.scripts = { postinstall: 'node x' }; }); }, /has a script postinstall/],
] as const satisfies (readonly [string, (folder: string) => void, RegExp])[]) {
  test(`a release with ${name} is refused`, (t) => {
    const { folder } = release(t);
    spoil(folder);
    const found = problems(folder);
    t.is(found.length, 1, found.join('\n'));
    t.regex(found[0] as string, said);
  });
}

function edit(path: string, change: (manifest: Record<string, unknown>) => void): void {
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
}
