import { MagicpigError } from '../../errors.js';
import { commonWords, frequentWords } from './counting.js';
import { needleTasks } from './needles.js';
import type { Task } from './task.js';
import { variableTracking } from './tracking.js';

/** RULER's tasks but for its two that need a data set of questions. */
export const tasks: readonly Task[] = [...needleTasks, variableTracking, commonWords, frequentWords];

/** Tasks by name; `all` is every one. Throws INVALID_OPTION. */
export function tasksFrom(names: readonly string[]): Task[] {
  return names.flatMap((name) => {
    if (name === 'all') return tasks;
    const task = tasks.find((known) => known.name === name);
    if (task === undefined) {
      throw new MagicpigError('INVALID_OPTION', `task ${name} is unknown; there are all, ${tasks.map((known) => known.name).join(', ')}`);
    }
    return [task];
  });
}
