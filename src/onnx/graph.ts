import { onnx } from './generated/onnx.js';

/** A tensor inside a graph, by its name. */
export type Value = string & { readonly value: unique symbol };

export type ElementType = 'float32' | 'float16' | 'uint8' | 'int32' | 'int64';

/** A dimension: a fixed size, or the name of one that is known at run time, which may be empty. */
export type Dimension = number | string;

export type Attribute = { int: number } | { ints: readonly number[] } | { float: number } | { string: string };

const elementTypes: Record<ElementType, onnx.TensorProto.DataType> = {
  float32: onnx.TensorProto.DataType.FLOAT,
  float16: onnx.TensorProto.DataType.FLOAT16,
  uint8: onnx.TensorProto.DataType.UINT8,
  int32: onnx.TensorProto.DataType.INT32,
  int64: onnx.TensorProto.DataType.INT64,
};

/** Where ONNX Runtime's own operators live. */
export const CONTRIB = 'com.microsoft';

/**
 * Builds one ONNX model, node by node. Names are made here, so that callers handle values only.
 */
export class GraphBuilder {
  readonly #nodes: onnx.NodeProto.$Properties[] = [];
  readonly #initialisers: onnx.TensorProto.$Properties[] = [];
  readonly #inputs: onnx.ValueInfoProto.$Properties[] = [];
  readonly #outputs: onnx.ValueInfoProto.$Properties[] = [];

  input(name: string, type: ElementType, shape: readonly Dimension[]): Value {
    this.#inputs.push(valueInfo(name, type, shape));
    return name as Value;
  }

  /** Makes `value` an output of the graph, under `name`. */
  output(name: string, value: Value, type: ElementType, shape: readonly Dimension[]): void {
    this.#nodes.push({ opType: 'Identity', input: [value], output: [name] });
    this.#outputs.push(valueInfo(name, type, shape));
  }

  /** A constant: little-endian, row-major. */
  constant(type: ElementType, shape: readonly number[], data: ArrayBufferView): Value {
    const name = `c${this.#initialisers.length}`;
    const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#initialisers.push({ name, dims: [...shape], dataType: elementTypes[type], rawData });
    return name as Value;
  }

  /** A constant of sizes or axes, as Reshape and reductions take them. */
  shape(...sizes: number[]): Value {
    return this.constant('int64', [sizes.length], BigInt64Array.from(sizes, BigInt));
  }

  /** One operator with a single output. */
  node(operator: string, inputs: readonly (Value | undefined)[], attributes: Record<string, Attribute> = {}, domain = ''): Value {
    return this.nodes(operator, inputs, [true], attributes, domain)[0] as Value;
  }

  /** `x` as another type. */
  cast(x: Value, type: ElementType): Value {
    return this.node('Cast', [x], { to: { int: elementTypes[type] } });
  }

  /** One operator whose outputs are those that `wanted` marks; the others are left out. */
  nodes(
    operator: string,
    inputs: readonly (Value | undefined)[],
    wanted: readonly boolean[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): Value[] {
    const number = this.#nodes.length;
    const outputs = wanted.map((is, index) => (is ? (`v${number}_${index}` as Value) : ('' as Value)));
    this.#nodes.push({
      opType: operator,
      domain,
      input: inputs.map((value) => value ?? ''),
      output: outputs,
      attribute: Object.entries(attributes).map(([name, attribute]) => attributeProto(name, attribute)),
    });
    return outputs.filter((name) => name !== '');
  }

  build(): Uint8Array {
    return onnx.ModelProto.encode({
      irVersion: 10,
      opsetImport: [
        { domain: '', version: 21 },
        { domain: CONTRIB, version: 1 },
      ],
      graph: {
        name: 'part',
        node: this.#nodes,
        initializer: this.#initialisers,
        input: this.#inputs,
        output: this.#outputs,
      },
    }).finish();
  }
}

function valueInfo(name: string, type: ElementType, shape: readonly Dimension[]): onnx.ValueInfoProto.$Properties {
  const dim = shape.map((size) => (typeof size === 'number' ? { dimValue: size } : { dimParam: size }));
  return { name, type: { tensorType: { elemType: elementTypes[type], shape: { dim } } } };
}

function attributeProto(name: string, attribute: Attribute): onnx.AttributeProto.$Properties {
  const { AttributeType } = onnx.AttributeProto;
  if ('int' in attribute) return { name, type: AttributeType.INT, i: attribute.int };
  if ('ints' in attribute) return { name, type: AttributeType.INTS, ints: [...attribute.ints] };
  if ('float' in attribute) return { name, type: AttributeType.FLOAT, f: attribute.float };
  return { name, type: AttributeType.STRING, s: new TextEncoder().encode(attribute.string) };
}
