import { MagicpigError } from '../errors.js';
import { errorCode } from '../model/file-error.js';
import type { Missing } from '../onnx/devices.js';
import type { Accelerator } from '../onnx/runtime.js';
import type { Device, DeviceName } from './options.js';

export { refuseTelemetry } from '../onnx/telemetry.js';

/** Beside the CPU, the best first. */
export const accelerators = ['cuda', 'webgpu'] as const satisfies readonly Accelerator[];

/** Says what keeps a device from being used; undefined if nothing does. */
export type Probe = (device: Accelerator) => Promise<Missing | undefined>;

/** Tries a device with ONNX Runtime, if that is installed: the CPU does without it. */
export async function probe(device: Accelerator): Promise<Missing | undefined> {
  try {
    const { missing } = await import('../onnx/devices.js');
    return await missing(device);
  } catch (cause) {
    if (MagicpigError.isInstance(cause)) throw cause;
    if (errorCode(cause) === 'ERR_MODULE_NOT_FOUND') {
      return {
        problem: 'ONNX Runtime is not installed',
        remedy: 'npm install onnxruntime-node (on Linux with ONNXRUNTIME_NODE_INSTALL=skip, unless CUDA is to be downloaded too)',
      };
    }
    return { problem: `ONNX Runtime does not load (${cause instanceof Error ? cause.message : String(cause)})`, remedy: 'npm install onnxruntime-node' };
  }
}

/**
 * The device that is asked for, or for `auto` the best that is there; with weights that are `rounded` in memory the CPU, whose dense layers alone
 * can do that. Throws INVALID_OPTION, or RUNTIME_FAILED with what is missing and how to get it.
 */
export async function chooseDevice(asked: Device, { rounded = false, missing = probe }: { rounded?: boolean; missing?: Probe } = {}): Promise<DeviceName> {
  if (asked === 'cpu') return asked;
  if (asked === 'auto') {
    if (rounded) return 'cpu';
    for (const device of accelerators) if ((await missing(device)) === undefined) return device;
    return 'cpu';
  }
  if (rounded) throw new MagicpigError('INVALID_OPTION', `device ${asked} takes weights as the file has them; weights and lmHead round them for the CPU alone`);
  const lack = await missing(asked);
  if (lack === undefined) return asked;
  throw new MagicpigError('RUNTIME_FAILED', `device ${asked} is not there: ${lack.problem}; to get it: ${lack.remedy}`);
}
