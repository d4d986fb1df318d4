import { stat } from 'node:fs/promises';
import type { ModelFile } from './types.js';

/** Opens the model at a path: a GGUF file, or a folder of safetensors. Throws what `openGguf` or `openSafetensors` does. */
export async function openModel(path: string): Promise<ModelFile> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() === true) {
    const { openSafetensors } = await import('./safetensors.js');
    return await openSafetensors(path);
  }
  const { openGguf } = await import('./gguf.js');
  return await openGguf(path);
}
