import type { Model } from '../../decode/model.js';
import { MagicpigError } from '../../errors.js';
import type { ChatTurn, PromptInput, Tool } from './protocol.js';

/** The tokens of a request's text. Throws TEMPLATE_FAILED, EMPTY_PROMPT, INVALID_OPTION or CONTEXT_EXCEEDED. */
export function promptTokens(model: Model, prompt: PromptInput): number[] {
  const tokens = encode(model, prompt);
  if (tokens.length === 0) throw new MagicpigError('EMPTY_PROMPT', 'the prompt is empty; give some text to read');
  if (tokens.length >= model.context) {
    throw new MagicpigError('CONTEXT_EXCEEDED', `the prompt has ${tokens.length} tokens, and the context, with room for an answer, is ${model.context}; shorten it`);
  }
  return tokens;
}

function encode(model: Model, prompt: PromptInput): number[] {
  switch (prompt.kind) {
    case 'text':
      return model.tokenizer.encode(prompt.text);
    case 'tokens': {
      const { vocabSize } = model.config;
      if (prompt.tokens.some((token) => token >= vocabSize)) throw new MagicpigError('INVALID_OPTION', `prompt has a token that the model does not; there are ${vocabSize}`);
      return [...prompt.tokens];
    }
    case 'chat':
      return model.tokenizer.encode(chatText(model, prompt.messages, prompt.tools), { parseSpecial: true });
  }
}

/** By the model's own template. Where that knows nothing of tools, what there is to say of them goes into the messages. */
function chatText(model: Model, messages: readonly ChatTurn[], tools: readonly Tool[]): string {
  const knowsTools = /\btools\b/.test(model.chatTemplate ?? '');
  const described = tools.map((tool) => ({ type: 'function', function: { name: tool.name, description: tool.description ?? '', parameters: tool.parameters ?? {} } }));
  if (knowsTools) return model.renderChat(messages, described.length > 0 ? { tools: described } : {});
  return model.renderChat([...toolPrompt(described), ...messages.map(withoutTools)].reduce(mergeSystem, []));
}

/** The widespread way of models whose template does know tools (Hermes, Qwen): JSON between tags. */
function toolPrompt(tools: readonly object[]): ChatTurn[] {
  if (tools.length === 0) return [];
  const content = [
    'You may call one of these functions, given as JSON, one a line:',
    '<tools>',
    ...tools.map((tool) => JSON.stringify(tool)),
    '</tools>',
    'To call one, answer with its name and arguments as JSON between tags, and nothing else:',
    '<tool_call>',
    '{"name": "the function", "arguments": {}}',
    '</tool_call>',
  ].join('\n');
  return [{ role: 'system', content }];
}

/** Two system messages at the beginning become one: many templates look at the first message alone. */
function mergeSystem(merged: ChatTurn[], message: ChatTurn): ChatTurn[] {
  const [first] = merged;
  if (merged.length === 1 && first?.role === 'system' && message.role === 'system') {
    return [{ role: 'system', content: `${message.content}\n\n${first.content}` }];
  }
  merged.push(message);
  return merged;
}

/** Calls and their results as text, for templates that show a message's content alone. */
function withoutTools(message: ChatTurn): ChatTurn {
  if (message.role === 'tool') return { role: 'user', content: `<tool_response>\n${message.content}\n</tool_response>` };
  const calls = (message.tool_calls ?? []).map(({ function: { name, arguments: values } }) => `<tool_call>\n${JSON.stringify({ name, arguments: values })}\n</tool_call>`);
  return { role: message.role, content: [...(message.content === '' ? [] : [message.content]), ...calls].join('\n') };
}
