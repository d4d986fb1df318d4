import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { CommandModule } from 'yargs';
import { bytes } from './format.js';
import { REF_HELP, resolveWithProgress } from './model-option.js';
import type { Terminal } from './terminal.js';

interface Arguments {
  ref: string;
}

export const pull = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'pull <ref>',
  describe: 'Download a model into the cache, or go on with a download that was cut',
  builder: (yargs) => yargs.positional('ref', { type: 'string', demandOption: true, describe: REF_HELP }),
  handler: async ({ ref }) => {
    const path = await resolveWithProgress(ref, terminal, { refresh: true });
    const size = await sizeOf(path);
    terminal.result({ model: ref, path, bytes: size }, `${path} (${bytes(size)})`);
  },
});

/** Bytes of a file, or of all files in a folder. */
async function sizeOf(path: string): Promise<number> {
  const found = await stat(path);
  if (!found.isDirectory()) return found.size;
  const sizes = await Promise.all((await readdir(path)).map(async (name) => (await stat(join(path, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
