// Headers of a session's files (crates/kv-store/src/format.rs): changed, and sealed again as another version would.

const HEADER_BYTES = 64;
const SUM_AT = 56;
const MASK = (1n << 64n) - 1n;

/** The first 64 bytes of XXH3's secret. */
const secret = Buffer.from(
  'b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c',
  'hex',
);

/** XXH3 with 64 bits, of 33 to 64 bytes. */
function xxh3(bytes: Buffer): bigint {
  const mix = (at: number, key: number) => {
    const product =
      (bytes.readBigUInt64LE(at) ^ secret.readBigUInt64LE(key)) * (bytes.readBigUInt64LE(at + 8) ^ secret.readBigUInt64LE(key + 8));
    return (product & MASK) ^ (product >> 64n);
  };
  const end = bytes.length;
  const sum = BigInt(end) * 0x9e3779b185ebca87n + mix(0, 0) + mix(end - 16, 16) + mix(16, 32) + mix(end - 32, 48);
  const low = sum & MASK;
  const mixed = ((low ^ (low >> 37n)) * 0x165667919e3779f9n) & MASK;
  return mixed ^ (mixed >> 32n);
}

/** Whether the header at a file's beginning is as it was written. */
export function isSealed(file: Buffer): boolean {
  return xxh3(file.subarray(0, SUM_AT)) === file.readBigUInt64LE(SUM_AT);
}

/** The file with another version in its header, and the header's checksum right. */
export function withVersion(file: Buffer, version: number): Buffer {
  const changed = Buffer.from(file);
  changed.writeUInt32LE(version, 8);
  changed.writeBigUInt64LE(xxh3(changed.subarray(0, SUM_AT)), HEADER_BYTES - 8);
  return changed;
}
