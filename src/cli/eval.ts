import type { CommandModule } from 'yargs';
import { fidelity } from './eval-fidelity.js';
import { ruler } from './eval-ruler.js';
import type { Terminal } from './terminal.js';

export const evaluate = (terminal: Terminal): CommandModule => ({
  command: 'eval',
  describe: 'Measure what sampled attention changes',
  builder: (yargs) => yargs.command(fidelity(terminal)).command(ruler(terminal)).demandCommand(1, 'eval takes fidelity or ruler; magicpig eval --help describes them'),
  handler: () => undefined,
});
