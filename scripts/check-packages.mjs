// What `npm publish` runs first: refuses to publish while a platform's package is missing or is not of this version.
import { join } from 'node:path';

import { problems } from './support/packages.mjs';

const found = problems(join(import.meta.dirname, '..'));
for (const problem of found) console.error(problem);
if (found.length > 0) {
  console.error(`not ready to be published: ${found.length} problem${found.length === 1 ? '' : 's'}`);
  process.exitCode = 1;
}
