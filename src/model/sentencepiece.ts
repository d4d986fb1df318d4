/** No vocabulary in use has a longer piece; trying every split of a longer one would be quadratic in its length. */
const maxPieceLength = 128;

/**
 * SentencePiece's BPE joins the neighbours whose union has the best score. The same as a list of merges, best first:
 * every way to split a piece into two others, by falling score, then by falling length of the left half (the order of
 * Hugging Face's converter).
 *
 * @param mayMerge whether merging may produce the token of this id (control and byte tokens are never produced)
 */
export function mergesFromScores(pieces: readonly string[], scores: Float32Array, mayMerge: (id: number) => boolean): [string, string][] {
  const known = new Set(pieces.filter((_, id) => mayMerge(id)));
  const merges: { left: string; right: string; score: number }[] = [];
  pieces.forEach((piece, id) => {
    if (!mayMerge(id) || piece.length > maxPieceLength) return;
    for (let cut = 1; cut < piece.length; cut++) {
      const left = piece.slice(0, cut);
      if (!known.has(left)) continue;
      const right = piece.slice(cut);
      if (known.has(right)) merges.push({ left, right, score: scores[id] ?? 0 });
    }
  });
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return merges.map(({ left, right }) => [left, right]);
}
