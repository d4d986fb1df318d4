import { numbers } from './lists.js';

export const denseLayersOption = {
  type: 'string',
  describe: 'Layers that read every key whatever the policy, such as 0,16 [default: none]',
} as const;

/** The layers, if any were named. Throws INVALID_OPTION. */
export function layersFrom(layers: string | undefined): number[] | undefined {
  return layers === undefined ? undefined : numbers('dense-layers', layers);
}
