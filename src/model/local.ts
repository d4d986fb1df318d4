import type { LocalAttention } from './types.js';

/** How many of a model's layers attend a window alone, and so have no index. */
export function localCount(local: LocalAttention | undefined): number {
  return local === undefined ? 0 : local.layers.filter(Boolean).length;
}

/** How many of the newest tokens a layer attends; undefined where it attends all. */
export function localWindow(local: LocalAttention | undefined, layer: number): number | undefined {
  return local?.layers[layer] ? local.window : undefined;
}
