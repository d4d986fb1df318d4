import test from 'ava';

import { parseReference } from '../src/model/reference.js';

test('a REF is a known name, a path or a file of the hub', (t) => {
  t.deepEqual(parseReference('smollm2-135m'), { kind: 'known', name: 'smollm2-135m' });
  t.deepEqual(parseReference('./smollm2-135m'), { kind: 'path', path: './smollm2-135m' });
  t.deepEqual(parseReference('Model.GGUF'), { kind: 'path', path: 'Model.GGUF' });
  t.deepEqual(parseReference('hf:owner/name'), { kind: 'hub', repo: 'owner/name', file: undefined, revision: 'main' });
  t.deepEqual(parseReference('hf:owner/name/deep/a.gguf@refs/pr/1'), { kind: 'hub', repo: 'owner/name', file: 'deep/a.gguf', revision: 'refs/pr/1' });
});

test('a word that is no known name is told which names there are', (t) => {
  const error = t.throws(() => parseReference('gpt-9'));
  t.like(error, { code: 'MODEL_NOT_FOUND' });
  t.regex(error.message, /smollm2-135m/);
  t.like(t.throws(() => parseReference('__proto__')), { code: 'MODEL_NOT_FOUND' });
});

for (const reference of ['hf:', 'hf:owner', 'hf:owner/', 'hf:../name', 'hf:owner/../x', 'hf:owner/name/../../etc', 'hf:owner/name@', 'hf:owner/name@../../x', 'hf:owner/name/a//b', 'hf:owner/name/a\\b']) {
  test(`${JSON.stringify(reference)} is refused before it becomes a folder`, (t) => {
    t.like(t.throws(() => parseReference(reference)), { code: 'INVALID_OPTION' });
  });
}
