import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { MagicpigError } from '../errors.js';

// What fails is thrown as well; a provider that is looked for and not there is nothing to write to stderr.
ort.env.logLevel = 'fatal';

/** Named tensors of one run, each [rows, ...]. */
export type Tensors = Record<string, RunTensor>;

export interface RunTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
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

  /** Loads an ONNX model from its bytes, which may be dropped afterwards. */
  static async load(model: Uint8Array, { device, threads }: RuntimeOptions): Promise<Part> {
    try {
      const session = await ort.InferenceSession.create(model, {
        executionProviders: [device],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        enableCpuMemArena: false,
        enableMemPattern: false,
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

  /** Runs the part into the arrays of `outputs`. Left to itself, ONNX Runtime would make new ones, whose size V8 does not see. */
  async run(inputs: Tensors, outputs: Tensors): Promise<void> {
    try {
      await this.#session.run(toOrt(inputs), toOrt(outputs));
    } catch (cause) {
      throw new MagicpigError('RUNTIME_FAILED', `ONNX Runtime could not run a part of the model: ${messageOf(cause)}`, { cause });
    }
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }
}

function toOrt(tensors: Tensors): Record<string, ort.Tensor> {
  return Object.fromEntries(Object.entries(tensors).map(([name, { data, shape }]) => [name, new ort.Tensor('float32', data, shape)]));
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
