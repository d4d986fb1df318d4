// ln of probabilities after the tiny architectures' text, of each model file that is named, its text through ONNX Runtime on WebGPU.
import { openGguf } from '../../src/model/gguf.js';
import { logSoftmax } from './log-probabilities.js';
import { throughOnnx } from './through-onnx.js';
import { architectureText } from './tiny-architectures.js';

for (const path of process.argv.slice(2)) {
  await using file = await openGguf(path);
  const row = logSoftmax(await throughOnnx(file, architectureText, 'webgpu'));
  process.stdout.write(`${JSON.stringify(row)}\n`);
}
