import { close, fstatSync, open } from 'node:fs';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { MagicpigError } from '../errors.js';
import { OutOfBytes, readFully } from './byte-cursor.js';
import { fileError } from './file-error.js';
import { quoted } from './gguf-metadata.js';
import type { Tensor, TensorType } from './types.js';

/** Where a tensor's bytes lie, in which of a model's files. */
export interface Span {
  readonly name: string;
  readonly type: TensorType;
  readonly shape: readonly number[];
  readonly file: number;
  readonly start: number;
  readonly bytes: number;
}

/** An open file. A descriptor and no `FileHandle`, of which Node complains where somebody lets go of a model without disposing of it. */
export interface OpenFile {
  readonly path: string;
  readonly fd: number;
  readonly bytes: number;
}

/** Opens a regular file. Throws FILE_NOT_FOUND or FILE_UNREADABLE. */
export async function openRegularFile(path: string): Promise<OpenFile> {
  // A pipe would block on open, so look before.
  const found = await stat(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  if (!found.isFile()) throw new MagicpigError('FILE_UNREADABLE', `${path} is not a regular file`);
  try {
    const fd = await promisify(open)(path, 'r');
    return { path, fd, bytes: fstatSync(fd).size };
  } catch (error) {
    throw fileError(error, path);
  }
}

/** All bytes of an open file. `malformed` makes the error of one that became shorter. Throws that, and FILE_UNREADABLE. */
export function readWhole({ path, fd, bytes }: OpenFile, malformed: (what: string) => MagicpigError): Buffer {
  const whole = Buffer.alloc(bytes);
  try {
    readFully(fd, whole, 0);
  } catch (error) {
    throw error instanceof OutOfBytes ? malformed('it became shorter while it was read') : fileError(error, path);
  }
  return whole;
}

/** Tensors in one file or several, read when asked for. */
export class TensorFiles implements AsyncDisposable {
  #closed = false;

  /** `malformed` makes the error of a file that is not what it was. */
  constructor(
    readonly path: string,
    readonly files: readonly OpenFile[],
    readonly spans: ReadonlyMap<string, Span>,
    readonly malformed: (path: string, what: string) => MagicpigError,
  ) {}

  get bytes(): number {
    return this.files.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** The bytes of matrices of each type, most first: norms may be wider and say nothing. */
  get weightBytes(): Record<string, number> {
    const bytes = new Map<string, number>();
    for (const span of this.spans.values()) {
      if (span.shape.length > 1) bytes.set(span.type, (bytes.get(span.type) ?? 0) + span.bytes);
    }
    return Object.fromEntries([...bytes].toSorted((a, b) => b[1] - a[1]));
  }

  tensor(name: string): Tensor {
    const span = this.spans.get(name);
    if (span === undefined) throw new MagicpigError('INVALID_OPTION', `${this.path} has no tensor ${quoted(name)}`);
    return {
      name,
      type: span.type,
      shape: span.shape,
      file: span.file,
      offset: span.start,
      bytes: () => this.#read(span),
      row: (index) => this.#read(rowOf(span, index)),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await closeAll(this.files);
  }

  #read(span: Span): Uint8Array {
    const { path, fd } = this.files[span.file] as OpenFile;
    if (this.#closed) throw new MagicpigError('DISPOSED', `${path} was closed before ${span.name} was read`);
    const bytes = new Uint8Array(span.bytes);
    try {
      readFully(fd, bytes, span.start);
    } catch (error) {
      if (error instanceof OutOfBytes) throw this.malformed(path, `it became shorter while it was open, and ${span.name} is cut off`);
      throw fileError(error, path);
    }
    return bytes;
  }
}

export async function closeAll(files: readonly OpenFile[]): Promise<void> {
  await Promise.all(files.map(({ fd }) => promisify(close)(fd)));
}

/** The bytes of row `index` of a tensor, as a span of their own. */
function rowOf(span: Span, index: number): Span {
  const rows = span.shape[0] ?? 0;
  if (!Number.isInteger(index) || index < 0 || index >= rows) {
    throw new MagicpigError('INVALID_OPTION', `${quoted(span.name)} has ${rows} rows, and no row ${index}`);
  }
  const bytes = span.bytes / rows;
  return { ...span, start: span.start + index * bytes, bytes };
}
