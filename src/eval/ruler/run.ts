import type { Model } from '../../decode/model.js';
import { integer } from '../../decode/options.js';
import type { Session } from '../../decode/session.js';
import { seedOf } from '../random.js';
import { differenceInterval, mean } from '../statistics.js';
import { type Variant, restart } from '../variants.js';
import { type Fitted, fitted } from './fit.js';
import { type Task, scoreOf } from './task.js';

export interface RulerOptions {
  readonly tasks: readonly Task[];
  /** Tokens of question and answer together. */
  readonly lengths: readonly number[];
  /** Samples of each task and length. */
  readonly samples: number;
  /** Sentences of the texts in which others are hidden. */
  readonly prose: readonly string[];
  /** The same seed gives the same samples and draws. Default 0. */
  readonly seed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What is done: samples, or the tokens of one. */
  readonly onProgress?: ((phase: string, done: number, total: number) => void) | undefined;
}

/** A policy on the samples of one task and length, beside `exact` on the same. */
export interface RulerRow {
  readonly task: string;
  readonly length: number;
  readonly policy: Variant['policy'];
  readonly budget?: number | undefined;
  readonly lshK?: number | undefined;
  /** Mean share of the references that were in the answers, 0 to 1. */
  readonly score: number;
  readonly samples: number;
  readonly exactScore: number;
  /** score - exactScore, and its 95% interval over samples. */
  readonly difference: number;
  readonly low: number;
  readonly high: number;
  /** Whether `exact` can do the task at all: where it scores 0, nothing can be lost. */
  readonly informative: boolean;
  /** Fraction of all keys that the answers' steps read. */
  readonly keysRead: number;
}

/** One answer; `depth` is where in the text the first of the references is, 0 to 1. */
export interface RulerAnswer {
  readonly task: string;
  readonly length: number;
  readonly sample: number;
  readonly policy: Variant['policy'];
  readonly budget?: number | undefined;
  readonly lshK?: number | undefined;
  readonly depth?: number | undefined;
  readonly answer: string;
  readonly references: readonly string[];
  readonly score: number;
  readonly exactScore: number;
}

export interface Ruler {
  readonly seed: number;
  readonly rows: readonly RulerRow[];
  readonly answers: readonly RulerAnswer[];
}

/**
 * Asks a model questions about long texts, each read once and exactly; every policy then answers from the same rows, greedily.
 *
 * Throws INVALID_OPTION where a length is too short for a task, and what reading and generating do.
 */
export async function evaluateRuler(model: Model, variants: readonly Variant[], options: RulerOptions): Promise<Ruler> {
  const { tasks, lengths, prose, signal, onProgress } = options;
  const samples = integer('samples', options.samples, 1, 1 << 20);
  const seed = integer('seed', options.seed ?? 0, 0, 2 ** 32 - 1);
  for (const length of lengths) integer('a length', length, 64, 2 ** 31);
  using session = model.createSession({ policy: 'exact' });
  const total = lengths.length * tasks.length * samples;
  let done = 0;
  const answers: RulerAnswer[] = [];
  const rows: RulerRow[] = [];
  for (const length of lengths) {
    for (const task of tasks) {
      const exactScores: number[] = [];
      const own = variants.map(() => ({ scores: [] as number[], keysRead: [] as number[] }));
      for (let sample = 0; sample < samples; sample += 1) {
        // By name, so that a task's samples do not depend on which others are run with it.
        const sampleSeed = seedOf(seed, length, ...Buffer.from(task.name), sample);
        const made = fitted(model, task, length, sampleSeed, prose);
        session.rewind(0);
        session.setPolicy({ policy: 'exact' });
        await session.prefill(made.tokens, { signal });
        const ask = async (variant: Variant) => answerOf(session, made, variant, sampleSeed, task.answerTokens, signal);
        const exact = await ask({ policy: 'exact' });
        exactScores.push(exact.score);
        for (const [index, variant] of variants.entries()) {
          // What was just computed need not be again.
          const { answer, score, keysRead } = variant.policy === 'exact' ? exact : await ask(variant);
          own[index]?.scores.push(score);
          own[index]?.keysRead.push(keysRead);
          answers.push({
            task: task.name,
            length,
            sample,
            ...choiceOf(variant),
            depth: made.sample.depths[0],
            answer,
            references: made.sample.references,
            score,
            exactScore: exact.score,
          });
        }
        onProgress?.('answering', ++done, total);
      }
      for (const [index, variant] of variants.entries()) {
        const { scores = [], keysRead = [] } = own[index] ?? {};
        const differences = scores.map((score, i) => score - (exactScores[i] ?? 0));
        const exactScore = mean(exactScores);
        rows.push({
          task: task.name,
          length,
          ...choiceOf(variant),
          score: mean(scores),
          samples,
          exactScore,
          difference: mean(differences),
          ...differenceInterval(differences),
          informative: exactScore > 0,
          keysRead: mean(keysRead),
        });
      }
    }
  }
  return { seed, rows, answers };
}

/** What tells a variant from others. */
function choiceOf({ policy, budget, lshK }: Variant) {
  return { policy, ...(budget !== undefined && { budget }), ...(policy === 'lsh' && { lshK: lshK ?? 10 }) };
}

async function answerOf(session: Session, { sample, tokens }: Fitted, variant: Variant, seed: number, maxTokens: number, signal: AbortSignal | undefined) {
  await restart(session, tokens, variant, seed, signal);
  let answer = '';
  for await (const { text } of session.generate({ maxTokens, signal })) answer += text;
  return { answer, score: scoreOf(answer, sample.references), keysRead: session.stats().keysRead };
}
