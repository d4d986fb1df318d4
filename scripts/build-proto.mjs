// Makes src/onnx/generated/onnx.{js,d.ts} from ONNX's own schema, encoders only: the package writes graphs and never reads one.
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';

const target = 'src/onnx/generated/onnx';
mkdirSync('src/onnx/generated', { recursive: true });
const run = (tool, args) => execFileSync(process.execPath, [`node_modules/protobufjs-cli/bin/${tool}`, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
run('pbjs', ['--target', 'static-module', '--wrap', 'esm', '--no-decode', '--no-verify', '--no-convert', '--no-delimited', '--no-service', '--import-long=false', '--out', `${target}.js`, 'third_party/onnx/onnx.proto']);
run('pbts', ['--out', `${target}.d.ts`, `${target}.js`]);
