import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { MagicpigError } from '../errors.js';
import { HOST_CHUNK } from '../onnx/reading.js';
import { type PlannedModel, gigabytes } from './memory.js';
import type { DeviceName } from './options.js';

/** Bytes of a device's memory. */
export interface DeviceMemory {
  readonly free: number;
  readonly total: number;
}

/** Bytes that a model takes on a CUDA device. */
export interface DevicePlan {
  readonly weights: number;
  /** What ONNX Runtime and CUDA's libraries keep for each part of the model. */
  readonly libraries: number;
  /** What a chunk of a text works with, which each part keeps. */
  readonly activations: number;
  readonly total: number;
}

const MIB = 2 ** 20;
/** Measured: 7.9 GB with 4.5 GB of weights in 36 parts. */
const PART_BYTES = 96e6;
/** How long NVIDIA's tool may take, in milliseconds. */
const PATIENCE = 5000;

/** What the first NVIDIA GPU has, as NVIDIA's own tool tells; undefined where there is nobody to ask, as with WebGPU. */
export async function deviceMemory(device: DeviceName): Promise<DeviceMemory | undefined> {
  if (device !== 'cuda') return undefined;
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', ['--id=0', '--query-gpu=memory.free,memory.total', '--format=csv,noheader,nounits'], { timeout: PATIENCE });
    const [free, total] = stdout.split(',').map(Number);
    return free !== undefined && total !== undefined && free <= total ? { free: free * MIB, total: total * MIB } : undefined;
  } catch {
    return undefined;
  }
}

/** What a model takes on a CUDA device at most, to some tens of percent. */
export function devicePlan({ config, fileBytes }: PlannedModel): DevicePlan {
  const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  // Layers, what follows the last of them, the output head, and attention with and without a past.
  const parts = layers + 4;
  // The MLP's in float16, all else in float32.
  const features = 2 * 4 * intermediateSize + 4 * (3 * hiddenSize + 3 * heads * headDim + 4 * kvHeads * headDim);
  const plan = { weights: fileBytes, libraries: parts * PART_BYTES, activations: parts * HOST_CHUNK * features };
  return { ...plan, total: plan.weights + plan.libraries + plan.activations };
}

/** Throws OUT_OF_MEMORY where a model does not fit on a device. */
export function checkDevice(device: DeviceName, plan: DevicePlan, memory: DeviceMemory | undefined): void {
  if (memory === undefined || plan.total <= memory.free) return;
  throw new MagicpigError(
    'OUT_OF_MEMORY',
    `device ${device} has ${gigabytes(memory.free)} of its ${gigabytes(memory.total)} free, and the model takes up to ${gigabytes(plan.total)} there: weights ${gigabytes(plan.weights)}, ` +
      `libraries ${gigabytes(plan.libraries)}, activations ${gigabytes(plan.activations)}; take a smaller quantisation or model, or --device cpu`,
  );
}
