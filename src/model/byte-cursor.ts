import { readSync } from 'node:fs';

/** What a cursor throws when the file has fewer bytes than were asked for; its caller knows the path. */
export class OutOfBytes extends Error {}

/** Read at least this much at a time, so that a header of many small strings costs few system calls. */
const windowBytes = 1 << 20;

/** Reads an open file forwards, little-endian, and never past `end` bytes. */
export class ByteCursor {
  position = 0;
  #window = Buffer.alloc(0);
  #windowStart = 0;

  constructor(
    readonly fd: number,
    readonly end: number,
  ) {}

  get remaining(): number {
    return this.end - this.position;
  }

  /** The next `length` bytes; valid until the next call. */
  take(length: number): Buffer {
    if (length > this.remaining) throw new OutOfBytes();
    const offset = this.position - this.#windowStart;
    if (offset + length > this.#window.length) return this.#refill(length);
    this.position += length;
    return this.#window.subarray(offset, offset + length);
  }

  u8(): number {
    return this.take(1).readUInt8();
  }

  u32(): number {
    return this.take(4).readUInt32LE();
  }

  u64(): bigint {
    return this.take(8).readBigUInt64LE();
  }

  #refill(length: number): Buffer {
    this.#window = Buffer.alloc(Math.min(Math.max(length, windowBytes), this.remaining));
    this.#windowStart = this.position;
    readFully(this.fd, this.#window, this.position);
    this.position += length;
    return this.#window.subarray(0, length);
  }
}

/** Fills `target` from the file at `offset`; throws OutOfBytes where the file ends early. */
export function readFully(fd: number, target: Uint8Array, offset: number): void {
  // One read call moves at most 2 GiB - 4 KiB on Linux and fewer elsewhere.
  const chunk = 1 << 30;
  for (let done = 0; done < target.length; ) {
    const read = readSync(fd, target, done, Math.min(chunk, target.length - done), offset + done);
    if (read === 0) throw new OutOfBytes();
    done += read;
  }
}
