// The command line as a person or a program meets it: a process, its two streams and its exit code.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import test from 'ava';

import { errorCodes } from '../src/errors.js';
import { failsWith, magicpig, main, model, typescript } from './support/command-line.js';
import { string, u32, writeGguf } from './support/gguf-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { endless, tinyLlama, withMetadata } from './support/tiny-llama.js';

test('generate writes the text to stdout and one line of figures to stderr', async (t) => {
  const { code, stdout, stderr } = await magicpig(['generate', '-m', model(t), '-p', 'hello world', '-n', '8']);
  t.is(code, 0, stderr);
  t.true(stdout.endsWith('\n'));
  t.regex(stderr, /^\d+ tokens read in [\d.]+ s; 8 written at [\d.]+ ms each \(attention [\d.]+ ms\); [\d.]+% of keys read[^\n]*\n$/);
});

test('generate --json prints exactly one object with every figure', async (t) => {
  const args = ['generate', '-m', model(t), '-p', 'hello world', '-n', '8', '--policy', 'exact', '--json'];
  const { code, stdout, stderr } = await magicpig(args);
  t.is(code, 0, stderr);
  t.is(stderr, '');
  const result = JSON.parse(stdout) as Record<string, unknown>;
  t.deepEqual(Object.keys(result), [
    'model', 'device', 'policy', 'text', 'tokens', 'promptTokens', 'reusedTokens', 'generatedTokens', 'prefillSeconds', 'decodeMsPerToken',
    'attendMsPerToken', 'keysRead', 'indexBytesPerKey', 'finishReason', 'peakRssBytes',
  ]);
  t.is(result.policy, 'exact');
  t.is(result.keysRead, 1);
  t.is(result.generatedTokens, 8);
  t.is((result.tokens as number[]).length, 8);
  t.is(result.finishReason, 'length');
});

test('bench attention measures a layer', async (t) => {
  const args = ['bench', 'attention', '--shape', 'smollm2-135m', '--context', '4096', '--budget', '0.05', '--threads', '1', '--json'];
  const { code, stdout, stderr } = await magicpig(args);
  t.is(code, 0, stderr);
  const result = JSON.parse(stdout) as Record<string, number>;
  t.deepEqual(Object.keys(result), [
    'shape', 'context', 'batch', 'threads', 'isa', 'policy', 'rows', 'budget', 'hashMs', 'retrieveMs', 'attendMs', 'stepMs', 'exactMs', 'streamGBs',
    'exactLimitMs', 'indexSeconds', 'indexBytesPerKey', 'relativeL2',
  ]);
  t.like(result, { shape: 'smollm2-135m', context: 4096, threads: 1, policy: 'sketch' });
  t.true(Math.abs((result.budget ?? 0) / 0.05 - 1) < 0.2, String(result.budget));
  t.true((result.indexBytesPerKey ?? 0) < 36);
  const residual = await magicpig([...args, '--residual']);
  t.is(residual.code, 0, residual.stderr);
  const corrected = JSON.parse(residual.stdout) as Record<string, number>;
  t.true((corrected.indexBytesPerKey ?? 0) > 66, 'codes of values too');
  t.true((corrected.relativeL2 ?? 1) < (result.relativeL2 ?? 0) / 2, `${String(corrected.relativeL2)} with, ${String(result.relativeL2)} without`);
});

test('bench attention holds a batch, and rows of 8 bits, to their own limit', async (t) => {
  const { code, stdout, stderr } = await magicpig(['bench', 'attention', '--shape', 'smollm2-135m', '--context', '4096', '--rows', 'int8', '--batch', '2', '--threads', '1', '--json']);
  t.is(code, 0, stderr);
  const { rows, batch, streamGBs, exactLimitMs } = JSON.parse(stdout) as { rows: string; batch: number; streamGBs: number; exactLimitMs: number };
  t.deepEqual([rows, batch], ['int8', 2]);
  // 2 sequences of 4,096 tokens, 3 KV heads, 2 x 64 bytes and two scales of 2.
  t.true(Math.abs(exactLimitMs * streamGBs * 1e6 / (2 * 4096 * 3 * 132) - 1) < 1e-6);
});

