import { MagicpigError } from '../errors.js';
import type { GgufMetadata } from './gguf-metadata.js';
import { malformed, quoted } from './gguf-metadata.js';
import { bytePreTokenizer, digitPattern, gpt2Pattern, llama3Pattern, qwen2Pattern } from './pre-tokenizers.js';
import { mergesFromScores } from './sentencepiece.js';
import { readSiblingTokenizer } from './tokenizer-json.js';
import type { TokenizerSource } from './types.js';

/** Kinds of tokens, by ggml's numbers. */
export const TokenKind = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Control tokens that end a turn or a text but are not always named so by what comes with a model. */
export const endTokenTexts = new Set([
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '</s>',
]);

/** How the text is split before byte-level BPE, by GGUF's names for it. */
const preTokenizers: Readonly<Record<string, { patterns: readonly string[]; wholeWordsFirst?: true; addBos?: true; composed?: true }>> = {
  'gpt-2': { patterns: [gpt2Pattern] },
  // What converters write when they do not know better; GPT-2's is what the tokenizer model's own name says.
  default: { patterns: [gpt2Pattern] },
  smollm: { patterns: [digitPattern, gpt2Pattern] },
  qwen2: { patterns: [qwen2Pattern], composed: true },
  'llama-bpe': { patterns: [llama3Pattern], wholeWordsFirst: true, addBos: true },
};

/**
 * The tokenizer of a GGUF file. A tokenizer.json that lies beside the file is taken instead where it names the
 * same tokens: it is what the model was trained with, and the only way to use a pre-tokenizer not listed here.
 */
export async function readTokenizerSource(metadata: GgufMetadata): Promise<TokenizerSource> {
  const tokens = metadata.strings('tokenizer.ggml.tokens') ?? [];
  const kinds = tokenKinds(metadata, tokens.length);
  const id = (name: string) => tokenId(metadata, `tokenizer.ggml.${name}_token_id`, tokens.length);
  const bosToken = id('bos');
  const ends = new Set([id('eos'), id('eot'), id('eom')].filter((end) => end !== undefined));
  tokens.forEach((text, i) => {
    if (kinds[i] === TokenKind.control && endTokenTexts.has(text)) ends.add(i);
  });

  const vocabulary = { tokens, kinds, unknown: id('unknown') };
  const { tokenizerJson, addBos } = describe(metadata, vocabulary, await readSiblingTokenizer(metadata.path, tokens));
  return {
    tokenizerJson,
    tokenizerConfig: { clean_up_tokenization_spaces: false },
    bosToken,
    endTokens: [...ends],
    addBosToken: bosToken !== undefined && (metadata.boolean('tokenizer.ggml.add_bos_token') ?? addBos),
  };
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly kinds: ArrayLike<number>;
  readonly unknown: number | undefined;
}

function describe(metadata: GgufMetadata, vocabulary: Vocabulary, sibling: object | undefined): { tokenizerJson: object; addBos: boolean } {
  const model = metadata.string('tokenizer.ggml.model');
  const pre = metadata.string('tokenizer.ggml.pre') ?? 'default';
  if (sibling !== undefined) return { tokenizerJson: sibling, addBos: model === 'llama' || (preTokenizers[pre]?.addBos ?? false) };
  if (model === 'gpt2') return { tokenizerJson: byteLevelBpe(metadata, vocabulary, pre), addBos: preTokenizers[pre]?.addBos ?? false };
  if (model === 'llama') return { tokenizerJson: sentencePieceBpe(metadata, vocabulary), addBos: true };
  throw unsupported(metadata.path, model === undefined ? 'no tokenizer (tokenizer.ggml.model is missing)' : `the tokenizer ${quoted(model)}`);
}

