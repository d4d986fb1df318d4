import type { CommandModule, InferredOptionTypes } from 'yargs';
import { type PolicyName, policyNames } from '../decode/options.js';
import { MagicpigError } from '../errors.js';
import { type Command, commandFrom, help } from './chat/commands.js';
import { Conversation } from './chat/conversation.js';
import { type Messages, PipedMessages, TypedMessages } from './chat/messages.js';
import { bytes, count, table } from './format.js';
import { checked, closingLine, generationOptions, load } from './generate.js';
import type { Terminal } from './terminal.js';

const options = {
  ...generationOptions,
  'max-tokens': { ...generationOptions['max-tokens'], default: 1024, describe: 'Tokens of an answer at most' },
  session: { type: 'string', describe: 'The folder that keeps the conversation, and goes on with the one that it has' },
  file: { alias: 'f', type: 'string', array: true, describe: 'A document to talk about; may be given several times. One that the session has is not read again' },
  system: { type: 'string', describe: 'What the model is told before a new conversation' },
} as const;

type Arguments = InferredOptionTypes<typeof options>;

/** A turn of the result with `--json`. */
interface Report {
  readonly prompt: string;
  readonly [figure: string]: unknown;
}

export const chat = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'chat',
  describe: 'Talk with a model, also about documents',
  builder: (yargs) =>
    yargs
      .options(options)
      .example('$0 chat', 'talk; /help lists the commands, Ctrl-C stops an answer')
      .example('$0 chat -f book.md --session book.kv', 'talk about a book, and go on another day without reading it again')
      .example('$0 chat -f notes.md < questions.txt', 'answer the questions in a file, one a line'),
  handler: (args) => run(args, terminal),
});

async function run(args: Arguments, terminal: Terminal): Promise<void> {
  const { policy, sampling } = await checked(args);
  using progress = terminal.progress();
  await using model = await load(args, terminal, progress);
  using conversation = await Conversation.begin({
    model,
    session: { ...policy, rows: args.rows },
    generate: { ...sampling, maxTokens: args['max-tokens'], stop: args.stop },
    system: args.system,
  }, args.session);
  const chatting = new Chat(conversation, terminal, model.context);
  if (args.system !== undefined && conversation.tokens.length > 0) terminal.note('the conversation has begun already; --system is left out');
  for (const path of args.file ?? []) await chatting.attach(path);

  const typed = process.stdin.isTTY && process.stdout.isTTY && !terminal.json;
  if (typed) terminal.note(`${args.model}, ${chatting.room()}; /help lists commands, Ctrl-D ends`);
  await chatting.run(typed ? new TypedMessages(terminal.signal) : new PipedMessages(process.stdin, terminal.signal), typed);
  terminal.result({ model: args.model, device: model.device, policy: conversation.stats().policy, tokens: conversation.tokens.length, turns: chatting.reports });
}

/** The turns of a conversation, as they are typed and shown. */
class Chat {
  readonly #conversation: Conversation;
  readonly #terminal: Terminal;
  readonly #context: number;
  readonly reports: Report[] = [];

  constructor(conversation: Conversation, terminal: Terminal, context: number) {
    this.#conversation = conversation;
    this.#terminal = terminal;
    this.#context = context;
  }