test('bench decode compares policies and lengths', async (t) => {
  const args = ['bench', 'decode', '--model', model(t), '--contexts', '700,40', '--policies', 'exact,sketch', '--json'];
  const { code, stdout, stderr } = await magicpig(args);
  t.is(code, 0, stderr);
  const { rows } = JSON.parse(stdout) as { rows: Record<string, number | string>[] };
  t.deepEqual(rows.map(({ context, policy }) => [context, policy]), [[40, 'exact'], [40, 'sketch'], [700, 'exact'], [700, 'sketch']]);
  t.deepEqual(Object.keys(rows[0] ?? {}), ['context', 'policy', 'prefillSeconds', 'decodeMsPerToken', 'attendMsPerToken', 'keysRead']);
  t.is(rows[2]?.keysRead, 1);
  t.true(Number(rows[3]?.keysRead) < 0.5);
});

test('eval fidelity compares policies at budgets, and writes a page', async (t) => {
  const folder = temporaryFolder(t);
  const [text, page] = [join(folder, 'text.txt'), join(folder, 'report.html')];
  writeFileSync(text, Array.from({ length: 500 }, (_, i) => `${i * i} `).join(''));
  const args = ['eval', 'fidelity', '-m', model(t), '-f', text, '--prefix', '900', '--steps', '4', '--policies', 'static,topk', '--budget', '0.05,0.1', '--report', page];
  const { code, stdout, stderr } = await magicpig([...args, '--json']);
  t.is(code, 0, stderr);
  t.is(stderr, '');
  const { policies } = JSON.parse(stdout) as { policies: Record<string, number | string>[] };
  t.deepEqual(policies.map(({ policy, budget }) => [policy, budget]), [['static', 0], ['topk', 0.05], ['topk', 0.1]]);
  for (const key of ['perplexity', 'klToExact', 'klLow', 'klHigh', 'top1Agreement', 'relativeL2', 'bytesReadFraction', 'keysRead']) {
    t.is(typeof policies[1]?.[key], 'number', key);
  }
  t.regex(readFileSync(page, 'utf8'), /^<!doctype html>[\s\S]*topk 5%[\s\S]*<\/html>\n$/);
  const shown = await magicpig(args);
  t.regex(shown.stdout, /\ntopk +10% /);
  const residual = await magicpig([...args.slice(0, 10), '--policies', 'sketch', '--budget', '0.05', '--residual', '--json']);
  t.is(residual.code, 0, residual.stderr);
  t.like(JSON.parse(residual.stdout), { policies: [{ policy: 'sketch', residual: true }] });
});

test('eval ruler answers questions about long texts', async (t) => {
  const page = join(temporaryFolder(t), 'report.html');
  const args = ['eval', 'ruler', '-m', model(t, 2048), '--tasks', 'niah_single_1,vt', '--lengths', '1600', '-n', '1', '--policies', 'sketch,static', '--report', page];
  const { code, stdout, stderr } = await magicpig([...args, '--json']);
  t.is(code, 0, stderr);
  const { rows } = JSON.parse(stdout) as { rows: Record<string, unknown>[] };
  t.deepEqual(rows.map(({ task, policy }) => `${String(task)} ${String(policy)}`), ['niah_single_1 sketch', 'niah_single_1 static', 'vt sketch', 'vt static']);
  t.deepEqual(Object.keys(rows[0] ?? {}), ['task', 'length', 'policy', 'score', 'samples', 'exactScore', 'difference', 'low', 'high', 'informative', 'keysRead']);
  t.true(existsSync(page));
});

test('the same seed gives the same text, another one another text', async (t) => {
  const path = model(t);
  const text = async (seed: string) => {
    const { stdout } = await magicpig(['generate', '-m', path, '-p', 'hello', '-n', '24', '-t', '1', '--seed', seed, '--json']);
    return (JSON.parse(stdout) as { tokens: number[] }).tokens;
  };
  const first = await text('7');
  t.deepEqual(await text('7'), first);
  t.notDeepEqual(await text('8'), first);
});

