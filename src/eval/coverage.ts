/** What a policy said of its own errors, and what they were: over heads and steps. */
export interface Coverage {
  /** Outputs of a query head in a step that were compared. */
  readonly headSteps: number;
  /** Mean relative error of these, |o - exact o| / |exact o|, as the samples had it: predicted, or the end of an interval. */
  readonly estimatedError: number;
  /** And as it was. */
  readonly realError: number;
  /** Outputs whose real error was greater than the estimate. */
  readonly outside: number;
}

/** How often the errors of verified steps were greater than epsilon. */
export interface Violations {
  readonly violations: number;
  /** Upper end of the 95% Clopper-Pearson interval of their share. */
  readonly upper: number;
}

/** What a session's audit counts of steps that estimate their errors. */
interface Counts {
  readonly headSteps: number;
  readonly violations: number;
  readonly outside: number;
  readonly estimatedErrors: number;
  readonly realErrors: number;
}

/** Sums the audits of a policy's runs; undefined where it estimated nothing. */
export function coverageOf(audits: readonly Counts[]): (Coverage & Violations) | undefined {
  const sum = (of: (audit: Counts) => number) => audits.reduce((total, audit) => total + of(audit), 0);
  const headSteps = sum((audit) => audit.headSteps);
  if (headSteps === 0) return undefined;
  const violations = sum((audit) => audit.violations);
  return {
    headSteps,
    estimatedError: sum((audit) => audit.estimatedErrors) / headSteps,
    realError: sum((audit) => audit.realErrors) / headSteps,
    outside: sum((audit) => audit.outside),
    violations,
    upper: clopperPearsonUpper(violations, headSteps),
  };
}

/**
 * Upper end of the 95% interval of a probability by which `events` of `trials` independent ones happened (Clopper and Pearson 1934): the
 * greatest under which so few of them still have 2.5%. Found by bisection, to 1e-9.
 */
export function clopperPearsonUpper(events: number, trials: number): number {
  if (events >= trials) return 1;
  let [low, high] = [events / trials, 1];
  while (high - low > 1e-9) {
    const middle = (low + high) / 2;
    if (atMost(events, trials, middle) > 0.025) low = middle;
    else high = middle;
  }
  return high;
}

/** The probability of at most `events` of `trials`, each with probability `p` in (0, 1), summed from the greatest term down. */
function atMost(events: number, trials: number, p: number): number {
  // In logs, since (1 - p)^trials is less than the least double.
  let log = trials * Math.log1p(-p);
  const odds = Math.log(p) - Math.log1p(-p);
  const logs = [log];
  for (let k = 1; k <= events; k += 1) {
    log += Math.log((trials - k + 1) / k) + odds;
    logs.push(log);
  }
  return logs.reduceRight((sum, term) => sum + Math.exp(term), 0);
}
