import type { DownloadProgress, ResolveOptions } from '../model/resolve.js';
import type { Progress, Terminal } from './terminal.js';

/** The model that is meant where none is named. */
export const DEFAULT_MODEL = 'smollm2-135m';

/** What a REF may be, for the help of commands that take one. */
export const REF_HELP = 'a short name (smollm2-135m), hf:owner/name[/file][@revision], or the path of a .gguf file or of a folder of safetensors';

/** The path of a model's file or folder, downloaded under a progress bar where it is not here yet. */
export async function resolveWithProgress(reference: string, terminal: Terminal, options: Pick<ResolveOptions, 'refresh'> = {}): Promise<string> {
  const { resolveModel } = await import('../model/resolve.js');
  using progress = terminal.progress();
  return await resolveModel(reference, { ...options, signal: terminal.signal, onProgress: showDownload(progress) });
}

function showDownload(progress: Progress): (state: DownloadProgress) => void {
  return ({ received, total }) => {
    progress.update('downloading', received, total, 'bytes');
  };
}
