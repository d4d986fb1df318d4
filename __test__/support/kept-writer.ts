// A process that writes to a session in a folder until it is killed. It prints how many tokens a checkpoint has as soon as
// the checkpoint is acknowledged: node --import tsx kept-writer.ts MODEL FOLDER
import { loadModel } from '../../src/index.js';
import { generated, longText } from './session-folder.js';

const [file = '', folder = ''] = process.argv.slice(2);
const model = await loadModel(file, { threads: 1 });
const session = await model.openSession(folder, { budget: 0.1 });
if (session.tokens.length === 0) await session.prefill(longText(300));
console.log(session.tokens.length);
for (;;) {
  // An odd number, so that blocks of the index are left half-way.
  await generated(session, { maxTokens: 5 });
  await session.checkpoint();
  console.log(session.tokens.length);
}
