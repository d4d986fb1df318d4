import { createInterface } from 'node:readline/promises';
import { HISTORY_LINES, historyPath, readHistory, writeHistory } from './history-file.js';

/** Where a chat's messages come from. */
export interface Messages {
  /** The next message, which may have several lines; undefined at the end. One call at a time. */
  next(): Promise<string | undefined>;
}

/** A line that ends so goes on in the next one. */
const CONTINUED = '\\';
const PROMPT = '> ';
const MORE = '... ';
/** Has the terminal put marks around what is pasted, so that its line ends do not send it. */
const [PASTES_ON, PASTES_OFF] = ['\x1b[?2004h', '\x1b[?2004l'];

/** Messages of a pipe or file, one a line. */
export class PipedMessages implements Messages {
  readonly #lines: AsyncIterator<string>;

  constructor(input: NodeJS.ReadableStream, signal: AbortSignal) {
    this.#lines = createInterface({ input, signal })[Symbol.asyncIterator]();
  }

  async next(): Promise<string | undefined> {
    const parts: string[] = [];
    for (let line = await this.#lines.next(); line.done !== true; line = await this.#lines.next()) {
      if (!line.value.endsWith(CONTINUED)) return [...parts, line.value].join('\n');
      parts.push(line.value.slice(0, -1));
    }
    return parts.length === 0 ? undefined : parts.join('\n');
  }
}

/**
 * Messages typed at a terminal, with line editing and a history that lasts. The terminal is readline's only while a message
 * is typed: during an answer it is as it was, so that Ctrl-C is a signal.
 */
export class TypedMessages implements Messages {
  readonly #signal: AbortSignal;
  readonly #path = historyPath();
  #history: string[] | undefined;
  /** Typed before anyone asked for it: whole messages, and the beginning of one. */
  readonly #ahead: string[] = [];
  #begun = '';

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  async next(): Promise<string | undefined> {
    const ahead = this.#ahead.shift();
    if (ahead !== undefined) {
      process.stdout.write(`${PROMPT}${ahead}\n`);
      return ahead;
    }
    this.#history ??= await readHistory(this.#path);
    const message = await this.#edit(this.#history);
    // A history that cannot be kept is no reason to disturb a conversation.
    await writeHistory(this.#path, this.#history).catch(() => undefined);
    return message;
  }

  async #edit(history: string[]): Promise<string | undefined> {
    const { stdin: input, stdout: output } = process;
    const editor = createInterface({ input, output, terminal: true, history: [...history], historySize: HISTORY_LINES, removeHistoryDuplicates: true, signal: this.#signal });
    const parts: string[] = [];
    let pasting = false;
    let warned = false;
    let message: string | undefined;
    const keypress = (_: unknown, key: { name?: string; ctrl?: boolean } | undefined) => {
      if (key?.name === 'paste-start') pasting = true;
      if (key?.name === 'paste-end') pasting = false;
      if (key?.name !== 'c' || key.ctrl !== true) warned = false;
    };
    const ask = (prompt: string) => {
      editor.setPrompt(prompt);
      editor.prompt();
    };
    input.on('keypress', keypress);
    output.write(PASTES_ON);
    try {
      await new Promise<void>((resolve) => {
        editor.on('history', (lines: string[]) => { this.#history = lines; });
        editor.on('close', resolve);
        editor.on('SIGINT', () => {
          if (warned) {
            editor.close();
            return;
          }
          warned = parts.length === 0 && editor.line === '';
          parts.length = 0;
          editor.write(null, { ctrl: true, name: 'e' });
          editor.write(null, { ctrl: true, name: 'u' });
          output.write(warned ? '\n(Ctrl-C once more, or Ctrl-D, ends the chat)\n' : '\n');
          ask(PROMPT);
        });
        editor.on('line', (line) => {
          if (message !== undefined) {
            this.#ahead.push(line);
          } else if (pasting || line.endsWith(CONTINUED)) {
            parts.push(pasting ? line : line.slice(0, -1));
            ask(MORE);
          } else {
            message = [...parts, line].join('\n');
            // What else was typed comes in the same turn of the event loop.
            setImmediate(() => {
              this.#begun = editor.line;
              editor.close();
            });
          }
        });
        ask(PROMPT);
        editor.write(this.#begun);
        this.#begun = '';
      });
    } finally {
      input.off('keypress', keypress);
      output.write(PASTES_OFF);
      if (message === undefined) output.write('\n');
    }
    return message;
  }
}
