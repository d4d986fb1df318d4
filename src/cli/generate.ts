import { existsSync } from 'node:fs';
import type { CommandModule, InferredOptionTypes } from 'yargs';
import type { Model, OpenSessionOptions } from '../decode/model.js';
import type { PolicyOptions, SamplingOptions } from '../decode/options.js';
import type { Session, SessionStats } from '../decode/session.js';
import { MagicpigError } from '../errors.js';
import { bytes, count, percent } from './format.js';
import { DEFAULT_MODEL, REF_HELP } from './model-option.js';
import { policyOf, policyOptions } from './policy-options.js';
import { rowsOption } from './rows-option.js';
import { chosenDevice, runtimeOf, runtimeOptions } from './runtime-options.js';
import type { Progress, Terminal } from './terminal.js';
import { readTextFile, readTextStream } from './text-file.js';

/** Of every command that generates. */
export const generationOptions = {
  model: { alias: 'm', type: 'string', default: DEFAULT_MODEL, describe: `The model: ${REF_HELP}` },
  'max-tokens': { alias: 'n', type: 'number', default: 256, describe: 'Tokens to generate at most' },
  ...policyOptions,
  tuned: { type: 'boolean', default: true, describe: 'Take what tune chose for the model where no option says otherwise; --no-tuned does not' },
  rows: rowsOption,
  temperature: { alias: 't', type: 'number', default: 0, describe: 'Divides logits; 0 always takes the most likely token' },
  'top-k': { type: 'number', default: 0, describe: 'Keep this many of the most likely tokens; 0 keeps all' },
  'top-p': { type: 'number', default: 1, describe: 'Keep the fewest tokens that together have this probability' },
  'min-p': { type: 'number', default: 0, describe: "Keep tokens with this fraction of the most likely one's probability" },
  'repetition-penalty': { type: 'number', default: 1, describe: 'Make tokens among the last 64 less likely; 1 is none' },
  session: { type: 'string', describe: 'The folder of a session: what it has of the text is not read again, and it keeps what is read and written; without a prompt it is continued' },
  stop: { type: 'string', array: true, describe: 'A text that ends the generation; may be given several times' },
  seed: { type: 'number', default: 0, describe: 'The same seed gives the same text' },
  ...runtimeOptions,
} as const;

const options = {
  prompt: { alias: 'p', type: 'string', describe: 'The text to continue' },
  'prompt-file': { alias: 'f', type: 'string', describe: 'The file that holds the text to continue; - is standard input' },
  'read-only': { type: 'boolean', default: false, describe: 'With --session: leave the folder as it is; others may use it at the same time' },
  ...generationOptions,
} as const;

type Arguments = InferredOptionTypes<typeof options>;
type Shared = InferredOptionTypes<typeof generationOptions>;

export const generate = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'generate',
  describe: 'Read a text and continue it',
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 generate -f notes.md -n 200', 'continue a file with sampled attention')
      .example('$0 generate -f book.md --session book.kv', 'read a book once; the next time it is there at once')
      .example('$0 generate --session book.kv', 'go on where that session is')
      .example('$0 generate -p "Once upon a time" --policy exact -t 0.8', 'read every key, and draw tokens'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const prompt = await promptOf(args);
  using progress = terminal.progress();
  const { policy, sampling } = await checked(args);
  await using model = await load(args, terminal, progress);
  const begun = args.session !== undefined && !existsSync(args.session);
  using session = args.session === undefined
    ? model.createSession({ ...policy, rows: args.rows, seed: args.seed })
    : await opened(model, args.session, { ...policy, rows: args.rows, readOnly: args['read-only'], create: prompt !== undefined && !args['read-only'] });
  if (prompt === undefined && session.tokens.length === 0) throw nothingToRead();
  if (prompt !== undefined) {
    checkSameText(args.session, session.tokens, model.tokenizer.encode(prompt));
    try {
      await session.prefill(prompt, {
        whole: true,
        signal,
        onProgress: ({ done, total }) => { progress.update('reading', done, total, 'tokens'); },
      });
    } catch (error) {
      progress[Symbol.dispose]();
      if (args.session !== undefined) await leave(args.session, session, begun, terminal);
      throw error;
    }
  }
  progress[Symbol.dispose]();

  const pieces: string[] = [];
  const tokens: number[] = [];
  try {
    for await (const { token, text } of session.generate({ ...sampling, maxTokens: args['max-tokens'], stop: args.stop, signal })) {
      tokens.push(token);
      pieces.push(text);
      terminal.stream(text);
    }
  } finally {
    terminal.stream('\n');
  }
  const stats = session.stats();
  terminal.note(closingLine(stats));
  if (stats.finishReason === 'length' && session.tokens.length >= model.context) terminal.note(contextFull(model));
  terminal.result({
    model: args.model,
    device: model.device,
    policy: stats.policy,
    text: pieces.join(''),
    tokens,
    promptTokens: stats.promptTokens,
    reusedTokens: stats.reusedTokens,
    generatedTokens: stats.generatedTokens,
    prefillSeconds: stats.prefillSeconds,
    decodeMsPerToken: stats.decodeMsPerToken,
    attendMsPerToken: stats.attendMsPerToken,
    keysRead: stats.keysRead,
    ...(stats.relativeError && { relativeError: stats.relativeError }),
    indexBytesPerKey: stats.indexBytesPerKey,
    finishReason: stats.finishReason,
    ...(stats.tuned && { tuned: true }),
    // Node reports kibibytes.
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  });
}

