// What a step costs where the dense layers are a device's, beside exact attention of the same rows on the same host, and with several sessions
// together: `node benches/device/decode.mjs MODEL DEVICE CONTEXT BATCH`, a line of JSON for each thing as soon as it is known. TMPDIR says where the rows
// are; a batch takes its number of times a session's.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from '../../dist/index.js';

const [path, device, contextText = '', batchText = '0'] = process.argv.slice(2);
const [context, batch] = [Number(contextText), Number(batchText)];
const [WARM_UP, STEPS] = [8, 24];
const policies = [{ policy: 'sketch', sketchBits: 4 }, { policy: 'sketch', sketchBits: 2 }, { policy: 'exact' }];

const say = (what) => { console.log(JSON.stringify(what)); };
const median = (times) => times.toSorted((a, b) => a - b)[times.length >> 1];
const seconds = async (work) => {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
};
let state = 1;
/** Any token: what a step costs does not depend on it. */
const token = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) % 1000;

/** Nothing, where the CPU has the dense layers. */
const counts = (model) => model.deviceCounts ?? { seconds: 0, bytes: 0 };

/** Medians and means of steps of sessions together, and what the device did meanwhile. */
async function measured(model, sessions) {
  const walls = [];
  let before;
  for (let step = 0; step < WARM_UP + STEPS; step += 1) {
    if (step === WARM_UP) {
      before = counts(model);
      for (const session of sessions) session.resetStats();
    }
    const took = await seconds(async () => {
      const outcomes = await model.stepBatch(sessions, sessions.map(token));
      for (const { reason } of outcomes) if (reason !== undefined) throw reason;
    });
    if (step >= WARM_UP) walls.push(1000 * took);
  }
  const after = counts(model);
  const stats = sessions.map((session) => session.stats());
  const sum = (of) => stats.reduce((total, each) => total + of(each), 0);
  const [stepMs, hostMs, deviceMs] = [median(walls), sum(({ attendMsPerToken }) => attendMsPerToken), (1000 * (after.seconds - before.seconds)) / STEPS];
  return {
    policy: stats[0].policy,
    sessions: sessions.length,
    stepMs,
    tokensPerSecond: (1000 * sessions.length) / stepMs,
    hostMs,
    hostMsPerLayer: hostMs / model.config.layers,
    deviceMs,
    // Of the time that the device takes, what the host attends in: none with one session.
    overlap: deviceMs === 0 ? 0 : Math.max(0, Math.min(1, (hostMs + deviceMs - stepMs) / deviceMs)),
    bytesThereAndBack: (after.bytes - before.bytes) / STEPS,
    keysRead: stats[0].keysRead,
  };
}

let model;
say({ loadSeconds: await seconds(async () => { model = await loadModel(path, { device, context: context + 4096 }); }) });
const text = Array.from({ length: context }, token);

async function read(options) {
  const session = model.createSession(options);
  const took = await seconds(() => session.prefill(text));
  say({ rows: options.rows, read: context, prefillSeconds: took, rowBytes: session.stats().rowBytes });
  return session;
}

const single = await read({ policy: 'sketch', rows: 'bf16' });
for (const policy of policies) {
  single.setPolicy(policy);
  // Reading a token again builds the index, on all threads; a step would do it on one.
  single.rewind(context - 1);
  await single.prefill(text.slice(-1));
  say({ ...policy, ...(await measured(model, [single])) });
}
single.dispose();

if (batch > 0) {
  const folder = await mkdtemp(join(tmpdir(), 'magicpig-device-'));
  try {
    const first = await read({ policy: 'sketch', sketchBits: 2, rows: 'int8' });
    const copies = [];
    for (let copy = 0; copy < batch; copy += 1) {
      const directory = join(folder, String(copy));
      await first.fork(directory);
      copies.push(await model.openSession(directory, { policy: 'sketch', sketchBits: 2 }));
    }
    first.dispose();
    say({ rows: 'int8', ...(await measured(model, copies.slice(0, 1))) });
    say({ rows: 'int8', rowBytes: copies.reduce((total, each) => total + each.stats().rowBytes, 0), ...(await measured(model, copies)) });
    for (const copy of copies) copy.dispose();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
await model.dispose();
