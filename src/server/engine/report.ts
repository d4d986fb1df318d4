import type { Model } from '../../decode/model.js';
import type { Session, StepCounts } from '../../decode/session.js';
import type { Report, ReportRequest, StepReport } from './protocol.js';

/** Watches one answer's steps, for a client that asks how its attention went, until it is disposed of. */
export class Reporter implements Disposable {
  readonly #model: Model;
  readonly #session: Session;
  readonly #steps: StepReport[] = [];
  #before: StepCounts;

  /** From now on, when the session has read what is to be answered. */
  constructor(model: Model, session: Session, { bins }: ReportRequest) {
    this.#model = model;
    this.#session = session;
    session.noteDraws(Math.ceil(session.tokens.length / bins));
    this.#before = session.counts();
  }

  /** Notes the step that a token came of. The first token of an answer came of reading its text. */
  token(text: string): void {
    const now = this.#session.counts();
    const since = (count: keyof StepCounts) => now[count] - this.#before[count];
    const ratio = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
    this.#steps.push(since('steps') === 0 ? { text } : {
      text,
      ms: 1000 * since('seconds'),
      attendMs: 1000 * since('attendSeconds'),
      keysRead: ratio(since('rowsRead'), since('allRows')),
      ...(since('assessed') > 0 && { relativeError: since('errorSum') / since('assessed') }),
    });
    this.#before = now;
  }

  /** What there was to see, at the answer's end. */
  end(): Report {
    const { policy, budget, relativeError, decodeMsPerToken, attendMsPerToken, keysRead } = this.#session.stats();
    const { bin, layers } = this.#session.draws() ?? { bin: 1, layers: [] };
    const { tokens } = this.#session;
    const bins = Math.ceil(tokens.length / bin);
    return {
      policy,
      budget,
      decodeMsPerToken,
      attendMsPerToken,
      keysRead,
      relativeError,
      steps: this.#steps,
      draws: {
        binTokens: bin,
        texts: this.#texts(tokens, bin, bins),
        layers: layers.map((counts) => Array.from({ length: bins }, (_, at) => counts[at] ?? 0)),
      },
    };
  }

  [Symbol.dispose](): void {
    this.#session.noteDraws(0);
  }

  /** The text of each bin. A character that is cut belongs to the bin in which it ends. */
  #texts(tokens: readonly number[], bin: number, bins: number): string[] {
    const decoder = this.#model.tokenizer.stream({ keepSpecial: true });
    return Array.from({ length: bins }, (_, at) => {
      const text = tokens.slice(at * bin, (at + 1) * bin).map((token) => decoder.push(token)).join('');
      return at === bins - 1 ? text + decoder.end() : text;
    });
  }
}
