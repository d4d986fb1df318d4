import { constants } from 'node:os';
import cliProgress from 'cli-progress';
import { type ErrorCode, MagicpigError } from '../errors.js';

/** What a command writes to, and what stops it. */
export class Terminal {
  /** Whether stdout is to be exactly one JSON object. */
  readonly json: boolean;
  /** Aborted by the first Ctrl-C or SIGTERM; a second one ends the process at once. */
  readonly signal: AbortSignal;
  #stoppedBy: 'SIGINT' | 'SIGTERM' | undefined;
  #interruptible: AbortController | undefined;

  constructor(json: boolean) {
    this.json = json;
    const controller = new AbortController();
    this.signal = controller.signal;
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.on(name, () => {
        if (name === 'SIGINT' && this.#interruptible !== undefined) {
          this.#interruptible.abort();
          return;
        }
        if (this.#stoppedBy !== undefined) endBy(name);
        this.#stoppedBy = name;
        controller.abort();
      });
    }
    // A reader that has seen enough, such as `head`, is no failure.
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      process.exit(0);
    });
  }

  /** Runs a part of the command that Ctrl-C stops alone; SIGTERM ends the command as ever. */
  async interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    this.#interruptible = controller;
    try {
      return await work(AbortSignal.any([this.signal, controller.signal]));
    } finally {
      this.#interruptible = undefined;
    }
  }

  /** Waits for work that cannot be stopped and leaves nothing behind: Ctrl-C or SIGTERM says so and ends the process at once. */
  async unstoppable<T>(work: () => Promise<T>): Promise<T> {
    const end = () => {
      this.failure(new MagicpigError('ABORTED', 'aborted by the caller'));
      endBy(this.#stoppedBy ?? 'SIGTERM');
    };
    if (this.signal.aborted) end();
    this.signal.addEventListener('abort', end, { once: true });
    try {
      return await work();
    } finally {
      this.signal.removeEventListener('abort', end);
    }
  }

  /** Text for people, as it comes; nothing with `--json`. */
  stream(text: string): void {
    if (!this.json) process.stdout.write(text);
  }

  /** A line for people beside the result. */
  note(text: string): void {
    if (!this.json) process.stderr.write(`${text}\n`);
  }

  /** The result of the command, once, at its end: the object with `--json`, else the text, if there is one. */
  result(result: object, text?: string): void {
    if (this.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else if (text !== undefined) process.stdout.write(`${text}\n`);
  }

  /** One line for what went wrong; the process's exit code: 1 failed, 2 wrong usage, 128 + n for a signal. */
  failure(error: MagicpigError): number {
    const { code } = error;
    const stoppedBy = code === 'ABORTED' ? this.#stoppedBy : undefined;
    const message = stoppedBy === undefined ? error.message : 'interrupted';
    if (this.json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
    else process.stderr.write(`magicpig: ${message}\n`);
    if (stoppedBy !== undefined) return 128 + constants.signals[stoppedBy];
    return exitCode(code);
  }

  /** A progress bar on stderr, where that is a terminal. Dispose of it before anything else is written. */
  progress(): Progress {
    return new Progress(process.stderr.isTTY);
  }
}

/** Ends as if the signal had not been caught, which a shell tells as 128 + n too: `process.exit` waits for what threads still compute. */
function endBy(name: 'SIGINT' | 'SIGTERM'): never {
  process.removeAllListeners(name);
  process.kill(process.pid, name);
  process.exit(128 + constants.signals[name]);
}

/** 2 for wrong usage, 1 for what failed. */
export function exitCode(code: ErrorCode): 1 | 2 {
  return code === 'INVALID_OPTION' || code === 'EMPTY_PROMPT' ? 2 : 1;
}

/** A bar that shows how far one phase after the other is. */
export class Progress implements Disposable {
  readonly #shown: boolean;
  #phase: string | undefined;
  #bar: cliProgress.SingleBar | undefined;

  constructor(shown: boolean) {
    this.#shown = shown;
  }

  /** A phase that is new begins a bar of its own. A `total` of 0 is one that nobody knows yet. */
  update(phase: string, done: number, total: number, unit: 'bytes' | 'tokens' | 'parts' | 'samples'): void {
    if (!this.#shown || total === 0) return;
    if (phase !== this.#phase) {
      this[Symbol.dispose]();
      const [divisor, name] = unit === 'bytes' ? [1e6, 'MB'] : [1, unit];
      this.#bar = new cliProgress.SingleBar({
        format: `${phase.padEnd(11)} {bar} {percentage}% | {value}/{total} ${name} | for {duration_formatted}`,
        formatValue: (value, _options, type) => (type === 'value' || type === 'total' ? (value / divisor).toFixed(0) : String(value)),
        barCompleteChar: '█',
        barIncompleteChar: '░',
        barsize: 30,
        hideCursor: true,
        clearOnComplete: true,
        stream: process.stderr,
      });
      this.#bar.start(total, done);
      this.#phase = phase;
    }
    this.#bar?.setTotal(total);
    this.#bar?.update(Math.min(done, total));
  }

  [Symbol.dispose](): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#phase = undefined;
  }
}
