import { ApiError } from './errors.js';

/** Brackets within brackets that a body may have: JSON schemas of real interfaces have some 20. */
const maxDepth = 128;

/** The value that a body is as JSON. Throws 400 for what is not UTF-8, no JSON, or nested too deeply. */
export function parseBody(body: Buffer): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(body);
  } catch {
    throw new ApiError(400, 'invalid_encoding', 'the body is not UTF-8');
  }
  if (depth(body) > maxDepth) throw new ApiError(400, 'nested_too_deeply', `the body has more than ${maxDepth} brackets within each other`);
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(400, 'invalid_json', 'the body is not JSON');
  }
}

/** Brackets that are open at once, those in strings not counted. All of JSON's own characters are single bytes in UTF-8. */
function depth(body: Buffer): number {
  let [open, most, inString] = [0, 0, false];
  for (let at = 0; at < body.length; at += 1) {
    const byte = body[at];
    if (inString) {
      if (byte === 0x5c) at += 1;
      else if (byte === 0x22) inString = false;
    } else if (byte === 0x22) inString = true;
    else if (byte === 0x7b || byte === 0x5b) most = Math.max(most, (open += 1));
    else if (byte === 0x7d || byte === 0x5d) open -= 1;
  }
  return most;
}
