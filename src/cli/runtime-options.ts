import type { InferredOptionTypes } from 'yargs';
import type { LoadOptions } from '../decode/model.js';
import { type DeviceName, deviceFrom, lmHeadFrom, weightsFrom } from '../decode/options.js';

/** What a model is loaded with, for every command that generates. */
export const runtimeOptions = {
  threads: { type: 'number', describe: 'Threads to use [default: one for each core]' },
  device: { type: 'string', default: 'cpu', describe: 'Where the dense layers run: cpu, webgpu, cuda or auto, which is the best that is there' },
  'lm-head': { type: 'string', default: 'file', describe: 'Bits of the output head in memory: as the file has it, or 8' },
  weights: { type: 'string', default: 'file', describe: 'Bits of 16 and 32-bit weights in memory: as the file has them, 8 or 4' },
  context: { type: 'number', describe: 'Tokens that a text may have [default: as the model was trained for]' },
} as const;

/** The same by the package's names. Throws INVALID_OPTION. */
export function runtimeOf(args: InferredOptionTypes<typeof runtimeOptions>): Pick<LoadOptions, 'threads' | 'device' | 'lmHead' | 'weights' | 'context'> {
  const { threads, device, weights, context } = args;
  return { threads, device: deviceFrom(device), lmHead: lmHeadFrom(args['lm-head']), weights: weightsFrom(weights), context };
}

/** What `--device auto` came to. */
export function chosenDevice(device: DeviceName): string {
  return `dense layers run on ${device}${device === 'cpu' ? '; "magicpig doctor" says what other devices lack' : ''}`;
}
