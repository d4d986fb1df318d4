/** The name that a misspelt word is near enough to: two letters off at most, and fewer in short words. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  const limit = Math.min(2, Math.floor(word.length / 2));
  const off = names.map((name) => ({ name, distance: distance(word, name) })).sort((a, b) => a.distance - b.distance);
  return off.find((near) => near.distance <= limit)?.name;
}

/** Letters to insert, remove or replace. */
function distance(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (const [row, letter] of Array.from(a).entries()) {
    const line = [row + 1];
    for (const [column, other] of Array.from(b).entries()) {
      line.push(Math.min((above[column] ?? 0) + (letter === other ? 0 : 1), (above[column + 1] ?? 0) + 1, (line[column] ?? 0) + 1));
    }
    above = line;
  }
  return above.at(-1) ?? 0;
}
