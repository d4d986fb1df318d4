// Parsers of models' files under mutated input: each call ends in a value or a typed error, soon and without much memory.
import { writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

import { MagicpigError } from '../../src/errors.js';
import { openGguf } from '../../src/model/gguf.js';
import { readHubConfig } from '../../src/model/hub-config.js';
import { parseJson } from '../../src/model/json-file.js';
import { malformedSafetensors } from '../../src/model/safetensors-error.js';
import { readSafetensorsHeader } from '../../src/model/safetensors-header.js';
import { readIndex } from '../../src/model/safetensors-index.js';
import { ggufSpecs, mutatedGguf } from './gguf-mutation.js';
import { seededRandom } from './gguf-writer.js';
import { hubFolder } from './hub-architectures.js';
import { encodeSafetensors } from './safetensors-writer.js';
import { tinyArchitectures } from './tiny-architectures.js';

export const parsers = ['GGUF', 'header', 'index', 'config.json'] as const;
export type Parser = (typeof parsers)[number];

/** What a mutation puts in the place of a piece of JSON. */
const pieces = [
  'null', 'true', '0', '-1', '0.5', '1e308', '9007199254740993', '18446744073709551615', '""', '"\\u0000"', '".."', '"../x.safetensors"', '"__proto__"', '"F16"', '"I64"', '[]', '{}', '[[]]', '{"a":{}}', '[0,0]', '"yarn"',
  '"llama3"', '"gemma3"', '"mistral"',
];

export interface Findings {
  readonly inputs: number;
  /** Inputs that were taken for good. */
  readonly taken: number;
  readonly slowestMs: number;
}

/** How long a parser may take over an input. All of them are of less than a megabyte. */
const MOST_MS = 2000;
/** How much more memory the process may have at its peak, garbage that is not yet collected included. */
const MOST_GROWTH = 512 * 2 ** 20;

/**
 * Feeds a parser mutations, the same for the same seed, up to a number of them or a time. Throws the input that it fails on otherwise than by
 * a typed error, or takes too long or too much memory over.
 */
export async function mutated(parser: Parser, { most = Infinity, milliseconds = Infinity }: { most?: number; milliseconds?: number }, seed: number, folder: string): Promise<Findings> {
  const random = seededRandom(seed);
  const inputOf = mutationsOf(parser);
  const path = join(folder, 'mutated');
  const growthLimit = process.resourceUsage().maxRSS * 1024 + MOST_GROWTH;
  let [inputs, taken, slowestMs] = [0, 0, 0];
  for (const end = performance.now() + milliseconds; inputs < most && performance.now() < end; inputs++) {
    const input = inputOf(random);
    const failed = (how: string, cause?: unknown) => new Error(`${parser} ${how} on ${JSON.stringify(input.toString('latin1'))}`, { cause });
    const started = performance.now();
    try {
      await parse(parser, input, path);
      taken++;
    } catch (error) {
      if (!MagicpigError.isInstance(error)) throw failed('failed', error);
    }
    const took = performance.now() - started;
    if (took > MOST_MS) throw failed(`took ${took.toFixed(0)} ms`);
    if (process.resourceUsage().maxRSS * 1024 > growthLimit) throw failed('took too much memory');
    slowestMs = Math.max(slowestMs, took);
  }
  return { inputs, taken, slowestMs };
}

/** What makes a parser's inputs. */
function mutationsOf(parser: Parser): (random: () => number) => Buffer {
  const one = <T>(list: readonly T[], random: () => number) => list[Math.floor(random() * list.length)] as T;
  if (parser === 'GGUF') {
    const specs = ggufSpecs();
    return (random) => mutatedGguf(one(specs, random), random);
  }
  const seeds = seedsOf(parser);
  return (random) => mutation(one(seeds, random), random);
}

function seedsOf(parser: Exclude<Parser, 'GGUF'>): Buffer[] {
  const folders = Object.entries(tinyArchitectures).map(([name, { spec }]) => hubFolder(name, spec));
  if (parser === 'config.json') return folders.map(({ config }) => Buffer.from(JSON.stringify(config)));
  const few = folders[0]!.tensors.slice(0, 3).map((tensor) => ({ ...tensor, shape: [4], data: Buffer.alloc(16) }));
  if (parser === 'index') return [Buffer.from(JSON.stringify({ metadata: { total_size: 1 }, weight_map: Object.fromEntries(few.map(({ name }, i) => [name, `model-${i}.safetensors`])) }))];
  return [encodeSafetensors(few), encodeSafetensors(few, { metadata: { format: 'pt' }, pad: 5 })];
}

async function parse(parser: Parser, input: Buffer, path: string): Promise<void> {
  if (parser === 'GGUF') {
    writeFileSync(path, input);
    await (await openGguf(path))[Symbol.asyncDispose]();
    return;
  }
  const json = () => parseJson(input, { maxBytes: 1 << 20, maxDepth: 32, maxKeys: 1 << 16 }, (what) => malformedSafetensors(path, what));
  if (parser === 'index') readIndex(json(), path);
  else if (parser === 'config.json') readHubConfig(json(), path);
  else {
    writeFileSync(path, input);
    const handle = await open(path);
    try {
      readSafetensorsHeader({ path, fd: handle.fd, bytes: input.length }, 0);
    } finally {
      await handle.close();
    }
  }
}

/** One to four changes: a byte, a bit, a cut, a piece of JSON in another's place, or a stretch twice. */
function mutation(seed: Buffer, random: () => number): Buffer {
  let bytes: Buffer = Buffer.from(seed);
  const at = () => Math.floor(random() * bytes.length);
  for (let change = 0; change < 1 + random() * 3 && bytes.length > 0; change++) {
    const kind = Math.floor(random() * 8);
    if (kind === 0) bytes[at()] = Math.floor(random() * 256);
    else if (kind === 1) bytes[at()]! ^= 1 << Math.floor(random() * 8);
    else if (kind === 2) bytes = bytes.subarray(0, at());
    else if (kind === 3) {
      const [from, to] = [at(), at()].sort((a, b) => a - b) as [number, number];
      bytes = Buffer.concat([bytes.subarray(0, to), bytes.subarray(from)]);
    } else bytes = withPiece(bytes, pieces[Math.floor(random() * pieces.length)]!, random);
  }
  return bytes;
}

/** The JSON with another value behind one of its colons or commas; of a header, whose length before it stays right. */
function withPiece(bytes: Buffer, piece: string, random: () => number): Buffer {
  const headed = bytes.length > 8 && bytes[8] === 0x7b && bytes[0] !== 0x7b;
  const text = bytes.toString('latin1', headed ? 8 : 0);
  const values = [...text.matchAll(/(?<=[:,[])(?:"[^"]*"|-?[\d.e+]+|true|false|null|\[[^\][]*\])/g)];
  const chosen = values[Math.floor(random() * values.length)];
  if (chosen === undefined) return bytes;
  const said = Buffer.from(text.slice(0, chosen.index) + piece + text.slice(chosen.index + chosen[0].length), 'latin1');
  if (!headed) return said;
  const length = Buffer.from(bytes.subarray(0, 8));
  length.writeUInt32LE(Math.max(0, length.readUInt32LE() + piece.length - chosen[0].length) >>> 0);
  return Buffer.concat([length, said]);
}
