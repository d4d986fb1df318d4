import { tmpdir } from 'node:os';

import { Batcher } from '../../src/decode/batch.js';
import { nativeOptions, sessionShape } from '../../src/decode/model.js';
import { Sequence } from '../../src/decode/sequence.js';
import type { ModelFile } from '../../src/model/types.js';
import { NativeModel, NativeSession } from '../../src/native.js';
import { DenseGraph } from '../../src/onnx/dense-graph.js';
import type { RuntimeOptions } from '../../src/onnx/runtime.js';

/** Logits after a text that but for its last token was read at once, its long part through ONNX Runtime. */
export async function throughOnnx(file: ModelFile, text: readonly number[], device: RuntimeOptions['device'] = 'cpu'): Promise<Float32Array> {
  const dense = await DenseGraph.load(file, { device, threads: 2 });
  const native = NativeSession.create({ ...sessionShape(file.config), threads: 2, seed: 0, directory: tmpdir() });
  try {
    native.setPolicy({ kind: 'exact' });
    const sequence = new Sequence(file.config, new Batcher(NativeModel.open(nativeOptions(file, { threads: 2 })), dense), native);
    await sequence.prefill(text.slice(0, -1), { signal: undefined, onProgress: () => undefined });
    await sequence.step(text.at(-1)!, undefined);
    return sequence.logits;
  } finally {
    native.dispose();
    await dense.dispose();
  }
}
