const messages = [{ role: 'user', content: 'hello' }];

/** Brackets so deep. */
const nested = (depth: number, open: string, close: string) => open.repeat(depth) + close.repeat(depth);
/** A request that is right but for some fields. */
export const body = (fields: object) => JSON.stringify({ model: 'tiny', messages, max_tokens: 1, ...fields });
const raw = (field: string, value: string) => `{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":1,${JSON.stringify(field)}:${value}}`;

/** Bodies that no client in its right mind sends. */
export const hostile: readonly (readonly [string, string | Buffer])[] = [
  ['nothing', ''], ['half an object', '{"model":'], ['a number', '5'], ['null', 'null'], ['a list', '[]'], ['NaN', raw('temperature', 'NaN')], ['Infinity', raw('temperature', '1e999')],
  ['bytes that are not UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])],
  ['half a character', Buffer.concat([Buffer.from(body({}).slice(0, -2)), Buffer.from([0xe2, 0x82]), Buffer.from('"}')])],
  ['brackets 10,000 deep', nested(10_000, '[', ']')],
  ['a schema 10,000 deep', body({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { a: '@' } } } }).replace('"@"', nested(10_000, '{"a":', '}').replace('{"a":}', '{}'))],
  ...['n', 'seed', 'temperature', 'top_p', 'min_p', 'top_k', 'max_tokens', 'repetition_penalty', 'top_logprobs'].map((name) => [`a text as ${name}`, body({ [name]: '1' })] as const),
  ...[1e9, -1, 0, 1.5, true, [], {}].map((n) => [`n ${JSON.stringify(n)}`, body({ n })] as const),
  ...[-1, 1e9, 2.01].map((temperature) => [`temperature ${temperature}`, body({ temperature })] as const),
  ...[-0.1, 0, 1.1].map((top_p) => [`top_p ${top_p}`, body({ top_p })] as const),
  ...[-1, 2].map((min_p) => [`min_p ${min_p}`, body({ min_p })] as const),
  ...[0, -5, 0.5, 1e300].map((max_tokens) => [`max_tokens ${max_tokens}`, body({ max_tokens })] as const),
  ['a penalty of 0', body({ repetition_penalty: 0 })], ['a seed of 1e300', body({ seed: 1e300 })], ['logit_bias', body({ logit_bias: { 5: 100 } })], ['frequency_penalty', body({ frequency_penalty: 1 })],
  ['100,000 stops', body({ stop: Array.from({ length: 100_000 }, () => 'a') })], ['an empty stop', body({ stop: [''] })], ['a stop of 10,000 letters', body({ stop: 'x'.repeat(10_000) })],
  ['more than a body may have', body({ stop: Array.from({ length: 1_000_000 }, () => 'a') })],
  ['no messages', body({ messages: [] })], ['messages as an object', body({ messages: {} })], ['a message of null', body({ messages: [null] })],
  ['an unknown role', body({ messages: [{ role: 'god', content: 'hello' }] })], ['content as a number', body({ messages: [{ role: 'user', content: 5 }] })],
  ['an image', body({ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://x' } }] }] })],
  ['more messages than there may be', body({ messages: Array.from({ length: 20_000 }, () => ({ role: 'user', content: '' })) })],
  ['another model', body({ model: 'gpt-4' })], ['a model of null', body({ model: null })], ['a path as model', body({ model: '../../etc/passwd' })],
  ...['..', '../x', 'a/b', 'a\\b', '.hidden', 'x'.repeat(65), '', 'a\u0000b', 'a b', '%2e%2e', 'ä'].map((session_id) => [`session ${JSON.stringify(session_id)}`, body({ session_id })] as const),
  ['a schema that is none', body({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 5 } } } })],
  ['a schema of a broken pattern', body({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'string', pattern: '(((' } } } })],
  ['a reference to nowhere', body({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { $ref: 'http://127.0.0.1:1/x' } } } })],
  ['an unknown format', body({ response_format: { type: 'xml' } })],
  ['a tool without a name', body({ tools: [{ type: 'function', function: {} }] })], ['a tool that is not there', body({ tool_choice: { type: 'function', function: { name: 'x' } } })],
  ['a tool of a bad name', body({ tools: [{ type: 'function', function: { name: 'a b' } }] })], ['129 tools', body({ tools: Array.from({ length: 129 }, () => ({ type: 'function', function: { name: 'x' } })) })],
  ['required without tools', body({ tool_choice: 'required' })], ['top_logprobs alone', body({ top_logprobs: 5 })], ['21 top_logprobs', body({ logprobs: true, top_logprobs: 21 })],
  ['a text beyond the context', body({ messages: [{ role: 'user', content: 'x'.repeat(10_000) }] })],
  ['stream as a text', body({ stream: 'yes' })],
];
