/** 98362432 as "98.4 MB". */
export function bytes(count: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit] ?? ''}`;
}

/** 0.0531 as "5.3%". */
export function percent(fraction: number): string {
  const hundredths = 100 * fraction;
  return `${hundredths < 10 ? hundredths.toPrecision(2) : hundredths.toFixed(0)}%`;
}

/** 8192 as "8,192". */
export function count(value: number): string {
  return value.toLocaleString('en');
}

/** Names and values, one a line, values below each other. */
export function table(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

/** Cells of a table, each column as wide as its widest cell; all but the first are flush right. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const padded = (cell: string, column: number) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0));
  return rows.map((row) => row.map(padded).join('  ').trimEnd()).join('\n');
}
