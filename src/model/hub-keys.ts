import { isObject } from './json-file.js';
import type { JsonObject } from './json-file.js';
import { malformedSafetensors } from './safetensors-error.js';

/** Values of a JSON file of the hub, of the type that each must have; null is as good as absent. Throws SAFETENSORS_MALFORMED. */
export class HubKeys {
  constructor(
    readonly values: JsonObject,
    readonly path: string,
  ) {}

  present(key: string): boolean {
    return this.values[key] !== undefined && this.values[key] !== null;
  }

  string(key: string): string | undefined {
    return this.#typed(key, 'a string', (value) => typeof value === 'string');
  }

  number(key: string): number | undefined {
    return this.#typed(key, 'a number', (value) => typeof value === 'number');
  }

  boolean(key: string): boolean | undefined {
    return this.#typed(key, 'true or false', (value) => typeof value === 'boolean');
  }

  object(key: string): JsonObject | undefined {
    return this.#typed(key, 'an object', isObject);
  }

  /** What metadata can hold: the reader of the metadata knows which of these it has to be. */
  scalar(key: string): number | string | boolean | undefined {
    return this.#typed(key, 'a number', (value) => typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean');
  }

  #typed<T>(key: string, kind: string, is: (value: unknown) => value is T): T | undefined {
    const value = this.present(key) ? this.values[key] : undefined;
    if (value === undefined || is(value)) return value;
    throw malformedSafetensors(this.path, `${key} is not ${kind}`);
  }
}