  /** Answers until the messages end. What goes wrong is told, and the chat goes on; a script's exit code remembers it. */
  async run(messages: Messages, typed: boolean): Promise<void> {
    const terminal = this.#terminal;
    for (;;) {
      const message = await messages.next();
      if (terminal.signal.aborted) throw new MagicpigError('ABORTED', 'aborted by the caller');
      if (message === undefined) return;
      try {
        const command = commandFrom(message);
        if (command?.name === 'exit') return;
        if (command !== undefined) await this.#command(command);
        else if (message.trim() !== '') await this.#turn(message.trim(), typed);
      } catch (error) {
        if (!MagicpigError.isInstance(error) || this.#terminal.signal.aborted) throw error;
        this.#complain(error, message, typed);
      }
    }
  }

  async attach(path: string): Promise<void> {
    const { name, tokens, there } = await this.#conversation.attach(path);
    this.#terminal.note(there ? `${name} is in the conversation already` : `${name}: ${count(tokens)} tokens, read with the next message`);
  }

  room(): string {
    return `${count(this.#conversation.tokens.length)} of ${count(this.#context)} tokens`;
  }

  async #turn(message: string, typed: boolean): Promise<void> {
    const terminal = this.#terminal;
    const conversation = this.#conversation;
    using progress = terminal.progress();
    let shown = '';
    const say = (signal: AbortSignal) => conversation.say(message, {
      signal,
      onProgress: ({ done, total }) => { progress.update('reading', done, total, 'tokens'); },
      onText: (text) => {
        progress[Symbol.dispose]();
        shown += text;
        terminal.stream(text);
      },
    });
    try {
      // A pipe has no prompt to return to: there Ctrl-C ends the command.
      await (typed ? terminal.interruptible(say) : say(terminal.signal));
    } finally {
      if (shown !== '') terminal.stream('\n');
    }
    const { promptTokens, generatedTokens, prefillSeconds, decodeMsPerToken, keysRead, finishReason } = conversation.stats();
    this.reports.push({ prompt: message, text: shown, promptTokens, generatedTokens, prefillSeconds, decodeMsPerToken, keysRead, finishReason });
    if (finishReason !== 'length') return;
    const full = conversation.tokens.length >= this.#context;
    terminal.note(full ? `(the context of ${count(this.#context)} tokens is full; /reset begins anew)` : `(cut after ${count(generatedTokens)} tokens; --max-tokens allows more)`);
  }

  async #command({ name, argument }: Command): Promise<void> {
    const conversation = this.#conversation;
    const terminal = this.#terminal;
    switch (name) {
      case 'help':
        terminal.note(help);
        break;
      case 'file':
        await this.attach(argument);
        break;
      case 'save':
        await conversation.save(argument);
        terminal.note(`${argument} has the conversation as it is now`);
        break;
      case 'load':
        await conversation.load(argument);
        terminal.note(`${argument}: ${this.room()}`);
        break;
      case 'stats':
        terminal.note(this.#stats());
        break;
      case 'policy':
        terminal.note(this.#policy(argument));
        break;
      case 'reset':
        await conversation.reset();
        terminal.note('everything that was said is forgotten');
        break;
    }
  }

  #policy(argument: string): string {
    if (argument !== '') {
      const [policy, budget, ...rest] = argument.split(/\s+/);
      if (rest.length > 0) throw new MagicpigError('INVALID_OPTION', '/policy takes a name and a budget, such as: sketch 0.02');
      this.#conversation.setPolicy({ policy: policy as PolicyName, budget: budget === undefined ? undefined : Number(budget) });
    }
    return `policy ${this.#conversation.stats().policy}${argument === '' ? `; /policy NAME takes another: ${policyNames.join(', ')}` : ''}`;
  }

  #stats(): string {
    const stats = this.#conversation.stats();
    return table([
      ['conversation', this.room()],
      ['kept in', this.#conversation.directory ?? 'no folder; /save DIR keeps a copy'],
      ['policy', stats.policy],
      ['last turn', closingLine(stats)],
      ['rows', bytes(stats.rowBytes)],
    ]);
  }

  #complain(error: MagicpigError, prompt: string, typed: boolean): void {
    const { code } = error;
    const full = code === 'CONTEXT_EXCEEDED' && this.#conversation.tokens.length > 0 && !prompt.startsWith('/');
    const message = full ? `${error.message}; or /reset begins anew` : error.message;
    this.reports.push({ prompt, error: { code, message } });
    this.#terminal.note(code === 'ABORTED' ? '(stopped)' : `magicpig: ${message}`);
    if (!typed) process.exitCode = 1;
  }
}
