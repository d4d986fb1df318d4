import { Worker } from 'node:worker_threads';
import { refuseTelemetry } from '../../decode/device.js';
import { type ErrorCode, MagicpigError } from '../../errors.js';
import { EventQueue } from './event-queue.js';
import type { FromWorker, GenerateEvent, GenerateRequest, ModelInfo, Questions, ToWorker, WorkerOptions } from './protocol.js';

/**
 * Megabytes of V8's young generation in the model's thread, whose objects live for a token or a request. Its default of 48 is taken
 * over thousands of requests, and never given back.
 */
const YOUNG_MB = 12;

/** The model's thread, as the thread that speaks HTTP sees it. */
export class Engine {
  readonly info: ModelInfo;
  readonly #worker: Worker;
  readonly #running = new Map<number, (event: GenerateEvent) => void>();
  readonly #asked = new Map<number, { resolve: (answer: never) => void; reject: (error: Error) => void }>();
  #next = 0;
  #closing = false;
  #lost = false;

  private constructor(worker: Worker, info: ModelInfo, onLost: (error: Error) => void) {
    this.#worker = worker;
    this.info = info;
    worker.on('message', (message: FromWorker) => { this.#receive(message); });
    worker.on('error', (error) => { this.#lose(error, onLost); });
    worker.on('exit', () => { this.#lose(new Error('the thread of the model ended'), onLost); });
  }

  /**
   * Loads the model in a thread. `onLost` is called when that thread ends without having been closed: nothing can be
   * generated any more. Throws what {@link loadModel} does.
   */
  static async start(options: WorkerOptions, signal: AbortSignal | undefined, onLost: (error: Error) => void): Promise<Engine> {
    refuseTelemetry();
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: options, resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB } });
    const stop = () => { void worker.terminate(); };
    signal?.addEventListener('abort', stop);
    try {
      const first = await new Promise<FromWorker>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
        worker.once('exit', () => {
          reject(new MagicpigError('ABORTED', 'the model was not loaded to its end'));
        });
      });
      if (first.kind === 'unready') throw new MagicpigError(first.code, first.message);
      if (first.kind !== 'ready') throw new Error(`the thread of the model began with ${first.kind}`);
      return new Engine(worker, first.info, onLost);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  /**
   * Works on a request, whether or not its events are waited for. The iteration ends after `done`, or throws what the request
   * failed with. `onEnd` is called when the model's thread has let go of it.
   */
  generate(request: GenerateRequest, signal: AbortSignal, onEnd: () => void): AsyncIterableIterator<GenerateEvent> {
    if (this.#lost) throw new MagicpigError('INTERNAL', 'the thread of the model ended');
    const id = this.#next++;
    const events = new EventQueue<GenerateEvent>();
    const abort = () => { this.#post({ kind: 'abort', id }); };
    this.#running.set(id, (event) => {
      const over = event.kind === 'done' || event.kind === 'failed';
      if (event.kind === 'failed') events.fail(new MagicpigError(event.code, event.message));
      else events.push(event);
      if (!over) return;
      events.end();
      this.#running.delete(id);
      signal.removeEventListener('abort', abort);
      onEnd();
    });
    signal.addEventListener('abort', abort);
    this.#post({ kind: 'generate', id, request });
    if (signal.aborted) abort();
    return events[Symbol.asyncIterator]();
  }

  async ask<Name extends keyof Questions>(name: Name, ask: Questions[Name]['ask']): Promise<Questions[Name]['answer']> {
    if (this.#lost) throw new MagicpigError('INTERNAL', 'the thread of the model ended');
    const id = this.#next++;
    return await new Promise<Questions[Name]['answer']>((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      this.#post({ kind: 'ask', id, name, ask } as ToWorker);
    });
  }

  /** Checkpoints and frees everything. Nothing may be running. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#lost) return;
    const ended = new Promise((resolve) => this.#worker.once('exit', resolve));
    await this.ask('close', null);
    await ended;
  }

  #post(message: ToWorker): void {
    try {
      this.#worker.postMessage(message);
    } catch (cause) {
      throw new MagicpigError('INVALID_OPTION', 'the request is nested too deeply', { cause });
    }
  }

  #receive(message: FromWorker): void {
    switch (message.kind) {
      case 'event':
        this.#running.get(message.id)?.(message.event);
        break;
      case 'answer':
        this.#asked.get(message.id)?.resolve(message.answer as never);
        this.#asked.delete(message.id);
        break;
      case 'refusal':
        this.#asked.get(message.id)?.reject(new MagicpigError(message.code, message.message));
        this.#asked.delete(message.id);
        break;
      case 'ready':
      case 'unready':
        break;
    }
  }

  #lose(error: Error, onLost: (error: Error) => void): void {
    this.#lost = true;
    const code: ErrorCode = 'INTERNAL';
    for (const end of [...this.#running.values()]) end({ kind: 'failed', code, message: error.message });
    for (const { reject } of this.#asked.values()) reject(new MagicpigError(code, error.message));
    this.#asked.clear();
    if (this.#closing) return;
    this.#closing = true;
    onLost(error);
  }
}