test('a prompt comes from a file or from standard input', async (t) => {
  const path = model(t);
  const file = join(temporaryFolder(t), 'prompt.txt');
  writeFileSync(file, 'hello world');
  const tokens = async (args: string[], stdin?: string) => {
    const { stdout } = await magicpig(['generate', '-m', path, '-n', '6', '--json', ...args], { stdin });
    return (JSON.parse(stdout) as { tokens: number[] }).tokens;
  };
  const expected = await tokens(['-p', 'hello world']);
  t.deepEqual(await tokens(['-f', file]), expected);
  t.deepEqual(await tokens(['-f', '-'], 'hello world'), expected);
});

for (const [name, args, message] of [
  ['an unknown shape', ['bench', 'attention', '--shape', 'gpt-9'], /--shape.*llama-3\.1-8b/],
  ['a bench of nothing', ['bench'], /attention or decode/],
  ['a budget for lsh', ['generate', '-p', 'x', '--policy', 'lsh', '--budget', '0.1'], /--budget is for the policies sketch, topk, oracle, quest; the policy is lsh, which reads the keys that collide/],
  ['a budget for exact', ['bench', 'decode', '--policies', 'exact', '--budget', '0.1'], /--budget is for the policies .* is exact, which reads every key/],
  ['a budget of 0', ['generate', '-p', 'x', '--budget', '0'], /--budget is 0/],
  ['a budget and an epsilon', ['generate', '-p', 'x', '--budget', '0.1', '--epsilon', '0.1'], /budget and epsilon exclude each other/],
  ['a target error of lsh', ['generate', '-p', 'x', '--policy', 'lsh', '--target-error', '0.1'], /is for the policy sketch/],
  ['an epsilon of 2', ['generate', '-p', 'x', '--epsilon', '2'], /--epsilon is 2/],
  ['a delta of no epsilon', ['eval', 'fidelity', '-f', 'x', '--delta', '0.1'], /--delta.*--epsilon/],
  ['an epsilon of no sketch', ['eval', 'fidelity', '-f', 'x', '--policies', 'topk', '--epsilon', '0.1'], /for the policy sketch/],
  ['3 bits a code', ['generate', '-p', 'x', '--sketch-bits', '3'], /--sketch-bits is 3; it must be 1, 2, 4 or 8/],
  ['an evaluation of nothing', ['eval'], /fidelity or ruler/],
  ['a policy that is none', ['eval', 'ruler', '--policies', 'magic'], /policy magic is unknown; there are sketch/],
  ['a task that is none', ['eval', 'ruler', '--tasks', 'qa'], /task qa is unknown; there are all, niah_single_1/],
  ['budgets that are no numbers', ['eval', 'fidelity', '-f', 'x', '--budget', '1%'], /--budget is 1%; it takes numbers/],
  ['no command', [], /no command/],
  ['an unknown command', ['generat'], /there is no command generat; magicpig --help lists them/],
  ['a misspelt command with an option', ['genrate', '-p', 'hi'], /there is no command genrate; magicpig --help lists them; did you mean generate\?\n/],
  ['a command unlike any', ['foo', '--json=false'], /there is no command foo; magicpig --help lists them\n/],
  ['a misspelt command of a group', ['bench', 'atention'], /bench has no command atention; magicpig bench --help lists them; did you mean attention\?\n/],
  ['an unknown command of a group, with an option', ['sessions', 'foo', '-x'], /sessions has no command foo; magicpig sessions --help/],
  ['an option that is given twice', ['generate', '-p', 'hi', '-p', 'twice'], /--prompt is given twice/],
  ['an option that is given by both names', ['generate', '-p', 'x', '-n', '2', '--max-tokens', '3'], /--max-tokens is given twice/],
  ['a list of another command, given twice', ['tune', '-f', 'a', '-f', 'b'], /--text-file is given twice/],
  ['a short option whose number is none', ['generate', '-p', 'x', '-t', 'hot'], /--temperature takes a number/],
  ['a short option whose number is too small', ['generate', '-p', 'x', '-n', '-5'], /--max-tokens is -5/],
  ['an option without its value', ['generate', '-p', 'x', '-n'], /--max-tokens takes a value/],
  ['an option before another instead of its value', ['generate', '-p', '-n', '3'], /--prompt takes a value/],
  ['a list without a value', ['generate', '-p', 'x', '--stop'], /--stop takes a value/],
  ['a choice without its value', ['generate', '-p', 'x', '--policy'], /--policy takes a value: one of "sketch"/],
  ['no model', ['inspect'], /inspect takes a model: a short name/],
  ['no text', ['eval', 'fidelity'], /eval fidelity takes a text: -f FILE \(--text-file FILE\)/],
  ['an unknown command of a group', ['sessions', 'foo'], /sessions has no command foo; magicpig sessions --help/],
  ['a file without its option', ['generate', import.meta.filename], /given without an option.*-f .*cli\.test\.ts; magicpig generate --help/],
  ['a word without its option', ['generate', 'nowhere.txt'], /nowhere\.txt is given without an option before it; magicpig generate --help/],
  ['a missing argument', ['pull'], /pull takes a model: a short name/],
  ['an unknown option', ['generate', '-p', 'x', '--polcy', 'lsh'], /there is no option --polcy; magicpig generate --help/],
  ['two unknown options', ['generate', '-p', 'x', '--max-body', '1', '-q'], /there is no option --max-body, -q; magicpig generate --help/],
  ['an unknown policy', ['generate', '-p', 'x', '--policy', 'magic'], /--policy is "magic"; it must be one of "sketch"/],
  ['an unknown row type', ['generate', '-p', 'x', '--rows', 'int4'], /rows.*bf16/],
  ['an unknown row type of a bench', ['bench', 'attention', '--rows', 'int4'], /rows.*bf16/],
  ['no prompt', ['generate'], /give --prompt TEXT or --prompt-file FILE; -f - reads standard input\n/],
  ['two prompts', ['generate', '-p', 'x', '-f', 'y'], /not both/],
  ['K of 0', ['generate', '-p', 'x', '--lsh-k', '0'], /--lsh-k is 0.*1 .*16/],
  ['K of 17', ['generate', '-p', 'x', '--lsh-k', '17'], /--lsh-k is 17/],
  ['L of 1', ['generate', '-p', 'x', '--lsh-l', '1'], /--lsh-l is 1/],
  ['a number that is none', ['generate', '-p', 'x', '--max-tokens', 'many'], /--max-tokens takes a number/],
  ['a temperature below 0', ['generate', '-p', 'x', '--temperature=-1'], /--temperature is -1/],
  ['top-p above 1', ['generate', '-p', 'x', '--top-p', '1.5'], /--top-p is 1.5/],
] as const) {
  test(`${name} is wrong usage, told in one line`, async (t) => {
    failsWith(t, await magicpig(args), 2, message);
  });
}

