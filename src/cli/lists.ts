import { MagicpigError } from '../errors.js';

/** "a, b" as ["a", "b"]. */
export function list(text: string): string[] {
  return text.split(',').map((part) => part.trim()).filter((part) => part !== '');
}

/** "1, 2" as [1, 2]. */
export function numbers(name: string, text: string): number[] {
  const values = list(text).map(Number);
  if (values.length === 0 || values.some((value) => !Number.isFinite(value))) {
    throw new MagicpigError('INVALID_OPTION', `--${name} is ${text}; it takes numbers with commas between them`);
  }
  return values;
}
