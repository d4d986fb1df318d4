import { z } from 'zod';
import { sessionNamePattern } from './engine/session-name.js';

/** Alternatives that may be asked for; each is as much work as a request of its own. */
const MAX_CHOICES = 16;
const MAX_STOPS = 16;

const text = z.string();
const count = (max: number) => z.int().min(1).max(max);
const maxTokens = count(2 ** 31 - 1).nullish().describe('Tokens to generate at most; default: as many as the context has room for');
/** What changes the outcome elsewhere and is not offered here must not be passed over in silence. */
const onlyZero = z.literal(0).nullish().describe('Not supported: only 0');

/** How this answer's attention is to differ from the server's own, which its options say. Another index would have to be built first. */
const attention = z.object({
  policy: z.enum(['exact', 'sketch', 'lsh']).optional().describe("exact reads every key; the others can only be asked for where they are the server's own"),
  budget: z.number().gt(0).max(1).optional().describe('sketch: mean fraction of the indexed keys that a step reads'),
  target_error: z.number().gt(0).lt(1).optional().describe('sketch, instead of a budget: mean relative error of attention, by its own prediction'),
  epsilon: z.number().gt(0).lt(1).optional().describe("sketch, instead of a budget: where the interval of every head's relative error must end"),
  delta: z.number().gt(0).max(0.2).optional().describe('With epsilon: how often an interval may be wrong. Default 0.05'),
  dense_layers: z.array(z.int().min(0).max(4095)).max(4096).optional().describe('Layers that read every key'),
}).strict();

/** How tokens are chosen, the same in all three interfaces. */
const sampling = {
  model: text.describe('The name that /v1/models lists'),
  temperature: z.number().min(0).max(2).nullish().describe('Divides logits; 0 always takes the most likely token. Default 1'),
  top_p: z.number().gt(0).max(1).nullish().describe('Keeps the fewest tokens that together have this probability. Default 1'),
  top_k: z.int().min(0).max(2 ** 31 - 1).nullish().describe('Keeps this many of the most likely tokens; 0 keeps all. Default 0'),
  min_p: z.number().min(0).max(1).nullish().describe("Keeps tokens with this fraction of the most likely one's probability. Default 0"),
  repetition_penalty: z.number().min(1).max(10).nullish().describe('Makes tokens among the last 64 less likely. Default 1, which is none'),
  seed: z.int().nullish().describe('The same seed gives the same text, from the same state of a session. Default: another one each time'),
  session_id: z.string().regex(new RegExp(sessionNamePattern)).nullish().describe('A session that the server keeps on disk: what it has read of the text is not read again'),
  stream: z.boolean().nullish(),
  attention: attention.nullish(),
};

const choices = {
  n: count(MAX_CHOICES).nullish().describe('Alternatives to generate. Default 1'),
  stop: z.union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(MAX_STOPS)]).nullish().describe('Texts that end the generation and are not shown'),
  frequency_penalty: onlyZero,
  presence_penalty: onlyZero,
  logit_bias: z.object({}).strict().nullish().describe('Not supported: only empty'),
  stream_options: z.object({ include_usage: z.boolean().nullish().describe('Whether a last chunk tells the usage') }).nullish(),
};

const jsonSchema = z.record(z.string(), z.unknown()).describe('A JSON schema');
const functionName = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/);

const textPart = z.object({ type: z.literal('text'), text });
const content = z.union([text, z.array(textPart)]);
const toolCall = z.object({ id: text, type: z.literal('function'), function: z.object({ name: functionName, arguments: text }) });

const message = z.union([
  z.object({ role: z.enum(['system', 'developer', 'user']), content }),
  z.object({ role: z.literal('assistant'), content: content.nullish(), tool_calls: z.array(toolCall).max(128).nullish() }),
  z.object({ role: z.literal('tool'), content, tool_call_id: text }),
]);

export const chatBody = z.object({
  ...sampling,
  ...choices,
  messages: z.array(message).min(1).max(16_384),
  max_tokens: maxTokens,
  max_completion_tokens: maxTokens,
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  response_format: z.union([
    z.object({ type: z.enum(['text', 'json_object']) }),
    z.object({ type: z.literal('json_schema'), json_schema: z.object({ name: text.nullish(), schema: jsonSchema, strict: z.boolean().nullish() }) }),
  ]).nullish(),
  report: z.object({
    bins: z.int().min(1).max(512).optional().describe('Bins into which the text is cut at most, to say where keys were drawn; the answer takes more of the same size. Default 512'),
  }).strict().nullish().describe("Asks for a report of the answer's attention; needs n to be 1"),
  tools: z.array(z.object({
    type: z.literal('function'),
    function: z.object({ name: functionName, description: text.nullish(), parameters: jsonSchema.nullish() }),
  })).max(128).nullish(),
  tool_choice: z.union([
    z.enum(['none', 'auto', 'required']),
    z.object({ type: z.literal('function'), function: z.object({ name: functionName }) }),
  ]).nullish(),
});
export type ChatBody = z.infer<typeof chatBody>;

const tokenList = z.array(z.int().min(0).max(2 ** 31 - 1)).min(1);

