// Installs and builds what is missing or older than what it is made from.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { step } from './step.mjs';

/** When the newest file in some files and folders was changed. */
function newest(paths) {
  return Math.max(
    ...paths.map((path) => {
      const info = statSync(path);
      if (!info.isDirectory()) return info.mtimeMs;
      return newest(readdirSync(path).map((name) => join(path, name)));
    }),
    0,
  );
}

const isCurrent = (outputs, sources) => outputs.every((output) => existsSync(output) && statSync(output).mtimeMs >= newest(sources));

export async function install() {
  if (!isCurrent(['node_modules/.package-lock.json'], ['package-lock.json'])) await step('npm ci', 'npm', ['ci', '--no-audit', '--no-fund']);
}

/** ONNX's schema, the addon and the TypeScript, in the order in which they need each other; the ones in `always` in any case. */
export async function build({ always = [] } = {}) {
  const addon = readdirSync('.').find((name) => /^magicpig\..+\.node$/.test(name)) ?? 'magicpig.node';
  const parts = [
    ['build:proto', ['src/onnx/generated/onnx.js', 'src/onnx/generated/onnx.d.ts'], ['third_party/onnx/onnx.proto', 'scripts/build-proto.mjs']],
    ['build:native', [addon, 'index.js', 'index.d.ts'], ['crates', 'Cargo.toml', 'Cargo.lock', 'package.json']],
    ['build:ts', ['dist/index.js', 'dist/cli/main.js'], ['src', 'tsconfig.json', 'package.json']],
  ];
  for (const [script, outputs, sources] of parts) {
    if (always.includes(script) || !isCurrent(outputs, sources)) await step(script, 'npm', ['run', script]);
  }
}