test('lists stay lists, and - and negative numbers are values', async (t) => {
  const listed = await magicpig(['generate', '-m', model(t), '-f', '-', '-n', '2', '--stop', 'a', '--stop', 'b', '--json'], { stdin: 'hello' });
  t.is(listed.code, 0, listed.stdout);
  failsWith(t, await magicpig(['generate', '-p', 'x', '-t', '-1']), 2, /--temperature is -1/);
});

test('an empty prompt is wrong usage', async (t) => {
  failsWith(t, await magicpig(['generate', '-m', model(t), '-p', '']), 2, /the prompt is empty/);
});

test('a model or a file that is not there is named', async (t) => {
  failsWith(t, await magicpig(['generate', '-m', '/nowhere/model.gguf', '-p', 'x']), 1, /\/nowhere\/model\.gguf/);
  failsWith(t, await magicpig(['generate', '-m', model(t), '-f', '/nowhere/prompt.txt']), 1, /\/nowhere\/prompt\.txt/);
});

test('a text that ends since the context is full says so', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'm.gguf'), endless(tinyLlama({ headDim: 64, heads: 2, kvHeads: 1, context: 1024 })));
  const { code, stderr } = await magicpig(['generate', '-m', path, '-p', 'hello', '-n', '500', '--context', '40']);
  t.is(code, 0, stderr);
  t.regex(stderr, /\nthe context of 40 tokens is full; --context allows more\n$/);
  const cut = await magicpig(['generate', '-m', path, '-p', 'hello', '-n', '5', '--context', '40']);
  t.notRegex(cut.stderr, /full/);
});

