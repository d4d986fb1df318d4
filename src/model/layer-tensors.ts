/** The roles of tensors that layers of all architectures have, whatever the file calls them. */
export const layerTensors = ['attentionNorm', 'query', 'key', 'value', 'attentionOutput', 'mlpNorm', 'gate', 'up', 'down'] as const;

/** Those that only some have: biases, norms of heads, and norms of what is added to the residual stream. */
export const extraLayerTensors = ['queryBias', 'keyBias', 'valueBias', 'queryNorm', 'keyNorm', 'attentionPostNorm', 'mlpPostNorm'] as const;

export type LayerTensor = (typeof layerTensors)[number];
export type ExtraLayerTensor = (typeof extraLayerTensors)[number];
