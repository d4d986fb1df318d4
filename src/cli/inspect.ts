import type { CommandModule } from 'yargs';
import { MagicpigError } from '../errors.js';
import { localCount } from '../model/local.js';
import type { ModelFile } from '../model/types.js';
import { bytes, count, table } from './format.js';
import { REF_HELP, resolveWithProgress } from './model-option.js';
import type { Terminal } from './terminal.js';
import { tunedText } from './tune.js';

interface Arguments {
  ref: string;
}

/** Bytes of an element of a row. */
const BF16 = 2;

export const inspect = (terminal: Terminal): CommandModule<object, Arguments> => ({
  command: 'inspect <ref>',
  describe: "Show a model's architecture, shapes, quantisation and context",
  builder: (yargs) => yargs.positional('ref', { type: 'string', demandOption: true, describe: REF_HELP }),
  handler: async ({ ref }) => {
    const path = await resolveWithProgress(ref, terminal);
    const { openModel } = await import('../model/open.js');
    await using file = await openModel(path);
    const description = { ...describe(file), memory: await planned(file), tuned: await tunedOf(file) };
    terminal.result(description, asTable(description));
  },
});

function describe({ path, format, files, config, quantisation, weightBytes, fileBytes, chatTemplate, tokenizer }: ModelFile) {
  const { rope, local, ...shapes } = config;
  const { theta, dimensions, factors } = rope;
  return {
    path,
    format,
    files: files.length,
    fileBytes,
    quantisation,
    weightBytes,
    ...shapes,
    local: local && { window: local.window, layers: localCount(local) },
    rope: { theta, dimensions, scaled: factors !== undefined },
    rowBytesPerToken: 2 * BF16 * config.layers * config.kvHeads * config.headDim,
    endTokens: tokenizer.endTokens,
    chatTemplate: chatTemplate !== undefined,
  };
}

/** What a full context takes under the defaults, in bytes, and what the machine has. */
async function planned(file: ModelFile) {
  const { availableMemory, memoryPlan } = await import('../decode/memory.js');
  const { policyFrom } = await import('../decode/options.js');
  const plan = memoryPlan(file, { tokens: file.config.contextLength, rows: 'bf16', policy: policyFrom({}) });
  return { ...plan, available: availableMemory() };
}

/** What `tune` chose for the model; where that cannot be read, the error: the rest of the model can. */
async function tunedOf(file: ModelFile) {
  const { readTuned } = await import('../decode/tuned.js');
  const { fingerprintOf } = await import('../model/fingerprint.js');
  try {
    return readTuned(fingerprintOf(file)) ?? null;
  } catch (error) {
    if (!MagicpigError.isInstance(error)) throw error;
    return { error: { code: error.code, message: error.message } };
  }
}

function asTable(model: ReturnType<typeof describe> & { memory: Awaited<ReturnType<typeof planned>>; tuned: Awaited<ReturnType<typeof tunedOf>> }): string {
  const { rope, memory, tuned } = model;
  return table([
    ['model', `${model.name} (${model.architecture})`],
    [model.format === 'gguf' ? 'file' : 'folder', `${model.path}, ${bytes(model.fileBytes)}${model.format === 'gguf' ? '' : ` in ${count(model.files)} files of safetensors`}`],
    ['quantisation', Object.entries(model.weightBytes).map(([type, size]) => `${type} ${bytes(size)}`).join(', ')],
    ['layers', `${model.layers}, hidden ${count(model.hiddenSize)}, MLP ${count(model.intermediateSize)}`],
    ...(model.local ? [['local', `${model.local.layers} of the layers, a window of ${count(model.local.window)} tokens`] as const] : []),
    ['heads', `${model.heads} for queries, ${model.kvHeads} for keys and values, of ${model.headDim}`],
    ['vocabulary', `${count(model.vocabSize)} tokens`],
    ['context', `${count(model.contextLength)} tokens`],
    ['rope', `theta ${count(rope.theta)} over ${rope.dimensions} dimensions${rope.scaled ? ', scaled for long contexts' : ''}`],
    ['rows', `${bytes(model.rowBytesPerToken)} a token, ${bytes(model.rowBytesPerToken * model.contextLength)} for a full context`],
    ['memory', `${bytes(memory.total)} for a full context: weights ${bytes(memory.weights)}, rows ${bytes(memory.rows)}, index ${bytes(memory.index)}, activations ${bytes(memory.activations)}; there are ${bytes(memory.available)}`],
    ['tuned', tuned === null ? 'no; magicpig tune does' : 'error' in tuned ? tuned.error.message : tunedText(tuned)],
    ['chat', model.chatTemplate ? 'has a chat template' : 'has no chat template'],
  ]);
}