test('a prompt longer than the context says by how much', async (t) => {
  const outcome = await magicpig(['generate', '-m', model(t, 16), '-p', 'x'.repeat(40)]);
  failsWith(t, outcome, 1, /40 tokens, and the context is 16; shorten it, or take a model with a longer context: this one was trained for 16/);
  const narrowed = await magicpig(['generate', '-m', model(t, 64), '--context', '16', '-p', 'x'.repeat(40)]);
  failsWith(t, narrowed, 1, /the context is 16; shorten it, or allow more with the context option \(--context\)/);
});

test('a context beyond what the model was trained for is used, with a warning', async (t) => {
  const warning = /^the model was trained for 16 tokens; /;
  const beyond = await magicpig(['generate', '-m', model(t, 16), '--context', '64', '-n', '1', '-p', 'x'.repeat(40)]);
  t.is(beyond.code, 0);
  t.regex(beyond.stderr, warning);
  const within = await magicpig(['generate', '-m', model(t, 64), '--context', '64', '-n', '1', '-p', 'x'.repeat(40)]);
  t.notRegex(within.stderr, warning);
});

test('a file that is no text is refused before a model is loaded, with what makes a text of it', async (t) => {
  const path = join(temporaryFolder(t), 'file');
  for (const [content, remedy] of [
    ['%PDF-1.7\n\0', /a PDF: pdftotext/],
    ['PK\x03\x04\0', /pandoc/],
    ['caf\xe9', /iconv/],
    ['a\0b', /pdftotext, pandoc/],
  ] as const) {
    writeFileSync(path, content, 'latin1');
    for (const command of ['generate', 'tune', 'chat']) {
      // A chat asks its model how a document is put.
      const outcome = await magicpig([command, '-m', command === 'chat' ? model(t) : '/nowhere.gguf', '-f', path]);
      failsWith(t, outcome, 1, /file is no text in UTF-8; convert it first/);
      failsWith(t, outcome, 1, remedy);
    }
    failsWith(t, await magicpig(['generate', '-m', '/nowhere.gguf', '-f', '-'], { stdin: 'a\0b' }), 1, /standard input is no text in UTF-8/);
  }
  writeFileSync(path, 'café');
  t.is((await magicpig(['generate', '-m', model(t), '-f', path, '-n', '1'])).code, 0, 'a control: text is read');
});

test('an unknown architecture is named', async (t) => {
  const spec = tinyLlama({ headDim: 64, heads: 2, kvHeads: 1 });
  const path = writeGguf(join(temporaryFolder(t), 'm.gguf'), withMetadata(spec, { 'general.architecture': string('mamba') }));
  failsWith(t, await magicpig(['generate', '-m', path, '-p', 'x']), 1, /mamba/);
});

test('a head dimension that no kernel has is refused before anything is loaded', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'm.gguf'), tinyLlama({ headDim: 16 }));
  const outcome = await magicpig(['generate', '-m', path, '-p', 'x']);
  failsWith(t, outcome, 1, /heads of 16 dimensions; attention takes 64, 80, 96, 112, 128, 256/);
});

