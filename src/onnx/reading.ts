import type { Part, RunTensor } from './runtime.js';

/** Tokens that go through a layer together where all tensors come from the host: each part keeps the memory that they take on the device. */
export const HOST_CHUNK = 1024;

/** Takes keys and values of the rows of a layer, [rows, kvHeads * headDim] each, which come in the order of their positions. They are written to once what this returns has settled. */
export type Store = (layer: number, rows: { readonly k: Float32Array; readonly v: Float32Array }) => unknown;

export type Angles = Readonly<Record<'cos' | 'sin', RunTensor>>;

/** Consecutive tokens of a text that is read layer by layer. */
export interface Chunk {
  readonly tokens: readonly number[];
  /** The position of the first. */
  readonly first: number;
  /** Of layers that are not local, and of those that are. */
  readonly angles: readonly [Angles, Angles];
  /** The residual stream, once a layer has it. */
  x: RunTensor;
  /** What attention of the layer before gave. */
  o?: RunTensor;
}

/** A layer that a whole text goes through. */
export interface LayerReading {
  readonly layer: number;
  readonly part: Part;
  readonly chunks: readonly Chunk[];
  /** What the last layer's attention gives is only wanted after the last token, which goes by itself. */
  readonly last: boolean;
  readonly store: Store;
}

/** Takes texts from their beginning through layers, and attends them on the device. */
export interface Reader {
  /** Tokens that go through a layer together. */
  readonly chunk: number;
  /** Tokens that a text may have. */
  readonly most: number;
  /** Chunk by chunk, the queries of each with the keys of those before it and its own. Leaves the residual stream and what attention gave in the chunks. */
  readLayer(reading: LayerReading): Promise<void>;
  dispose(): Promise<void>;
}
