import * as ort from 'onnxruntime-node';
import { MagicpigError } from '../errors.js';

/** Named tensors of one run, each [rows, ...]. */
export type Tensors = Record<string, RunTensor>;

export interface RunTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

export interface RuntimeOptions {
  readonly device: 'cpu' | 'webgpu';
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

/** Version of ONNX Runtime and the execution providers that came with it. */
export function runtimeInfo(): { version: string; providers: string[] } {
  const bundled = ort.listSupportedBackends().filter((backend) => backend.bundled);
  return { version: ort.env.versions.node ?? 'unknown', providers: bundled.map(({ name }) => name) };
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
