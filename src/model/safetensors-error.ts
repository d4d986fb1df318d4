import { MagicpigError } from '../errors.js';

export function malformedSafetensors(path: string, what: string): MagicpigError {
  return new MagicpigError('SAFETENSORS_MALFORMED', `${path} cannot be used: ${what}`);
}
