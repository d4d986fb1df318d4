// Which device is taken, and what is said of one that is not there.
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import test from 'ava';

import { chooseDevice } from '../src/decode/device.js';
import type { Probe } from '../src/decode/device.js';
import { deviceFrom } from '../src/decode/options.js';
import { failsWith, magicpig, model } from './support/command-line.js';
import { temporaryFolder } from './support/temporary.js';
import { hasDriver, withDriver, withoutDriver } from './support/vulkan.js';

/** A machine that has these devices alone; notes which were looked for. */
function machine(...there: string[]): { missing: Probe; asked: string[] } {
  const asked: string[] = [];
  const missing: Probe = (device) => {
    asked.push(device);
    return Promise.resolve(there.includes(device) ? undefined : { problem: `no ${device} here`, remedy: `buy ${device}` });
  };
  return { missing, asked };
}

test('auto is the best device that is there', async (t) => {
  t.is(await chooseDevice('auto', machine('cuda', 'webgpu')), 'cuda');
  t.is(await chooseDevice('auto', machine('webgpu')), 'webgpu');
  t.is(await chooseDevice('auto', machine()), 'cpu');
});

test('a device that is named is taken, or missed by name', async (t) => {
  t.is(await chooseDevice('webgpu', machine('cuda', 'webgpu')), 'webgpu');
  t.is(await chooseDevice('cuda', machine('cuda')), 'cuda');
  const error = await t.throwsAsync(chooseDevice('cuda', machine('webgpu')), { code: 'RUNTIME_FAILED' });
  t.is(error.message, 'device cuda is not there: no cuda here; to get it: buy cuda');
});

test('the CPU needs nothing else', async (t) => {
  const { missing, asked } = machine();
  t.is(await chooseDevice('cpu', { missing }), 'cpu');
  t.deepEqual(asked, []);
});

test('rounded weights are the CPU’s', async (t) => {
  const { missing, asked } = machine('cuda', 'webgpu');
  t.is(await chooseDevice('auto', { missing, rounded: true }), 'cpu');
  t.deepEqual(asked, []);
  await t.throwsAsync(chooseDevice('webgpu', { missing, rounded: true }), { code: 'INVALID_OPTION', message: /device webgpu .* for the CPU alone/ });
});

test('an unknown device is told from those that there are', (t) => {
  t.is(deviceFrom(undefined), 'cpu');
  t.throws(() => deviceFrom('gpu'), { code: 'INVALID_OPTION', message: /"gpu".*cpu, webgpu, cuda, auto/ });
});

interface Reported {
  readonly name: string;
  readonly there: boolean;
  readonly problem?: string;
  readonly remedy?: string;
}

/** Where a program of continuous integration runs it, ONNX Runtime keeps no notes whatever it is told. */
const noticed = { CI: undefined };

const machines = [
  { name: 'without a driver', env: () => withoutDriver },
  ...(hasDriver ? [{ name: 'with a driver', env: withDriver }] : []),
];
for (const { name, env: environment } of machines) {
  test(`doctor lists the devices ${name}, and generate takes those alone`, async (t) => {
    const folder = temporaryFolder(t);
    const env = { ...environment(folder), HOME: folder, ...noticed };
    const doctor = await magicpig(['doctor', '--json'], { env });
    t.is(doctor.stderr, '');
    if (process.platform === 'linux') t.false(existsSync(join(env.HOME, '.cache', 'Microsoft')), 'ONNX Runtime noted what it ran');
    const { devices } = JSON.parse(doctor.stdout) as { devices: Reported[] };
    t.deepEqual(devices.map((device) => device.name), ['cpu', 'cuda', 'webgpu']);
    t.true(devices[0]?.there);
    if (process.platform === 'linux') t.is(devices[2]?.there, name === 'with a driver', JSON.stringify(devices[2]));
    const shown = await magicpig(['doctor'], { env });
    for (const device of devices) t.regex(shown.stdout, new RegExp(`${device.name} +${device.there ? `there: --device ${device.name}` : 'not there: '}`));

    const args = ['generate', '-m', model(t), '-p', 'hello world', '-n', '3'];
    const best = ['cuda', 'webgpu', 'cpu'].find((wanted) => devices.some((device) => device.name === wanted && device.there));
    const auto = await magicpig([...args, '--device', 'auto', '--json'], { env });
    t.is(auto.code, 0, auto.stderr);
    t.is((JSON.parse(auto.stdout) as { device: string }).device, best!);
    const told = await magicpig([...args, '--device', 'auto'], { env });
    t.regex(told.stderr, new RegExp(`^dense layers run on ${best!}`));
    for (const { name: absent, problem = 'said by nobody' } of devices.filter((device) => !device.there)) {
      const outcome = await magicpig([...args, '--device', absent], { env });
      failsWith(t, outcome, 1, new RegExp(`device ${absent} is not there: .*; to get it: `));
      t.true(outcome.stderr.includes(problem));
    }
  });
}

// The control of what is tested above: left to itself it does, once it runs something.
if (process.platform === 'linux' && hasDriver) {
  test('ONNX Runtime keeps notes for its makers where nobody refuses', async (t) => {
    const home = temporaryFolder(t);
    const env = { ...withDriver(home), HOME: home, ORT_DISABLE_TELEMETRY: '0', ...noticed };
    const { code } = await magicpig(['doctor'], { env });
    t.is(code, 0);
    t.true(existsSync(join(home, '.cache', 'Microsoft')));
  });
}
