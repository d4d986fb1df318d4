import * as library from '@huggingface/tokenizers';
import { MagicpigError } from '../errors.js';
import { StreamDecoder } from './stream-decoder.js';
import type { TokenizerSource } from './types.js';

/** What is used of the library, whose own type files do not resolve under Node's module rules. */
interface HuggingFaceTokenizer {
  model: { readonly vocab: readonly (string | undefined)[] };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: readonly number[], options: { clean_up_tokenization_spaces: boolean }): string;
  id_to_token(id: number): string | undefined;
  get_added_tokens_decoder(): ReadonlyMap<number, { readonly special: boolean }>;
}
const { Tokenizer: HuggingFaceTokenizer } = library as unknown as {
  Tokenizer: new (tokenizerJson: object, tokenizerConfig: object) => HuggingFaceTokenizer;
};

export interface EncodeOptions {
  /** Whether the beginning-of-text token comes first. Default: as the model wants it, and never twice. */
  readonly addBos?: boolean;
  /**
   * Whether the text of a special token (`<|im_start|>`) becomes that token. Right for a rendered chat template;
   * wrong for what a user typed, who could otherwise end a turn or begin another's. Default false.
   */
  readonly parseSpecial?: boolean;
}

export interface DecodeOptions {
  /** Whether special tokens appear in the text. Default false. */
  readonly keepSpecial?: boolean;
}

/** Text to tokens and back. Encoding takes time proportional to n log n in the text's length. */
export class Tokenizer {
  readonly vocabSize: number;
  readonly bosToken: number | undefined;
  /** Every token that ends a turn or a text; the one that the model names as its end first. */
  readonly endTokens: readonly number[];
  readonly #addBos: boolean;
  readonly #withSpecial: HuggingFaceTokenizer;
  readonly #withoutSpecial: HuggingFaceTokenizer;
  readonly #special: ReadonlySet<number>;

  /** Throws UNSUPPORTED_TOKENIZER for a description that @huggingface/tokenizers does not understand. */
  constructor(source: TokenizerSource) {
    try {
      [this.#withSpecial, this.#withoutSpecial] = build(source);
    } catch (error) {
      throw new MagicpigError('UNSUPPORTED_TOKENIZER', `the model's tokenizer cannot be used: ${String(error)}`, { cause: error });
    }
    const added = [...this.#withSpecial.get_added_tokens_decoder()];
    this.#special = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
    this.vocabSize = this.#withSpecial.model.vocab.length;
    this.bosToken = source.bosToken;
    this.endTokens = source.endTokens;
    this.#addBos = source.addBosToken;
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const tokenizer = options.parseSpecial ? this.#withSpecial : this.#withoutSpecial;
    const { ids } = tokenizer.encode(text, { add_special_tokens: false });
    const addBos = options.addBos ?? (this.#addBos && ids[0] !== this.bosToken);
    return addBos && this.bosToken !== undefined ? [this.bosToken, ...ids] : ids;
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const shown = options.keepSpecial ? [...ids] : ids.filter((id) => !this.#special.has(id));
    // The clean-up would drop spaces before punctuation that the model did write.
    return shown.length === 0 ? '' : this.#withSpecial.decode(shown, { clean_up_tokenization_spaces: false });
  }

  /** A decoder for tokens that come one at a time: what it yields, put together, is `decode` of all of them. */
  stream(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder((ids) => this.decode(ids, options));
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** A token's own spelling, as a chat template writes it ("<|im_end|>"), or undefined for a number that is none. */
  tokenText(id: number): string | undefined {
    return this.#withSpecial.id_to_token(id);
  }
}

/** Two readers of text that share one vocabulary: one matches special tokens in it, the other does not. */
function build(source: TokenizerSource): [HuggingFaceTokenizer, HuggingFaceTokenizer] {
  const withSpecial = new HuggingFaceTokenizer(source.tokenizerJson, source.tokenizerConfig);
  const { added_tokens: added } = source.tokenizerJson as { added_tokens: readonly { special?: boolean }[] };
  const withoutSpecial = new HuggingFaceTokenizer(
    { ...source.tokenizerJson, model: { type: 'BPE', vocab: {}, merges: [] }, added_tokens: added.filter(({ special }) => special !== true) },
    source.tokenizerConfig,
  );
  withoutSpecial.model = withSpecial.model;
  return [withSpecial, withoutSpecial];
}
