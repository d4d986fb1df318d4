/** What is used of JSON schema. */
export interface Schema {
  readonly type?: string | readonly string[];
  readonly anyOf?: readonly Schema[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly pattern?: string;
  readonly minLength?: number;
}

/** Values that break what expects another. */
const odd: readonly unknown[] = [null, true, '', 'x', '\u0000', '\ud800', -1, 0, 0.5, 1e9, 1e300, -1e300, [], {}, [[]], { a: null }, 'x'.repeat(3000), Array.from({ length: 50 }, () => 'a'), { __proto__: 5 }, '../..'];

/**
 * Values by a JSON schema: right ones, but that each part may be replaced by something else, with a probability of `wrong`.
 * @param random numbers in [0, 1)
 */
export function valueOf(schema: Schema, random: () => number, wrong: number): unknown {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  if (random() < wrong) return pick(odd);
  if (schema.const !== undefined) return schema.const;
  if (schema.enum !== undefined) return pick(schema.enum);
  if (schema.anyOf !== undefined) return valueOf(pick(schema.anyOf), random, wrong);
  const type = typeof schema.type === 'string' ? schema.type : pick(schema.type ?? ['string', 'number', 'object']);
  switch (type) {
    case 'object': {
      const required = schema.required ?? [];
      const entries = Object.entries(schema.properties ?? {}).filter(([name]) => (required.includes(name) ? random() >= wrong / 3 : random() < 0.25));
      return Object.fromEntries(entries.map(([name, part]) => [name, valueOf(part, random, wrong)]));
    }
    case 'array':
      return Array.from({ length: between(schema.minItems ?? 0, Math.min(schema.maxItems ?? 3, (schema.minItems ?? 0) + 3)) }, () => valueOf(schema.items ?? {}, random, wrong));
    case 'number':
    case 'integer': {
      const [low, high] = [schema.minimum ?? schema.exclusiveMinimum ?? 0, Math.min(schema.maximum ?? 8, 8)];
      const value = low < -1e6 ? between(-1000, 1000) : low + random() * (high - low);
      return type === 'integer' ? Math.ceil(value) : value;
    }
    case 'boolean':
      return random() < 0.5;
    case 'null':
      return null;
    default:
      return pick(schema.pattern === undefined ? ['hello', 'a longer text, with some words', 'ü', '{"a":1}', '<tool_call>', '<|im_end|>'] : ['a', 'b', 'c', 'session-1']);
  }
}