test('with --json a failure is one object with a code of the list', async (t) => {
  for (const [args, code, exit] of [
    [['generate', '-m', '/nowhere.gguf', '-p', 'x'], 'MODEL_NOT_FOUND', 1],
    [['generate', '-p', 'x', '--lsh-k', '99'], 'INVALID_OPTION', 2],
    [['generate', '-m', model(t), '-p', ''], 'EMPTY_PROMPT', 2],
  ] as const) {
    const outcome = await magicpig([...args, '--json']);
    t.is(outcome.code, exit);
    t.is(outcome.stderr, '');
    const { error } = JSON.parse(outcome.stdout) as { error: { code: string; message: string } };
    t.is(error.code, code);
    t.true(Object.hasOwn(errorCodes, error.code));
    t.false(error.message.includes('\n'));
  }
});

// Alone, so that it reads when the signal comes.
test.serial('Ctrl-C while reading or writing exits with 130 and leaves no rows behind', async (t) => {
  const path = writeGguf(join(temporaryFolder(t), 'm.gguf'), withMetadata(
    endless(tinyLlama({ headDim: 64, heads: 8, kvHeads: 8, hidden: 256, layers: 8 })),
    { 'llama.context_length': u32(100_000) },
  ));
  const folder = temporaryFolder(t);
  const prompt = join(temporaryFolder(t), 'long.txt');
  writeFileSync(prompt, 'a long text of many words '.repeat(2500));

  const writing = await magicpig(['generate', '-m', path, '-p', 'hello', '-n', '90000'], { env: { TMPDIR: folder }, interruptAt: /.{20}/s });
  t.is(writing.code, 130, writing.stderr);
  t.regex(writing.stderr, /interrupted\n$/);
  t.deepEqual(readdirSync(folder).filter((name) => name.includes('magicpig')), []);

  // Nothing is shown of reading without a terminal; a timer stops it in the middle of what takes tens of seconds.
  const kept = join(temporaryFolder(t), 'kept.kv');
  t.is((await magicpig(['generate', '-m', path, '-p', 'a long', '-n', '0', '--session', kept])).code, 0);
  for (const [session, told] of [[[], /^/], [['--session', kept], /^.*kept\.kv has [\d,]+ tokens; the same command goes on from there\n/]] as const) {
    const child = spawn(process.execPath, ['--import', 'tsx', main, 'generate', '-m', path, '-f', prompt, ...session], {
      env: { ...process.env, TMPDIR: folder },
    });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (part: string) => { stderr += part; });
    void setTimeout(6000).then(() => child.kill('SIGINT'));
    const started = performance.now();
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    t.is(code, 130, stderr);
    t.is(stderr.replace(told, ''), 'magicpig: interrupted\n');
    t.regex(stderr, told);
    t.true(performance.now() - started < 12_000);
    t.deepEqual(readdirSync(folder).filter((name) => name.includes('magicpig')), []);
  }
});

for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
  // Alone, so that it has begun when the signal comes.
  test.serial(`${signal} ends a measurement at once, though its threads go on`, async (t) => {
    const folder = temporaryFolder(t);
    const child = spawn(process.execPath, [...typescript, main, 'bench', 'attention', '--shape', 'llama-3.2-1b', '--context', '400000', '--threads', '1'], { env: { ...process.env, TMPDIR: folder } });
    const text = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (part: string) => { text[name] += part; });
    const ended = new Promise<number>((resolve) => {
      child.once('close', (exit, by) => { resolve(by === null ? exit ?? -1 : 128 + constants.signals[by]); });
    });
    await setTimeout(5000);
    const sent = performance.now();
    child.kill(signal);
    t.is(await ended, code);
    t.true(performance.now() - sent < 1500, `${performance.now() - sent} ms`);
    t.deepEqual(text, { stdout: '', stderr: 'magicpig: interrupted\n' });
    t.deepEqual(readdirSync(folder).filter((name) => name.includes('magicpig') || name.startsWith('.tmp')), []);
  });
}

test('a file or folder here that is taken for a name is told as a path', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'notes.md'), 'text');
  const told = async (ref: string) => (await magicpig(['inspect', ref], { cwd: folder })).stderr;
  t.regex(await told('notes.md'), /no model called "notes\.md".*; \.\/notes\.md is a path\n$/);
  t.regex(await told('.'), /no model called "\.".*; \.\/ is a path\n$/);
  t.notRegex(await told('other.md'), /is a path/);
});

