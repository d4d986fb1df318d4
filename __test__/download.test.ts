// Where models come from, over a hub on this machine that can be made to fail.
import { createHash } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import test from 'ava';
import type { ExecutionContext } from 'ava';

import { makeFolder } from '../src/model/make-folder.js';
import { openModel } from '../src/model/open.js';
import { resolveModel } from '../src/model/resolve.js';
import { seededRandom } from './support/gguf-writer.js';
import { fakeHub } from './support/fake-hub.js';
import { hubFolder } from './support/hub-architectures.js';
import { shardName, writeHubFolder } from './support/safetensors-writer.js';
import { temporaryFolder } from './support/temporary.js';
import { tinyArchitectures } from './support/tiny-architectures.js';

const random = seededRandom(5);
const model = Buffer.from(Array.from({ length: 300_000 }, () => Math.floor(random() * 256)));
const sha256 = createHash('sha256').update(model).digest('hex');
const variables = ['HF_HOME', 'HF_ENDPOINT', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_TOKEN'] as const;
const outside = Object.fromEntries(variables.map((name) => [name, process.env[name]]));

function environment(values: Partial<Record<(typeof variables)[number], string>>): void {
  for (const name of variables) {
    const value = values[name];
    if (value === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = value;
  }
}

test.afterEach.always(() => {
  environment(outside);
});

async function setUp(t: ExecutionContext, files: Record<string, Buffer> = { 'model.gguf': model }) {
  const hub = await fakeHub(t, files);
  const home = temporaryFolder(t);
  environment({ HF_HOME: home, HF_ENDPOINT: hub.url });
  return { hub, home, folder: join(home, 'hub', 'models--owner--name') };
}

const transfers = (requests: readonly string[]) => requests.filter((request) => request.includes('/resolve/'));

test.serial('a file of the hub lies where Hugging Face’s own tools look for it', async (t) => {
  const { hub, folder } = await setUp(t);
  const path = await resolveModel('hf:owner/name');
  t.is(path, join(folder, 'snapshots', hub.commit, 'model.gguf'));
  t.deepEqual(readFileSync(path), model);
  t.is(readlinkSync(path), join('..', '..', 'blobs', sha256));
  t.is(readFileSync(join(folder, 'refs', 'main'), 'utf8'), hub.commit);
  t.deepEqual(readdirSync(join(folder, 'blobs')), [sha256], 'nothing else is left');
});

test.serial('what is in the cache needs no hub', async (t) => {
  const { hub } = await setUp(t);
  const path = await resolveModel('hf:owner/name/model.gguf');
  const before = hub.requests.length;
  t.is(await resolveModel('hf:owner/name/model.gguf'), path);
  t.is(hub.requests.length, before);
  await hub.close();
  process.env.HF_HUB_OFFLINE = '1';
  t.is(await resolveModel('hf:owner/name/model.gguf'), path);
  const error = await t.throwsAsync(resolveModel('hf:owner/name/other.gguf'));
  t.like(error, { code: 'MODEL_NOT_FOUND' });
  t.regex(error.message, /HF_HUB_OFFLINE/);
});

test.serial('a moved branch is followed when asked to, and its unchanged file is not fetched again', async (t) => {
  const { hub, folder } = await setUp(t);
  await resolveModel('hf:owner/name/model.gguf');
  hub.commit = 'd'.repeat(40);
  t.is(await resolveModel('hf:owner/name/model.gguf', { refresh: true }), join(folder, 'snapshots', hub.commit, 'model.gguf'));
  t.is(transfers(hub.requests).length, 1);
});

test.serial('a small file, whose digest is git’s, is checked too', async (t) => {
  const text = Buffer.from('{"a": 1}');
  await setUp(t, { 'config.json': text });
  t.deepEqual(readFileSync(await resolveModel('hf:owner/name/config.json')), text);
});

test.serial('a download that is cut again and again goes on from where it was', async (t) => {
  const { hub } = await setUp(t);
  hub.cuts.push(100_000, 50_000, 0);
  const seen: number[] = [];
  const path = await resolveModel('hf:owner/name', { onProgress: ({ received, total }) => { seen.push(received); t.is(total, model.length); } });
  t.deepEqual(readFileSync(path), model);
  t.deepEqual(transfers(hub.requests).map((request) => request.split(' ').at(-1)), ['bytes=0-', 'bytes=100000-', 'bytes=150000-', 'bytes=150000-']);
  t.deepEqual(seen, seen.toSorted((a, b) => a - b));
  t.is(seen.at(-1), model.length);
});

test.serial('a hub that goes away leaves what came; the next attempt resumes it', async (t) => {
  const { hub, folder } = await setUp(t);
  const incomplete = join(folder, 'blobs', `${sha256}.incomplete`);
  hub.cuts.push(120_000, 0, 0, 0, 0, 0);
  const error = await t.throwsAsync(resolveModel('hf:owner/name'));
  t.like(error, { code: 'DOWNLOAD_FAILED' });
  t.regex(error.message, /120000 of 300000 bytes.*run the command again/);
  t.is(readFileSync(incomplete).length, 120_000);
  t.false(existsSync(join(folder, 'snapshots')));
  hub.requests.length = 0;
  hub.cuts.length = 0;
  t.deepEqual(readFileSync(await resolveModel('hf:owner/name')), model);
  t.deepEqual(transfers(hub.requests).map((request) => request.split(' ').at(-1)), ['bytes=120000-']);
  t.false(existsSync(incomplete));
});

test.serial('wrong bytes before the cut are found by the checksum, and removed', async (t) => {
  const { folder } = await setUp(t);
  mkdirSync(join(folder, 'blobs'), { recursive: true });
  writeFileSync(join(folder, 'blobs', `${sha256}.incomplete`), Buffer.alloc(1000, 7));
  const error = await t.throwsAsync(resolveModel('hf:owner/name'));
  t.like(error, { code: 'CHECKSUM_MISMATCH' });
  t.deepEqual(readdirSync(join(folder, 'blobs')), []);
  t.deepEqual(readFileSync(await resolveModel('hf:owner/name')), model, 'the next attempt begins anew');
});

test.serial('a server that ignores ranges sends the file from its beginning', async (t) => {
  const { hub } = await setUp(t);
  hub.cuts.push(100_000);
  let transferred = 0;
  hub.answer = (_request, response) => {
    transferred += 1;
    if (transferred === 1) return false;
    response.writeHead(200, { 'content-length': model.length }).end(model);
    return true;
  };
  t.deepEqual(readFileSync(await resolveModel('hf:owner/name')), model);
  t.is(transferred, 2);
});

test.serial('a file that is longer than announced is refused', async (t) => {
  const { hub, folder } = await setUp(t);
  hub.answer = (_request, response) => {
    response.writeHead(200).end(Buffer.concat([model, Buffer.of(1)]));
    return true;
  };
  t.like(await t.throwsAsync(resolveModel('hf:owner/name')), { code: 'CHECKSUM_MISMATCH' });
  t.deepEqual(readdirSync(join(folder, 'blobs')), []);
});

test.serial('an abort ends the download at once and keeps what came', async (t) => {
  const { hub, folder } = await setUp(t);
  hub.answer = (_request, response) => {
    response.writeHead(206, { 'content-range': `bytes 0-${model.length - 1}/${model.length}`, 'content-length': model.length });
    response.write(model.subarray(0, 1000));
    return true;
  };
  const controller = new AbortController();
  const error = await t.throwsAsync(resolveModel('hf:owner/name', {
    signal: controller.signal,
    onProgress: ({ received }) => { if (received === 1000) controller.abort(); },
  }));
  t.like(error, { code: 'ABORTED' });
  t.deepEqual(readdirSync(join(folder, 'blobs')), [`${sha256}.incomplete`]);
});

test.serial('folders that many make at the same time are made, and one that takes none says so', async (t) => {
  for (let round = 0; round < 20; round++) {
    const above = temporaryFolder(t);
    const paths = ['a/b/c/d', 'a/b/c', 'a/b', 'a'].map((path) => join(above, path));
    await Promise.all([...paths, ...paths].map((path) => makeFolder(path)));
    t.true(paths.every((path) => statSync(path).isDirectory()));
  }
  if (process.platform === 'linux') await t.throwsAsync(makeFolder('/proc/magicpig/a/b'), { code: 'ENOENT' });
});

test.serial('two that want the same file fetch it once', async (t) => {
  const { hub } = await setUp(t);
  const [a, b] = await Promise.all([resolveModel('hf:owner/name'), resolveModel('hf:owner/name')]);
  t.is(a, b);
  t.is(transfers(hub.requests).length, 1);
});

test.serial('a token goes with every request', async (t) => {
  const { hub } = await setUp(t);
  process.env.HF_TOKEN = 'hf_secret';
  let authorization: string | undefined;
  hub.answer = (request) => {
    ({ authorization } = request.headers);
    return false;
  };
  await resolveModel('hf:owner/name');
  t.is(authorization, 'Bearer hf_secret');
});

test.serial('what the hub does not have is said in one line', async (t) => {
  await setUp(t, { 'a.gguf': model, 'b.gguf': model });
  const refused = async (reference: string, code: string, message: RegExp) => {
    const error = await t.throwsAsync(resolveModel(reference));
    t.like(error, { code });
    t.regex(error.message, message);
    t.notRegex(error.message, /\n/);
  };
  await refused('hf:owner/name', 'MODEL_NOT_FOUND', /which \.gguf file; it has 2: a\.gguf, b\.gguf/);
  await refused('hf:owner/name/c.gguf', 'MODEL_NOT_FOUND', /no file c\.gguf/);
  await refused('hf:owner/other', 'MODEL_NOT_FOUND', /no such file or revision of owner\/other \(status 404\); .*HF_TOKEN/);
});

test.serial('a hub that is not there is said with its reason', async (t) => {
  const { hub } = await setUp(t);
  await hub.close();
  const error = await t.throwsAsync(resolveModel('hf:owner/name'));
  t.like(error, { code: 'DOWNLOAD_FAILED' });
  t.regex(error.message, /did not answer about owner\/name \(ECONNREFUSED\)/);
});

const sharded = () => {
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-test-'));
  writeHubFolder(folder, hubFolder('llama', tinyArchitectures.llama!.spec), 2);
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  rmSync(folder, { recursive: true });
  return { ...files, 'README.md': Buffer.from('no part of it'), 'consolidated.safetensors': Buffer.from('another form of it') };
};

test.serial('a repository of safetensors is a folder, of which only what is needed comes, once', async (t) => {
  const { hub, folder } = await setUp(t, sharded());
  const path = await resolveModel('hf:owner/name');
  t.is(path, join(folder, 'snapshots', hub.commit));
  t.deepEqual(readdirSync(path).sort(), ['config.json', shardName(0, 2), shardName(1, 2), 'model.safetensors.index.json', 'tokenizer.json', 'tokenizer_config.json'].sort());
  t.is(readlinkSync(join(path, shardName(0, 2))).split('/').slice(0, 3).join('/'), '../../blobs');
  await (await openModel(path))[Symbol.asyncDispose]();
  const before = hub.requests.length;
  process.env.HF_HUB_OFFLINE = '1';
  t.is(await resolveModel('hf:owner/name'), path);
  t.is(hub.requests.length, before);
  unlinkSync(join(path, shardName(1, 2)));
  const error = await t.throwsAsync(resolveModel('hf:owner/name'), { code: 'MODEL_NOT_FOUND' });
  t.regex(error.message, /00002-of-00002\.safetensors of hf:owner\/name is not in the cache/);
  delete process.env.HF_HUB_OFFLINE;
  t.is(await resolveModel('hf:owner/name'), path, 'and comes again');
  t.is(readdirSync(path).length, 6);
});

test.serial('names that a hub makes up become no paths', async (t) => {
  const { home } = await setUp(t, { '../../../../escaped.gguf': model });
  t.regex((await t.throwsAsync(resolveModel('hf:owner/name'), { code: 'MODEL_NOT_FOUND' })).message, /not kept here under such a name/);
  t.deepEqual(readdirSync(home), []);
});

test.serial('a download appends to no file that has another name', async (t) => {
  const { home, folder } = await setUp(t);
  const victim = join(home, 'victim');
  writeFileSync(victim, 'keep');
  mkdirSync(join(folder, 'blobs'), { recursive: true });
  for (const link of [linkSync, symlinkSync]) {
    link(victim, join(folder, 'blobs', `${sha256}.incomplete`));
    t.regex((await t.throwsAsync(resolveModel('hf:owner/name'), { code: 'CACHE_UNWRITABLE' })).message, /is a link/);
    t.is(readFileSync(victim, 'utf8'), 'keep');
    unlinkSync(join(folder, 'blobs', `${sha256}.incomplete`));
  }
});

test.serial('a path must be a file that is there', async (t) => {
  const folder = temporaryFolder(t);
  t.like(await t.throwsAsync(resolveModel(join(folder, 'no.gguf'))), { code: 'MODEL_NOT_FOUND' });
  const error = await t.throwsAsync(resolveModel(`${folder}/`));
  t.regex(error.message, /is a folder/);
});

test.serial('another file under a known name is passed over, and without pip the error says where it was looked for', async (t) => {
  const { hub, home } = await setUp(t);
  const path = process.env.PATH;
  t.teardown(() => { process.env.PATH = path; });
  process.env.PATH = home;
  const error = await t.throwsAsync(resolveModel('smollm2-135m'));
  t.like(error, { code: 'DOWNLOAD_FAILED' });
  t.regex(error.message, /status 404.*pip, which failed/);
  t.is(transfers(hub.requests).length, 0);
  t.deepEqual(readdirSync(join(home, 'magicpig')), [], 'nothing half-written is left');
});
