// What a release is made of: the package, and one package with the addon for each platform.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** napi's name of each platform that there are packages for, what it says in its package.json, and how its binaries begin. */
export const platforms = {
  'x86_64-unknown-linux-gnu': { name: 'linux-x64-gnu', os: 'linux', cpu: 'x64', libc: 'glibc', machine: 'ELF x86-64' },
  'aarch64-unknown-linux-gnu': { name: 'linux-arm64-gnu', os: 'linux', cpu: 'arm64', libc: 'glibc', machine: 'ELF arm64' },
  'aarch64-apple-darwin': { name: 'darwin-arm64', os: 'darwin', cpu: 'arm64', machine: 'Mach-O arm64' },
  'x86_64-pc-windows-msvc': { name: 'win32-x64-msvc', os: 'win32', cpu: 'x64', machine: 'PE x86-64' },
  'aarch64-pc-windows-msvc': { name: 'win32-arm64-msvc', os: 'win32', cpu: 'arm64', machine: 'PE arm64' },
};

/** The C library that Node.js 20 and ONNX Runtime need themselves: an addon that needs a newer one would be the first to fail. */
const GLIBC = [2, 28];

/** What keeps the package in `root`, with its platform packages in `root/npm`, from being published: no lines where nothing does. */
export function problems(root) {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const { name, version, napi, optionalDependencies = {} } = manifest;
  const found = installScripts(manifest);
  const exported = [...readFileSync(join(root, 'index.d.ts'), 'utf8').matchAll(/^export declare (?:function|class) (\w+)/gm)].map(([, symbol]) => symbol);
  const expected = napi.targets.map((target) => `${name}-${platforms[target].name}`);
  for (const dependency of new Set([...expected, ...Object.keys(optionalDependencies)])) {
    const wanted = expected.includes(dependency) ? version : undefined;
    if (optionalDependencies[dependency] !== wanted) {
      found.push(`${name} names ${dependency} ${optionalDependencies[dependency] ?? 'not at all'} among its optionalDependencies, and not ${wanted ?? 'not at all'}`);
    }
  }
  for (const target of napi.targets) {
    found.push(...platformProblems(join(root, 'npm', platforms[target].name), { name, version, binaryName: napi.binaryName, exported }, platforms[target]));
  }
  return found;
}

function platformProblems(folder, { name, version, binaryName, exported }, platform) {
  const wanted = { name: `${name}-${platform.name}`, version, main: `${binaryName}.${platform.name}.node` };
  if (!existsSync(join(folder, 'package.json'))) return [`${wanted.name} is missing: there is no ${join(folder, 'package.json')}`];
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const found = installScripts(manifest);
  for (const [field, value] of Object.entries({ ...wanted, os: [platform.os], cpu: [platform.cpu], libc: platform.libc && [platform.libc], files: [wanted.main] })) {
    if (JSON.stringify(manifest[field]) !== JSON.stringify(value)) found.push(`${wanted.name} has ${field} ${JSON.stringify(manifest[field])}, and not ${JSON.stringify(value)}`);
  }
  const binary = join(folder, wanted.main);
  return existsSync(binary) ? [...found, ...binaryProblems(binary, exported, platform)] : [...found, `${wanted.name} has no binary: ${binary} is missing`];
}

/** An addon of another platform, of an older source, or for newer systems only. */
function binaryProblems(path, exported, platform) {
  const bytes = readFileSync(path);
  const found = [];
  const machine = machineOf(bytes);
  if (machine !== platform.machine) found.push(`${path} is ${machine}, and not ${platform.machine}`);
  const missing = exported.filter((symbol) => !bytes.includes(symbol));
  if (missing.length > 0) found.push(`${path} was made of another source: it has no ${missing.join(', ')}`);
  const newest = newestGlibc(bytes);
  if (newest !== undefined && compare(newest, GLIBC) > 0) {
    found.push(`${path} needs glibc ${newest.join('.')}, and ${GLIBC.join('.')} is what Node.js needs; build it on an older system`);
  }
  return found;
}

/** The format and processor of an executable, by its header. */
export function machineOf(bytes) {
  const known = (format, machines, machine) => `${format} ${machines[machine] ?? `of machine 0x${machine.toString(16)}`}`;
  if (bytes.length < 64) return 'no executable';
  if (bytes.readUInt32BE(0) === 0x7f454c46) return known('ELF', { 0x3e: 'x86-64', 0xb7: 'arm64' }, bytes.readUInt16LE(18));
  if (bytes.readUInt32LE(0) === 0xfeedfacf) return known('Mach-O', { 0x01000007: 'x86-64', 0x0100000c: 'arm64' }, bytes.readUInt32LE(4));
  const header = bytes.readUInt32LE(0x3c);
  if (bytes.toString('latin1', 0, 2) === 'MZ' && header + 6 <= bytes.length && bytes.readUInt32BE(header) === 0x50450000) {
    return known('PE', { 0x8664: 'x86-64', 0xaa64: 'arm64' }, bytes.readUInt16LE(header + 4));
  }
  return 'no executable';
}

/** The newest glibc whose symbols an ELF file asks for, by its table of versions. */
function newestGlibc(bytes) {
  const versions = [...bytes.toString('latin1').matchAll(/\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)/g)].map(([, major, minor]) => [Number(major), Number(minor)]);
  return versions.toSorted(compare).at(-1);
}

function compare([major, minor], [otherMajor, otherMinor]) {
  return major - otherMajor || minor - otherMinor;
}

function installScripts({ name, scripts = {} }) {
  const run = Object.keys(scripts).filter((script) => /^(pre|post)?install$|^(pre|post)?prepare$/.test(script));
  return run.map((script) => `${name} has a script ${script}, which would run where it is installed`);
}