test('doctor finds a cache that cannot be used', async (t) => {
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, '');
  for (const [home, problem] of [[file, /file is no folder$/], ...(process.platform === 'linux' ? [['/proc/magicpig', /\/proc cannot be written \(E[A-Z]+\)$/] as const] : [])] as const) {
    const { code, stdout } = await magicpig(['doctor', '--json'], { env: { HF_HOME: home, HF_HUB_CACHE: undefined, HUGGINGFACE_HUB_CACHE: undefined } });
    const { cache, problems } = JSON.parse(stdout) as { cache: { writable: boolean }; problems: { problem: string }[] };
    t.deepEqual([code, cache.writable, problems.length], [1, false, 1]);
    t.regex(problems[0]?.problem ?? '', problem);
  }
});

test('a report that cannot be written is refused before a text is read', async (t) => {
  const folder = temporaryFolder(t);
  for (const [report, reason] of [[join(folder, 'none', 'x.html'), /ENOENT/], [folder, /it is a folder/], ...(process.platform === 'linux' ? [['/proc/x.html', /\/proc\/x\.html/] as const] : [])] as const) {
    // Neither the text nor the model is there.
    const outcome = await magicpig(['eval', 'fidelity', '-f', join(folder, 'none.txt'), '-m', join(folder, 'none.gguf'), '--report', report]);
    failsWith(t, outcome, 1, /cannot write/);
    t.regex(outcome.stderr, reason);
  }
  t.deepEqual(readdirSync(folder), [], 'it only tries');
});

test('inspect shows what a file holds, and doctor what the machine has', async (t) => {
  const path = model(t);
  const { stdout } = await magicpig(['inspect', path, '--json']);
  const description = JSON.parse(stdout) as Record<string, unknown>;
  t.is(description.architecture, 'llama');
  t.is(description.headDim, 64);
  t.is(description.contextLength, 1024);
  const doctor = await magicpig(['doctor', '--json'], { env: { HF_HOME: temporaryFolder(t) } });
  const report = JSON.parse(doctor.stdout) as { cpu: { isa: string; detected: string[] }; problems: unknown[] };
  t.deepEqual(report.problems, []);
  t.true(report.cpu.detected.includes(report.cpu.isa));
  t.is(doctor.code, 0);
  const home = temporaryFolder(t);
  const told = await magicpig(['doctor'], { env: { HF_HOME: home } });
  t.regex(told.stdout, /^model +smollm2-135m is not there yet; .*magicpig pull/m);
  t.regex(told.stdout, /^missing +nothing$/m);
  t.deepEqual(readdirSync(home), [], 'it only looks');
});

test('a forced instruction set is used, and one that is not there is refused', async (t) => {
  const forced = await magicpig(['doctor', '--json'], { env: { MAGICPIG_ISA: 'scalar' } });
  t.is((JSON.parse(forced.stdout) as { cpu: { isa: string } }).cpu.isa, 'scalar');
  const outcome = await magicpig(['generate', '-m', model(t), '-p', 'x'], { env: { MAGICPIG_ISA: 'sse9' } });
  t.not(outcome.code, 0);
  t.regex(outcome.stderr, /MAGICPIG_ISA.*sse9/);
  const told = await magicpig(['generate', '-m', model(t), '-p', 'x', '--json'], { env: { MAGICPIG_ISA: 'sse9' } });
  t.like((JSON.parse(told.stdout) as { error: object }).error, { code: 'INVALID_OPTION' });
});

test('pull into a cache that cannot be written says which folder', async (t) => {
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, '');
  const outcome = await magicpig(['pull', 'smollm2-135m'], { env: { HF_HOME: join(file, 'cache') } });
  failsWith(t, outcome, 1, /cache.*cannot be written/);
  t.false(existsSync(join(file, 'cache')));
});
