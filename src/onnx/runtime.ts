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

/** Float32, float16 as its bits, or int32. */
export interface HostTensor<Data extends HostData = HostData> {
  readonly data: Data;
  readonly shape: readonly number[];
}

export type HostData = Float32Array | Uint16Array | Int32Array;

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
  /** What all runs add to. */
  readonly counts?: DeviceCounts;
}

/** What runs have cost. */
export interface DeviceCounts {
  runs: number;
  /** Wall time, waiting for other runs included. */
  seconds: number;
  /** Of tensors that went to the device and of those that came from it. */
  bytes: number;
}

export interface RunOptions {
  /**
   * Where none stay on the device, the outputs that are wanted, each in the tensor that is given for it, or a new one. Bringing one to the host takes some
   * 25 microseconds, however small it is, and of a large one into memory that was never touched longer than into what was.
   */
  readonly wanted?: Readonly<Record<string, HostTensor | null>>;
}

/** A loaded part of a model. The only door to ONNX Runtime. */
export class Part {
  readonly #session: ort.InferenceSession;
  readonly #counts: DeviceCounts;

  private constructor(session: ort.InferenceSession, counts: DeviceCounts) {
    this.#session = session;
    this.#counts = counts;
  }

  /**
   * Loads an ONNX model from its bytes, which may be dropped afterwards. The outputs named in `stay` are left on the device where that is
   * WebGPU's, the only one that ONNX Runtime has tensors of in JavaScript.
   */
  static async load(model: Uint8Array, { device, threads, counts = { runs: 0, seconds: 0, bytes: 0 } }: RuntimeOptions, stay: readonly string[] = []): Promise<Part> {
    try {
      const session = await ort.InferenceSession.create(model, {
        executionProviders: [device],
        // Of an accelerator's parts nothing runs here, and every part would have so many threads of its own.
        intraOpNumThreads: device === 'cpu' ? threads : 1,
        interOpNumThreads: 1,
        enableCpuMemArena: false,
        enableMemPattern: false,
        ...(device === 'webgpu' && stay.length > 0 && { preferredOutputLocation: Object.fromEntries(stay.map((name) => [name, 'gpu-buffer' as const])) }),
        extra: {
          session: {
            // Each part has a thread pool of its own; spinning threads would take the cores from the part, and the
            // attention, that has work: 151 ms a token instead of 9 for 30 parts on 2 cores.
            intra_op: { allow_spinning: '0' },
            // An arena grows by doubling, and would hold up to twice the weights.
            ...(device === 'cuda' && { use_device_allocator_for_initializers: '1' }),
          },
        },
      });
      return new Part(session, counts);
    } catch (cause) {
      throw new MagicpigError('RUNTIME_FAILED', `ONNX Runtime could not load a part of the model: ${messageOf(cause)}`, { cause });
    }
  }

  /** All outputs, but for what `options` say. */
  async run(inputs: Tensors, { wanted }: RunOptions = {}): Promise<Partial<Record<string, RunTensor>>> {
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, toOrt(tensor)]));
    const fetches = wanted && Object.fromEntries(Object.entries(wanted).map(([name, tensor]) => [name, tensor && toOrt(tensor)]));
    const started = performance.now();
    try {
      const outputs = Object.entries(await (fetches ? this.#session.run(feeds, fetches) : this.#session.run(feeds)));
      const brought = outputs.map(([name, tensor]) => [name, fromOrt(tensor)] as const);
      this.#counts.bytes += bytesOf(Object.values(inputs)) + bytesOf(brought.map(([, tensor]) => tensor));
      return Object.fromEntries(brought);
    } catch (cause) {
      throw new MagicpigError('RUNTIME_FAILED', `ONNX Runtime could not run a part of the model: ${messageOf(cause)}`, { cause });
    } finally {
      this.#counts.runs += 1;
      this.#counts.seconds += (performance.now() - started) / 1000;
    }
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }
}

function toOrt(tensor: RunTensor): ort.Tensor {
  if (tensor instanceof DeviceTensor) return tensor.tensor;
  const { data, shape } = tensor;
  if (data instanceof Float32Array) return new ort.Tensor('float32', data, shape);
  return data instanceof Int32Array ? new ort.Tensor('int32', data, shape) : new ort.Tensor('float16', data, shape);
}

function fromOrt(tensor: ort.Tensor): RunTensor {
  if (tensor.location !== 'cpu') return new DeviceTensor(tensor);
  const data = tensor.data as HostData;
  // Where the engine has arrays of float16, they are of the same bits.
  return { data: tensor.type === 'float16' ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data, shape: tensor.dims };
}

/** Of those that are on the host. */
function bytesOf(tensors: readonly RunTensor[]): number {
  return tensors.reduce((sum, tensor) => sum + (tensor instanceof DeviceTensor ? 0 : tensor.data.byteLength), 0);
}

/** A float32 output that was not to stay on the device. */
export function onHost(tensor: RunTensor | undefined): Float32Array {
  if (tensor === undefined || tensor instanceof DeviceTensor || !(tensor.data instanceof Float32Array)) {
    throw new MagicpigError('INTERNAL', 'a part of the model left an output on the device, or out');
  }
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
