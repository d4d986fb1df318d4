import { unsupported } from '../gguf-metadata.js';
import type { ArchitectureKeys, Traits } from './architecture.js';

/** A Qwen can have a window in its later layers; GGUF does not say in which. */
export function refuseWindow(keys: ArchitectureKeys): Traits {
  const window = keys.window();
  if (window === undefined) return {};
  throw unsupported(keys.metadata.path, `a window of ${window} tokens in some layers of ${keys.name}; magicpig reads windows of llama, gemma2 and gemma3`);
}
