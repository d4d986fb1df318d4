import type { Session } from '../../decode/session.js';
import { MagicpigError } from '../../errors.js';

interface Sizes {
  readonly indexBytes: number;
  readonly rowBytes: number;
}

const lastSizes = new WeakMap<Session, Sizes>();

/**
 * A session's sizes, or what they were when they were last asked for: those of a session that is being worked on are not to be had.
 * Requests ask when their text has been read, so that there is something to remember.
 */
export function sizes(session: Session): Sizes {
  try {
    const { indexBytes, rowBytes } = session.stats();
    lastSizes.set(session, { indexBytes, rowBytes });
  } catch (error) {
    if (!MagicpigError.isInstance(error)) throw error;
  }
  return lastSizes.get(session) ?? { indexBytes: 0, rowBytes: 0 };
}
