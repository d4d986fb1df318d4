import { setTimeout as sleep } from 'node:timers/promises';

import test from 'ava';

import { renderChat } from '../src/model/template.js';
import { tinyTemplate } from './support/tiny-llama.js';

const hello = [{ role: 'user', content: 'hello' }];

test('renders messages and opens the assistant’s turn', (t) => {
  t.is(renderChat(tinyTemplate, hello), '<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n');
  t.is(renderChat(tinyTemplate, hello, { addGenerationPrompt: false }), '<|im_start|>user\nhello<|im_end|>\n');
});

test('gives a template the tokens and variables that it names', (t) => {
  t.is(renderChat('{{ bos_token }}{{ date }}{{ eos_token }}', [], { bosToken: '<s>', eosToken: '</s>', variables: { date: 'today' } }), '<s>today</s>');
});

test('a template’s own complaint is the message', (t) => {
  const error = t.throws(() => renderChat("{{ raise_exception('roles must alternate') }}", hello));
  t.like(error, { code: 'TEMPLATE_FAILED' });
  t.regex(error.message, /roles must alternate/);
});

test('a template that does not parse is a typed error of one line', (t) => {
  const error = t.throws(() => renderChat('{% if %}', hello));
  t.like(error, { code: 'TEMPLATE_FAILED' });
  t.notRegex(error.message, /\n/);
});

test('a template that does not end is stopped after a second, and the thread lives on', async (t) => {
  const started = performance.now();
  const loop = '{% for a in range(60000) %}{% for b in range(60000) %}{% endfor %}{% endfor %}';
  const error = t.throws(() => renderChat(loop, hello));
  t.like(error, { code: 'TEMPLATE_FAILED' });
  t.regex(error.message, /more than 1000 ms/);
  t.true(performance.now() - started < 5000);
  await sleep(1);
  t.is(renderChat('{{ messages[0].content }}', hello), 'hello');
});

test('a template that ran out of time because the machine stood still is rendered once more, and only once', (t) => {
  const cell = new Int32Array(new SharedArrayBuffer(4));
  let calls = 0;
  /** Time passes, and nobody uses the processor. */
  const stall = (times: number) => () => {
    calls += 1;
    if (calls <= times) Atomics.wait(cell, 0, 0, 1200);
    return 'done';
  };
  t.is(renderChat('{{ stall() }}', hello, { variables: { stall: stall(1) } }), 'done');
  t.is(calls, 2);
  calls = 0;
  t.like(t.throws(() => renderChat('{{ stall() }}', hello, { variables: { stall: stall(9) } })), { code: 'TEMPLATE_FAILED' });
  t.is(calls, 2);
  calls = 0;
  const spin = () => {
    calls += 1;
    for (const end = performance.now() + 1200; performance.now() < end;);
  };
  t.like(t.throws(() => renderChat('{{ spin() }}', hello, { variables: { spin } })), { code: 'TEMPLATE_FAILED' });
  t.is(calls, 1, 'what used the processor is not tried again');
});

test('a range that would fill the memory is refused', (t) => {
  const error = t.throws(() => renderChat('{% for a in range(1000000000) %}{% endfor %}', hello));
  t.like(error, { code: 'TEMPLATE_FAILED' });
  t.is(renderChat('{% for a in range(1, 7, 2) %}{{ a }}{% endfor %}', hello), '135');
});