/** Options of policy and sampling. What is wrong with them is told before a model is downloaded or a text is read. */
export async function checked(args: Shared): Promise<{ policy: PolicyOptions; sampling: SamplingOptions & { seed: number } }> {
  const { samplingFrom, policyFrom, integer } = await import('../decode/options.js');
  const policy = { ...policyOf(args), tuned: args.tuned };
  policyFrom(policy);
  const sampling = {
    temperature: args.temperature,
    topK: args['top-k'],
    topP: args['top-p'],
    minP: args['min-p'],
    repetitionPenalty: args['repetition-penalty'],
    seed: args.seed,
  };
  samplingFrom(sampling);
  integer('maxTokens', args['max-tokens'], 0, 2 ** 31);
  return { policy, sampling };
}

/** The model that the options name, under a progress bar. Tells people which device was chosen, where they left it open. */
export async function load(args: Shared, terminal: Terminal, progress: Progress): Promise<Model> {
  const { loadModel } = await import('../decode/model.js');
  const model = await loadModel(args.model, {
    ...runtimeOf(args),
    signal: terminal.signal,
    onProgress: ({ phase, done, total }) => {
      if (phase === 'download') progress.update('downloading', done, total, 'bytes');
      else progress.update('loading', done, total, 'parts');
    },
  });
  progress[Symbol.dispose]();
  const { contextLength } = model.config;
  if (model.context > contextLength) {
    terminal.note(`the model was trained for ${count(contextLength)} tokens; what it says of a text that is longer may be nonsense`);
  }
  if (args.device === 'auto') terminal.note(chosenDevice(model.device));
  return model;
}

/** The session in a folder. Its seed is its own: `--seed` is about the tokens that are drawn, and may be another each time. */
async function opened(model: Model, directory: string, options: OpenSessionOptions): Promise<Session> {
  return await model.openSession(directory, options).catch((error: unknown) => {
    if (!MagicpigError.isInstance(error) || error.code !== 'SESSION_NOT_FOUND' || options.readOnly === true) throw error;
    throw new MagicpigError(error.code, `${error.message}; begin one with --prompt TEXT or --prompt-file FILE`, { cause: error });
  });
}

/** After a text that was not read to its end: says what is kept, and leaves no session behind that began with it and has nothing. */
async function leave(directory: string, session: Session, begun: boolean, terminal: Terminal): Promise<void> {
  const kept = session.tokens.length;
  if (terminal.signal.aborted) terminal.note(kept === 0 ? 'nothing of the text is kept yet' : `${directory} has ${count(kept)} tokens; the same command goes on from there`);
  if (kept > 0 || !begun) return;
  session[Symbol.dispose]();
  const { removeSession } = await import('../decode/sessions.js');
  removeSession(directory);
}

/** What ends a text before --max-tokens does. */
function contextFull({ context, config }: Model): string {
  const more = context < config.contextLength ? '; --context allows more' : '';
  return `the context of ${count(context)} tokens is full${more}`;
}

/** A slip of the folder's name must not cost a text that took an hour to read: its second token has to be the prompt's too. */
function checkSameText(directory: string | undefined, kept: readonly number[], prompt: readonly number[]): void {
  // The first one may be the token that every text begins with.
  if (directory === undefined || kept.length < 2 || prompt[1] === kept[1]) return;
  throw new MagicpigError(
    'INVALID_OPTION',
    `the session in ${directory} holds another text, of ${count(kept.length)} tokens; choose another folder, or remove it with "sessions rm"`,
  );
}

/** Undefined where a session is to go on from where it is. */
async function promptOf({ prompt, 'prompt-file': file, session, 'read-only': readOnly }: Arguments): Promise<string | undefined> {
  if (readOnly && session === undefined) throw new MagicpigError('INVALID_OPTION', '--read-only is about a session; name one with --session DIR');
  if (prompt !== undefined && file !== undefined) throw new MagicpigError('INVALID_OPTION', 'give --prompt or --prompt-file, not both');
  if (prompt !== undefined) return prompt;
  if (file !== undefined) return await (file === '-' ? readTextStream(process.stdin) : readTextFile(file));
  if (session === undefined) throw nothingToRead();
  return undefined;
}

function nothingToRead(): MagicpigError {
  return new MagicpigError('INVALID_OPTION', 'there is nothing to read: give --prompt TEXT or --prompt-file FILE; -f - reads standard input');
}

/** What was read and written, in one line. */
export function closingLine(stats: SessionStats): string {
  const { promptTokens, reusedTokens, prefillSeconds, generatedTokens, decodeMsPerToken, attendMsPerToken } = stats;
  const reused = reusedTokens > 0 ? ` and ${count(reusedTokens)} reused` : '';
  const read = promptTokens === 0 ? 'nothing read' : `${count(promptTokens - reusedTokens)} tokens read in ${prefillSeconds.toFixed(1)} s${reused}`;
  const written = `${count(generatedTokens)} written at ${decodeMsPerToken.toFixed(1)} ms each (attention ${attendMsPerToken.toFixed(1)} ms)`;
  const { relativeError } = stats;
  const errors = relativeError === undefined ? '' : ` for an error of ${relativeError.mean.toPrecision(2)} (at most ${relativeError.max.toPrecision(2)})`;
  const index = stats.indexBytes > 0 ? `, index ${bytes(stats.indexBytes)}` : '';
  return `${read}; ${written}; ${percent(stats.keysRead)} of keys read${errors}${index}${stats.tuned ? `; ${stats.policy} as tuned` : ''}`;
}
