/**
 * How text is cut into words before byte-level BPE. The patterns are those of the models' own tokenizer.json
 * files, in Oniguruma's syntax, which @huggingface/tokenizers translates.
 */

/** Each numeric character alone (Unicode's N, not only ASCII's ten digits). */
export const digitPattern = String.raw`\p{N}`;

/** GPT-2: openai/gpt-2, encoder.py. */
export const gpt2Pattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Llama 3: its tokenizer.json. */
export const llama3Pattern = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** Qwen 2 and 3: their tokenizer.json. */
export const qwen2Pattern = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** Cuts by each pattern in turn, then spells every word in GPT-2's 256 letters for bytes. */
export function bytePreTokenizer(patterns: readonly string[]): object {
  return {
    type: 'Sequence',
    pretokenizers: [...patterns.map(isolated), { type: 'ByteLevel', add_prefix_space: false, use_regex: false }],
  };
}

/**
 * A tokenizer.json's pre-tokenizer, with the two kinds replaced for which @huggingface/tokenizers 0.2 does not match
 * what they mean: its Digits cuts at ASCII digits alone, and its ByteLevel uses JavaScript's \s (which has U+FEFF
 * and lacks U+0085), where the original uses Unicode's numbers and white space.
 */
export function faithfulPreTokenizer(description: unknown): unknown {
  if (typeof description !== 'object' || description === null || !('type' in description)) return description;
  const options = description as Record<string, unknown>;
  switch (options.type) {
    case 'Sequence':
      return Array.isArray(options.pretokenizers)
        ? { ...options, pretokenizers: options.pretokenizers.map(faithfulPreTokenizer) }
        : description;
    case 'Digits':
      return isolated(options.individual_digits === true ? digitPattern : `${digitPattern}+`);
    case 'ByteLevel':
      // A prefix space has to be there before the pattern runs, so only the common form without one is replaced.
      return options.use_regex === false || options.add_prefix_space === true ? description : bytePreTokenizer([gpt2Pattern]);
    default:
      return description;
  }
}

function isolated(pattern: string): object {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
