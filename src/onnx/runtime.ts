import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { MagicpigError } from '../errors.js';
import { refuseTelemetry } from './telemetry.js';

refuseTelemetry();
// What fails is thrown as well; a provider that is looked for and not there is nothing to write to stderr.
ort.env.logLevel = 'fatal';

/** Named tensors of one run, each [rows, ...]. */
export type Tensors = Readonly<Record<string, RunTensor>>;

export type RunTensor = HostTensor | DeviceTensor;

export interface HostTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** A tensor that a part left on the device, for other parts there. Dispose of it when they have run. */
export class DeviceTensor implements Disposable {
  /** @internal */
  readonly tensor: ort.Tensor;

  constructor(tensor: ort.Tensor) {
    this.tensor = tensor;
  }

  [Symbol.dispose](): void {
    this.tensor.dispose();
  }
}

/** Where a graph can run that is not the CPU. */
export type Accelerator = 'cuda' | 'webgpu';

export interface RuntimeOptions {
  readonly device: Accelerator | 'cpu';
  readonly threads: number;
}

/** A loaded part of a model. The only door to ONNX Runtime. */
export class Part {
  readonly #session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  /**
   * Loads an ONNX model from its bytes, which may be dropped afterwards. The outputs named in `stay` are left on the device where that is
   * WebGPU's, the only one that ONNX Runtime has tensors of in JavaScript.
   */
  static async load(model: Uint8Array, { device, threads }: RuntimeOptions, stay: readonly string[] = []): Promise<Part> {
    try {
      const session = await ort.InferenceSession.create(model, {
        executionProviders: [device],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        enableCpuMemArena: false,
        enableMemPattern: false,
        ...(device === 'webgpu' && stay.length > 0 && { preferredOutputLocation: Object.fromEntries(stay.map((name) => [name, 'gpu-buffer' as const])) }),
        extra: {
          session: {
            // Each part has a thread pool of its own; spinning threads would take the cores from the part, and the
            // attention, that has work: 151 ms a token instead of 9 for 30 parts on 2 cores.
            intra_op: { allow_spinning: '0' },
          },
        },
      });
      return new Part(session);
    } catch (cause) {
      throw new MagicpigError('RUNTIME_FAILED', `ONNX Runtime could not load a part of the model: ${messageOf(cause)}`, { cause });
    }
  }

  /** All outputs: a part that leaves some on the device cannot leave any out. */
  async run(inputs: Tensors): Promise<Partial<Record<string, RunTensor>>> {
    try {
      const outputs = await this.#session.run(Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, toOrt(tensor)])));
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, fromOrt(tensor)]));
    } catch (cause) {
      throw new MagicpigError('RUNTIME_FAILED', `ONNX Runtime could not run a part of the model: ${messageOf(cause)}`, { cause });
    }
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }
}

function toOrt(tensor: RunTensor): ort.Tensor {
  return tensor instanceof DeviceTensor ? tensor.tensor : new ort.Tensor('float32', tensor.data, tensor.shape);
}

function fromOrt(tensor: ort.Tensor): RunTensor {
  return tensor.location === 'cpu' ? { data: tensor.data as Float32Array, shape: tensor.dims } : new DeviceTensor(tensor);
}

/** An output that was not to stay on the device. */
export function onHost(tensor: RunTensor | undefined): Float32Array {
  if (tensor === undefined || tensor instanceof DeviceTensor) throw new MagicpigError('INTERNAL', 'a part of the model left an output on the device, or out');
  return tensor.data;
}

/** Frees those that are on the device. */
export function release(...tensors: readonly (RunTensor | undefined)[]): void {
  for (const tensor of tensors) if (tensor instanceof DeviceTensor) tensor[Symbol.dispose]();
}

/** ONNX Runtime's version, the execution providers that it was built with and those that came with it, and the folder it is in. */
export function runtimeInfo(): { version: string; backends: string[]; providers: string[]; folder: string } {
  const backends = ort.listSupportedBackends();
  const { resolve } = createRequire(import.meta.url);
  return {
    version: ort.env.versions.node ?? 'unknown',
    backends: backends.map(({ name }) => name),
    providers: backends.filter(({ bundled }) => bundled).map(({ name }) => name),
    folder: join(dirname(resolve('onnxruntime-node')), '..', 'bin', 'napi-v6', process.platform, process.arch),
  };
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
