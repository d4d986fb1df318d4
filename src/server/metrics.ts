import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Admission } from './admission.js';
import type { Engine } from './engine/engine.js';
import type { GenerationFigures, Usage } from './engine/protocol.js';

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];

/** Milliseconds between two looks at the event loop. */
const DELAY_RESOLUTION = 10;

/** What the server counts, for Prometheus. Nothing of any text is in it. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'route' | 'status'>;
  readonly #waited: Histogram;
  readonly #firstToken: Histogram;
  readonly #perToken: Histogram;
  readonly #keysRead: Histogram;
  readonly #tokens: Counter<'kind'>;

  readonly #sessions: Gauge<'kind'>;
  readonly #rowBytes: Gauge;
  readonly #indexBytes: Gauge;
  readonly #engine: Engine;
  readonly #delay: IntervalHistogram;
  readonly #delays: Gauge<'quantile'>;

  constructor(admission: Admission, engine: Engine) {
    this.#engine = engine;
    this.#delay = monitorEventLoopDelay({ resolution: DELAY_RESOLUTION });
    this.#delay.enable();
    const registers = [this.#registry];
    const own = (name: string, help: string) => ({ name: `magicpig_${name}`, help, registers });
    this.#requests = new Counter({ ...own('requests_total', 'Requests that were answered'), labelNames: ['route', 'status'] });
    this.#waited = new Histogram({ ...own('queue_seconds', 'Time that requests waited until they were worked on'), buckets: seconds });
    this.#firstToken = new Histogram({ ...own('time_to_first_token_seconds', 'Time from a request until its first token'), buckets: seconds });
    this.#perToken = new Histogram({ ...own('time_per_token_seconds', 'Mean time of a decoding step, by request'), buckets: seconds });
    this.#keysRead = new Histogram({ ...own('keys_read_ratio', 'Fraction of all keys that decoding read, by request'), buckets: [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1] });
    this.#tokens = new Counter({ ...own('tokens_total', 'Tokens of prompts, those of them that were there already, and generated ones'), labelNames: ['kind'] });
    new Gauge({ ...own('queue_length', 'Requests that wait'), collect() { this.set(admission.waiting); } });
    new Gauge({ ...own('requests_running', 'Requests that are worked on'), collect() { this.set(admission.running); } });
    this.#sessions = new Gauge({ ...own('sessions', 'Sessions that are open, and those of them that are in use'), labelNames: ['kind'] });
    this.#rowBytes = new Gauge(own('row_bytes', 'Bytes of keys and values of the open sessions'));
    this.#indexBytes = new Gauge(own('index_bytes', 'Bytes of the indexes of the open sessions'));
    this.#delays = new Gauge({ ...own('event_loop_delay_seconds', 'How late the thread that speaks HTTP was, since this was last read'), labelNames: ['quantile'] });
    new Gauge({ ...own('resident_bytes', 'Memory of the process'), collect() { this.set(process.memoryUsage.rss()); } });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All figures as of now, as Prometheus reads them. */
  async text(): Promise<string> {
    const held = await this.#engine.ask('holdings', null);
    this.#rowBytes.set(held.rowBytes);
    this.#indexBytes.set(held.indexBytes);
    for (const kind of ['pooled', 'named', 'busy'] as const) this.#sessions.set({ kind }, held[kind]);
    for (const quantile of [0.5, 0.99, 1]) {
      const late = this.#delay.percentile(100 * quantile) / 1e9 - DELAY_RESOLUTION / 1000;
      this.#delays.set({ quantile }, Math.max(0, late));
    }
    this.#delay.reset();
    return await this.#registry.metrics();
  }

  [Symbol.dispose](): void {
    this.#delay.disable();
  }

  answered(route: string, status: number): void {
    this.#requests.inc({ route, status: String(status) });
  }

  admitted(waitedSeconds: number): void {
    this.#waited.observe(waitedSeconds);
  }

  firstToken(afterSeconds: number): void {
    this.#firstToken.observe(afterSeconds);
  }

  generated({ promptTokens, reusedTokens, generatedTokens }: Usage, { decodeSeconds, keysRead }: GenerationFigures): void {
    this.#tokens.inc({ kind: 'prompt' }, promptTokens);
    this.#tokens.inc({ kind: 'reused' }, reusedTokens);
    this.#tokens.inc({ kind: 'generated' }, generatedTokens);
    if (generatedTokens > 1) this.#perToken.observe(decodeSeconds / generatedTokens);
    if (keysRead > 0) this.#keysRead.observe(keysRead);
  }
}