function byteLevelBpe(metadata: GgufMetadata, vocabulary: Vocabulary, pre: string): object {
  const rules = Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined;
  if (rules === undefined) throw unsupported(metadata.path, `the pre-tokenizer ${quoted(pre)}`);
  const vocab = vocabularyObject(vocabulary);
  const merges = metadata.strings('tokenizer.ggml.merges');
  if (merges === undefined) throw malformed(metadata.path, 'tokenizer.ggml.merges is missing');
  for (const merge of merges) {
    const [left, right, ...rest] = merge.split(' ');
    if (!left || !right || rest.length > 0 || vocab[left + right] === undefined) {
      throw malformed(metadata.path, `the merge ${quoted(merge)} does not make a token`);
    }
  }
  return {
    normalizer: rules.composed ? { type: 'NFC' } : null,
    pre_tokenizer: bytePreTokenizer(rules.patterns),
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges, ignore_merges: rules.wholeWordsFirst ?? false },
    added_tokens: addedTokens(vocabulary),
  };
}

function sentencePieceBpe(metadata: GgufMetadata, vocabulary: Vocabulary): object {
  const { tokens, kinds } = vocabulary;
  const scores = metadata.numbers('tokenizer.ggml.scores');
  if (!(scores instanceof Float32Array) || scores.length !== tokens.length) {
    throw malformed(metadata.path, `tokenizer.ggml.scores does not give each of the ${tokens.length} tokens a score`);
  }
  // llama.cpp sets the space before every stretch of text, also after a special token, and so does this.
  const prefix = metadata.boolean('tokenizer.ggml.add_space_prefix') ?? true;
  const unknown = tokens[vocabulary.unknown ?? 0];
  return {
    normalizer: {
      type: 'Sequence',
      normalizers: [...(prefix ? [{ type: 'Prepend', prepend: '▁' }] : []), { type: 'Replace', pattern: { String: ' ' }, content: '▁' }],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      vocab: vocabularyObject(vocabulary),
      merges: mergesFromScores(tokens, scores, (token) => kinds[token] === TokenKind.normal || kinds[token] === TokenKind.userDefined),
      unk_token: unknown,
      fuse_unk: true,
      byte_fallback: true,
    },
    added_tokens: addedTokens(vocabulary),
  };
}

/** Without a prototype, so that a token called "__proto__" is a token. */
function vocabularyObject({ tokens }: Vocabulary): Record<string, number> {
  const vocab = Object.create(null) as Record<string, number>;
  tokens.forEach((token, id) => (vocab[token] = id));
  return vocab;
}

/** Tokens that are matched in the text before it is split. Special ones are matched only where asked for. */
function addedTokens({ tokens, kinds }: Vocabulary): object[] {
  return tokens.flatMap((content, id) => {
    const kind = kinds[id];
    if (content === '' || (kind !== TokenKind.control && kind !== TokenKind.userDefined && kind !== TokenKind.unknown)) return [];
    return [{ id, content, special: kind !== TokenKind.userDefined, normalized: false, single_word: false, lstrip: false, rstrip: false }];
  });
}

function tokenKinds(metadata: GgufMetadata, vocabSize: number): ArrayLike<number> {
  const kinds = metadata.numbers('tokenizer.ggml.token_type');
  if (kinds === undefined) return new Uint8Array(vocabSize).fill(TokenKind.normal);
  if (kinds.length !== vocabSize || kinds instanceof BigInt64Array || kinds instanceof BigUint64Array) {
    throw malformed(metadata.path, `tokenizer.ggml.token_type does not give each of the ${vocabSize} tokens a kind`);
  }
  return kinds;
}

function tokenId(metadata: GgufMetadata, key: string, vocabSize: number): number | undefined {
  return metadata.has(key) ? metadata.count(key, { min: 0, max: vocabSize - 1 }) : undefined;
}

function unsupported(path: string, what: string): MagicpigError {
  return new MagicpigError(
    'UNSUPPORTED_TOKENIZER',
    `${path} has ${what}; magicpig knows "llama" and, of "gpt2", the pre-tokenizers ${Object.keys(preTokenizers).join(', ')}, or put the model's tokenizer.json beside the file`,
  );
}
