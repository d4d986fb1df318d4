import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { MagicpigError } from '../errors.js';
import { GraphBuilder } from './graph.js';
import { type Accelerator, Part, runtimeInfo } from './runtime.js';

/** What keeps a device from being used, and how to get it. */
export interface Missing {
  readonly problem: string;
  readonly remedy: string;
}

/** Libraries of the CUDA provider that ONNX Runtime looks for beside itself. */
const cudaLibraries = ['libonnxruntime_providers_shared.so', 'libonnxruntime_providers_cuda.so'];

/** Whether a device is there: undefined if a graph runs on it. */
export async function missing(device: Accelerator): Promise<Missing | undefined> {
  return (device === 'cuda' ? cudaProvider() : vulkanLoader()) ?? (await started(device));
}

function cudaProvider(): Missing | undefined {
  const { version, backends, folder } = runtimeInfo();
  if (!backends.includes('cuda')) {
    return { problem: `ONNX Runtime has no CUDA provider for ${process.platform} on ${process.arch}`, remedy: 'use --device webgpu' };
  }
  const absent = process.platform === 'linux' ? cudaLibraries.filter((library) => !existsSync(join(folder, library))) : [];
  if (absent.length === 0) return undefined;
  return {
    problem: `ONNX Runtime's CUDA provider is not installed (${folder} lacks ${absent.join(' and ')})`,
    remedy:
      'reinstall onnxruntime-node without ONNXRUNTIME_NODE_INSTALL=skip or, where its feed is out of reach, ' +
      `"pip download --no-deps onnxruntime-gpu==${version}", unzip the wheel, and copy ${cudaLibraries.join(' and ')} from its folder onnxruntime/capi into that folder`,
  };
}

/** Looked for before WebGPU looks for it, which would write a warning of its own to stderr. */
function vulkanLoader(): Missing | undefined {
  if (process.platform !== 'linux') return undefined;
  try {
    process.dlopen({ exports: {} }, 'libvulkan.so.1');
  } catch (cause) {
    // One that opens is no addon of Node.js, and fails as such.
    if (String(cause).includes('cannot open shared object file')) {
      return { problem: 'WebGPU needs Vulkan, and there is no libvulkan.so.1', remedy: `install ${driver()}` };
    }
  }
  return undefined;
}

async function started(device: Accelerator): Promise<Missing | undefined> {
  const graph = new GraphBuilder();
  const x = graph.input('x', 'float32', ['rows', 1]);
  graph.output('y', graph.node('Add', [x, x]), 'float32', ['rows', 1]);
  try {
    const part = await Part.load(graph.build(), { device, threads: 1 });
    try {
      await part.run({ x: { data: Float32Array.of(1), shape: [1, 1] } });
    } finally {
      await part.dispose();
    }
    return undefined;
  } catch (error) {
    if (!MagicpigError.isInstance(error)) throw error;
    const { cause } = error;
    const said = cause instanceof Error ? cause.message : error.message;
    if (device === 'webgpu') return { problem: `WebGPU finds no GPU that it can use (${said})`, remedy: `install ${driver()}` };
    const provider = join(runtimeInfo().folder, cudaLibraries[1] ?? '');
    return {
      problem: `ONNX Runtime's CUDA provider does not start (${said})`,
      remedy: `install NVIDIA's driver, and CUDA and cuDNN where the loader finds them: "ldd ${provider}" names what it needs`,
    };
  }
}

function driver(): string {
  switch (process.platform) {
    case 'linux':
      return "the GPU's Vulkan driver (Debian's mesa-vulkan-drivers for AMD and Intel, NVIDIA's own), or one in software as docs/devices.md says";
    case 'win32':
      return "the GPU's driver for Direct3D 12";
    default:
      return 'it on a machine whose GPU has Metal';
  }
}