export const completionBody = z.object({
  ...sampling,
  ...choices,
  prompt: z.union([text, z.array(text).min(1).max(MAX_CHOICES), tokenList, z.array(tokenList).min(1).max(MAX_CHOICES)]),
  max_tokens: count(2 ** 31 - 1).nullish().describe('Tokens to generate at most. Default 16'),
  logprobs: z.int().min(0).max(20).nullish().describe('Reports the probabilities of so many most likely tokens'),
  echo: z.literal(false).nullish().describe('Not supported: only false'),
  suffix: z.literal('').nullish().describe('Not supported: only empty'),
  best_of: z.literal(1).nullish().describe('Not supported: only 1'),
});
export type CompletionBody = z.infer<typeof completionBody>;

const inputPart = z.object({ type: z.enum(['input_text', 'output_text', 'text']), text });
const inputItem = z.union([
  z.object({
    type: z.literal('message').nullish(),
    role: z.enum(['system', 'developer', 'user', 'assistant']),
    content: z.union([text, z.array(inputPart)]),
  }),
  z.object({ type: z.literal('function_call'), call_id: text, name: functionName, arguments: text }),
  z.object({ type: z.literal('function_call_output'), call_id: text, output: text }),
]);

export const responseBody = z.object({
  ...sampling,
  input: z.union([text, z.array(inputItem).min(1).max(16_384)]),
  instructions: text.nullish(),
  max_output_tokens: maxTokens,
  previous_response_id: z.null().optional().describe('Not supported: responses are not stored; send the whole conversation'),
  conversation: z.null().optional().describe('Not supported, likewise'),
  background: z.literal(false).nullish().describe('Not supported: only false'),
  text: z.object({
    format: z.union([
      z.object({ type: z.enum(['text', 'json_object']) }),
      z.object({ type: z.literal('json_schema'), name: text.nullish(), schema: jsonSchema, strict: z.boolean().nullish() }),
    ]).nullish(),
  }).nullish(),
  tools: z.array(z.object({ type: z.literal('function'), name: functionName, description: text.nullish(), parameters: jsonSchema.nullish() })).max(128).nullish(),
  tool_choice: z.union([z.enum(['none', 'auto', 'required']), z.object({ type: z.literal('function'), name: functionName })]).nullish(),
});
export type ResponseBody = z.infer<typeof responseBody>;

export const sessionParams = z.object({ id: z.string().regex(new RegExp(sessionNamePattern)) });
export type SessionParams = z.infer<typeof sessionParams>;

/** Every answer with a status from 400 on. */
export const errorAnswer = z.object({
  error: z.object({ message: text, type: text, code: text.nullable(), param: text.nullable() }),
}).describe('What was wrong');

const usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({ cached_tokens: z.int().describe('Tokens that were not read again') }),
});

const number = z.number();

const report = z.object({
  policy: text,
  budget: number.describe('Fraction of the indexed keys that were drawn'),
  keys_read: number.describe('Fraction of all keys that were read'),
  ms_per_token: number.describe('Mean time of a decoding step'),
  attend_ms_per_token: number.describe('Of this, attention'),
  relative_error: z.object({
    mean: number.describe('Mean over steps, layers and heads'),
    max: number,
    read_whole: number.describe('Share of the outputs for which all keys were read'),
  }).nullable().describe("What steps said of their own error, with target_error or epsilon, relative to each head's output"),
  steps: z.array(z.object({ text, ms: number.nullable(), attend_ms: number.nullable(), keys_read: number.nullable(), relative_error: number.nullable() }))
    .describe('The tokens, and the steps they came of; the first came of reading'),
  draws: z.object({
    bin_tokens: z.int().describe('Tokens of a bin'),
    texts: z.array(text).describe('The text, answer included, cut into bins'),
    layers: z.array(z.array(number)).describe('Keys that were drawn from each bin, for each layer; summed over steps and heads'),
  }),
});

export const chatAnswer = z.object({
  id: text,
  object: z.literal('chat.completion'),
  created: z.int(),
  model: text,
  choices: z.array(z.object({
    index: z.int(),
    message: z.object({ role: z.literal('assistant'), content: text.nullable(), tool_calls: z.array(toolCall).optional() }),
    logprobs: z.unknown(),
    finish_reason: z.enum(['stop', 'length', 'tool_calls']),
  })),
  usage,
  report: report.optional().describe('Where it was asked for'),
}).describe('The answer; with "stream", server-sent events of "chat.completion.chunk", the report in the last one');

export const completionAnswer = z.object({
  id: text,
  object: z.literal('text_completion'),
  created: z.int(),
  model: text,
  choices: z.array(z.object({ index: z.int(), text, logprobs: z.unknown(), finish_reason: z.enum(['stop', 'length']) })),
  usage,
}).describe('The continuations; with "stream", server-sent events of the same kind');

export const responseAnswer = z.object({
  id: text,
  object: z.literal('response'),
  created_at: z.int(),
  status: z.enum(['completed', 'incomplete', 'in_progress']),
  model: text,
  output: z.array(z.unknown()),
}).describe('The response; with "stream", server-sent events "response.*"');

export const modelAnswer = z.object({ id: text, object: z.literal('model'), created: z.int(), owned_by: text, context_length: z.int() });
export const modelsAnswer = z.object({ object: z.literal('list'), data: z.array(modelAnswer) }).describe('The one model');
export const sessionsAnswer = z.object({
  object: z.literal('list'),
  data: z.array(z.object({ id: text, object: z.literal('session'), tokens: z.int(), bytes: z.int(), last_used: z.int() })),
}).describe('The named sessions');
export const removedAnswer = z.object({ id: text, object: z.literal('session'), deleted: z.literal(true) }).describe('It is gone');
export const healthAnswer = z.object({ status: z.enum(['ok', 'stopping']) }).describe('The server answers');
