/** What was given in the place of something else, as a sentence has it: `"2"`, `null`, `a list`, `a Buffer`. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return 'a function';
    case 'object':
      if (value === null) return 'null';
      return Array.isArray(value) ? 'a list' : withArticle(nameOf(value));
    default:
      return String(value);
  }
}

/** The name of a property: as it is, where it is one word. */
export function nameShown(name: string): string {
  return /^\w{1,60}$/.test(name) ? name : shown(name);
}

/** Of its class, where it has one of its own. */
export function nameOf(value: object): string {
  const { constructor } = value as { constructor?: unknown };
  return typeof constructor !== 'function' || constructor === Object || constructor.name === '' ? 'object' : constructor.name;
}

function withArticle(name: string): string {
  return `${/^[aeio]/i.test(name) ? 'an' : 'a'} ${name}`;
}
