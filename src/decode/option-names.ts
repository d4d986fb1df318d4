import { MagicpigError } from '../errors.js';
import { nameShown, shown } from '../shown.js';

/** Every option of a function by its name, no more and no fewer: whether it is for everybody, or internal. */
export type OptionNames<Options> = { readonly [Name in keyof Options]-?: boolean };

/** All that some functions take. */
export const signalName: OptionNames<{ signal?: AbortSignal | undefined }> = { signal: true };

/**
 * Refuses options that `taker` does not have: a misspelt name would be left out in silence where nobody checks types. Throws
 * INVALID_OPTION.
 */
export function checkOptions<Options extends object>(taker: string, options: Options, names: OptionNames<Options>): void {
  // JavaScript lets anything through.
  const given: unknown = options;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new MagicpigError('INVALID_OPTION', `the options of ${taker} are ${shown(given)}; they must be an object`);
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(names, name));
  if (unknown === undefined) return;
  const known = Object.entries(names).filter(([, everybody]) => everybody === true).map(([name]) => name);
  throw new MagicpigError('INVALID_OPTION', `there is no option ${nameShown(unknown)}; ${taker} takes ${known.join(', ')}`);
}
