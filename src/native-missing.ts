import { MagicpigError } from './errors.js';

/** What there are packages for: the systems that Node.js 20 and ONNX Runtime run on too. */
const prebuilt = 'Linux with glibc 2.28 or newer (x64, arm64), macOS (arm64) and Windows (x64, arm64)';

/** Why the addon did not load and what to do, in one line. `cause`: what the generated loader threw, a chain of attempts. */
export function addonMissing(cause: unknown): MagicpigError {
  const libc = process.platform === 'linux' ? ` (${libcName()})` : '';
  const reason = attempts(cause).find((attempt) => !/^Cannot find (module|native binding)/.test(attempt));
  const said = reason === undefined ? '' : `; it is there and does not load: ${reason}`;
  return new MagicpigError(
    'NATIVE_MISSING',
    `no native addon for ${process.platform} ${process.arch}${libc}${said}; there are packages for ${prebuilt}: on one of these, npm install --include=optional magicpig; ` +
      'elsewhere, or in a checkout, npm run build:native, which needs Rust',
    { cause },
  );
}

function libcName(): string {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime === undefined ? 'musl' : `glibc ${header.glibcVersionRuntime}`;
}

/** The first line of every message in a chain of causes. */
function attempts(cause: unknown): string[] {
  if (!(cause instanceof Error)) return [];
  return [cause.message.split('\n', 1)[0] ?? '', ...attempts(cause.cause)];
}
