import { MagicpigError } from '../errors.js';
import { readWhole } from './tensor-files.js';
import type { OpenFile } from './tensor-files.js';

export type JsonObject = Readonly<Record<string, unknown>>;

export interface JsonLimits {
  readonly maxBytes: number;
  /** Brackets inside each other. */
  readonly maxDepth: number;
  /** Of all objects together: making an object of a million keys takes seconds. */
  readonly maxKeys: number;
}

/** What JSON.parse would make, counted before it makes it. */
interface Outline {
  readonly values: number;
  readonly depth: number;
  readonly keys: number;
  /** Of the outermost object, repeated ones included. */
  readonly outerKeys: number;
}

/**
 * What a value costs in memory at most, as V8 keeps an empty object, and how much all of them may cost beside as many bytes as
 * the text has: a text of nothing but brackets would otherwise take twenty times its size.
 */
const valueBytes = 48;
const sparedBytes = 24 * 2 ** 20;

/**
 * An object out of JSON text. Throws what `malformed` makes of a reason: bytes that are no UTF-8, no JSON, no object, a key of
 * the outermost object that is there twice, brackets or keys beyond the limits, or more values than the text's size accounts for.
 */
export function parseJson(text: Buffer, { maxBytes, maxDepth, maxKeys }: JsonLimits, malformed: (what: string) => MagicpigError): JsonObject {
  if (text.length > maxBytes) throw malformed(`it has ${text.length} bytes; ${maxBytes} are read at most`);
  const { values, depth, keys, outerKeys } = outlineOf(text);
  if (depth > maxDepth) throw malformed(`its brackets are more than ${maxDepth} deep`);
  if (keys > maxKeys) throw malformed(`it has ${keys} keys; ${maxKeys} are read at most`);
  if (values * valueBytes > sparedBytes + text.length) throw malformed(`it has ${values} values, more than can be of use`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(text));
  } catch (error) {
    throw malformed(error instanceof TypeError ? 'it is not UTF-8' : 'it is not JSON');
  }
  if (!isObject(json)) throw malformed('it is not a JSON object');
  if (Object.keys(json).length !== outerKeys) throw malformed('a key is there twice');
  return json;
}

/** The object in a JSON file. Throws as `parseJson` does, and FILE_UNREADABLE. */
export function readJson(file: OpenFile, limits: JsonLimits, malformed: (what: string) => MagicpigError): JsonObject {
  if (file.bytes > limits.maxBytes) throw malformed(`it has ${file.bytes} bytes; ${limits.maxBytes} are read at most`);
  return parseJson(readWhole(file, malformed), limits, malformed);
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Counts without building anything. What is no JSON gives some numbers; JSON.parse refuses it afterwards. */
function outlineOf(text: Buffer): Outline {
  let [values, depth, deepest, keys, outerKeys] = [1, 0, 0, 0, 0];
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case 0x22: // A string: to its closing quote.
        for (at++; at < text.length && text[at] !== 0x22; at++) if (text[at] === 0x5c) at++;
        break;
      case 0x5b: // [
      case 0x7b: // {
        values++;
        depth++;
        if (depth > deepest) deepest = depth;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        depth--;
        break;
      case 0x2c: // ,
        values++;
        break;
      case 0x3a: // :
        keys++;
        if (depth === 1) outerKeys++;
        break;
    }
  }
  return { values, depth: deepest, keys, outerKeys };
}
