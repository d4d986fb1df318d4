// Writes docs/api.md from the types and their comments; with --check, fails where it is not what they say.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'magicpig-docs-'));
try {
  execFileSync(process.execPath, ['node_modules/typedoc/bin/typedoc', '--logLevel', 'Warn', '--out', folder], { stdio: ['ignore', 2, 2] });
  const made = `<!-- Made by "npm run docs:api"; change the comments of the sources instead. -->\n\n${readFileSync(join(folder, 'README.md'), 'utf8')}`;
  if (!process.argv.includes('--check')) writeFileSync('docs/api.md', made);
  else if (readFileSync('docs/api.md', 'utf8') !== made) {
    console.error('docs/api.md is not what the types say: npm run docs:api writes it anew');
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true });
}
