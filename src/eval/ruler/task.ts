import type { Random } from '../random.js';

/** A question about a long text, and what an answer should contain. */
export interface Sample {
  /** What is asked, the long text in its middle. */
  readonly prompt: string;
  /** How the answer begins, which the model continues: it keeps small models from talking about something else. */
  readonly answerPrefix: string;
  readonly references: readonly string[];
  /** Where the references' sentences are in the long text, 0 its beginning and 1 its end; none where it is all over it. */
  readonly depths: readonly number[];
}

/** A kind of question, after one of RULER (Hsieh et al. 2024, arXiv 2404.06654, section 3 and appendix B). */
export interface Task {
  readonly name: string;
  /** Tokens that an answer may have. */
  readonly answerTokens: number;
  /**
   * A sample whose long text has `size` sentences, lines or words beside those that matter. The same state of `random` gives the
   * same sample.
   */
  readonly make: (random: Random, size: number, prose: readonly string[]) => Sample;
}

/** Share of the references that are in the answer, upper and lower case alike. */
export function scoreOf(answer: string, references: readonly string[]): number {
  const said = answer.toLowerCase();
  return references.filter((reference) => said.includes(reference.toLowerCase())).length / references.length;
}
