import { MagicpigError } from '../errors.js';

export type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

export type MetadataValue = string | number | bigint | boolean | readonly string[] | NumberArray;

export function malformed(path: string, what: string): MagicpigError {
  return new MagicpigError('GGUF_MALFORMED', `${path} is not a GGUF file that can be read: ${what}`);
}

/** `what` says what the file has, and what is read instead. */
export function unsupported(path: string, what: string): MagicpigError {
  return new MagicpigError('UNSUPPORTED_ARCHITECTURE', `${path} has ${what}`);
}

/** A name out of the file, for a message: quoted, on one line, and short whatever the file says. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}...` : name);
}

/** What errors call a file and its keys: other files than GGUF's are read by GGUF's keys, and have names of their own for them. */
export interface MetadataDialect {
  malformed(path: string, what: string): MagicpigError;
  key(key: string): string;
}

const ggufDialect: MetadataDialect = { malformed, key: (key) => key };

/** A model file's key-value pairs by GGUF's keys, read with the type and range that each must have. */
export class GgufMetadata {
  constructor(
    readonly path: string,
    readonly pairs: ReadonlyMap<string, MetadataValue>,
    readonly dialect: MetadataDialect = ggufDialect,
  ) {}

  /** The error of a file that cannot be what it says. */
  malformed(what: string): MagicpigError {
    return this.dialect.malformed(this.path, what);
  }

  /** A key as the file spells it. */
  spelled(key: string): string {
    return this.dialect.key(key);
  }

  has(key: string): boolean {
    return this.pairs.has(key);
  }

  string(key: string): string | undefined {
    return this.#typed(key, 'a string', (value) => typeof value === 'string');
  }

  boolean(key: string): boolean | undefined {
    return this.#typed(key, 'a boolean', (value) => typeof value === 'boolean');
  }

  strings(key: string): readonly string[] | undefined {
    return this.#typed(key, 'a list of strings', (value): value is readonly string[] => Array.isArray(value));
  }

  numbers(key: string): NumberArray | undefined {
    return this.#typed(key, 'a list of numbers', (value): value is NumberArray => ArrayBuffer.isView(value));
  }

  /** A whole number within [min, max]. Throws GGUF_MALFORMED where it is missing and there is no `otherwise`. */
  count(key: string, range: { min: number; max: number; otherwise?: number }): number {
    const value = this.#number(key, range.otherwise);
    if (!Number.isInteger(value) || value < range.min || value > range.max) {
      throw this.malformed(`${this.spelled(key)} is ${value}, not a whole number from ${range.min} to ${range.max}`);
    }
    return value;
  }

  /** A number above 0 and at most `max`. Throws GGUF_MALFORMED where it is missing and there is no `otherwise`. */
  positive(key: string, range: { max: number; otherwise?: number }): number {
    const value = this.#number(key, range.otherwise);
    if (!(value > 0 && value <= range.max)) throw this.malformed(`${this.spelled(key)} is ${value}, not above 0 and at most ${range.max}`);
    return value;
  }

  #number(key: string, otherwise: number | undefined): number {
    const value = this.#typed(key, 'a number', (found) => typeof found === 'number') ?? otherwise;
    if (value === undefined) throw this.malformed(`${this.spelled(key)} is missing`);
    return value;
  }

  #typed<T extends MetadataValue>(key: string, kind: string, is: (value: MetadataValue) => value is T): T | undefined {
    const value = this.pairs.get(key);
    if (value === undefined || is(value)) return value;
    throw this.malformed(`${this.spelled(key)} is not ${kind}`);
  }
}
