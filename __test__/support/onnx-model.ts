import { Model, nativeOptions } from '../../src/decode/model.js';
import { openGguf } from '../../src/model/gguf.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { NativeModel } from '../../src/native.js';
import { DenseGraph } from '../../src/onnx/dense-graph.js';

/** A model whose dense layers are ONNX Runtime's, as on a device, but on its CPU provider, which every machine has; whether texts are attended there too. */
export async function onnxModel(path: string, { attends = true } = {}): Promise<Model> {
  const file = await openGguf(path);
  const dense = await DenseGraph.load(file, { device: 'cpu', threads: 2 }, { attends });
  const weights = NativeModel.open(nativeOptions(file, { threads: 2 }));
  return new Model(file, new Tokenizer(file.tokenizer), { device: 'cpu', dense }, weights, 2, 'file', { context: 4096, memory: undefined });
}
