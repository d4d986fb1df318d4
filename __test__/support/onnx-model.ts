import { Model, nativeOptions } from '../../src/decode/model.js';
import { openGguf } from '../../src/model/gguf.js';
import { Tokenizer } from '../../src/model/tokenizer.js';
import { NativeModel } from '../../src/native.js';
import { DenseGraph, type DenseGraphOptions } from '../../src/onnx/dense-graph.js';

/** A model whose dense layers are ONNX Runtime's, as on a device, but on its CPU provider, which every machine has; where texts are attended, and in what precision. */
export async function onnxModel(path: string, how: Pick<DenseGraphOptions, 'attended' | 'precision'> = { attended: 'device' }): Promise<Model> {
  const file = await openGguf(path);
  const dense = await DenseGraph.load(file, { device: 'cpu', threads: 2 }, how);
  const weights = NativeModel.open(nativeOptions(file, { threads: 2 }));
  return new Model(file, new Tokenizer(file.tokenizer), { device: 'cpu', dense }, weights, 2, 'file', { context: 16_384, memory: undefined });
}
