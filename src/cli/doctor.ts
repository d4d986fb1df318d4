import { spawnSync } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { cpus, freemem, totalmem } from 'node:os';
import { dirname } from 'node:path';
import type { CommandModule } from 'yargs';
import { MagicpigError } from '../errors.js';
import { accelerators, probe } from '../decode/device.js';
import { availableMemory } from '../decode/memory.js';
import type { DeviceName } from '../decode/options.js';
import { cacheFromEnvironment } from '../model/cache.js';
import { errorCode } from '../model/file-error.js';
import { tryFolder } from '../model/make-folder.js';
import { bytes, table } from './format.js';
import { DEFAULT_MODEL } from './model-option.js';
import type { Terminal } from './terminal.js';

/** Something that is missing, and the command that mends it. */
interface Problem {
  readonly problem: string;
  readonly remedy: string;
}

export const doctor = (terminal: Terminal): CommandModule<object, object> => ({
  command: 'doctor',
  describe: 'Show what this machine has, what is used of it, and what is missing',
  handler: async () => {
    const problems: Problem[] = [];
    const report = {
      node: process.versions.node,
      platform: `${process.platform} ${process.arch}`,
      cpu: await processor(problems),
      onnxRuntime: await onnxRuntime(problems),
      devices: await devices(),
      memory: { totalBytes: totalmem(), freeBytes: freemem(), availableBytes: availableMemory() },
      cache: await cache(problems),
      problems,
    };
    const { cpu, memory } = report;
    const lines: [string, string][] = [
      ['node', `${report.node}, ${report.platform}`],
      ['processor', cpu.model],
      ['cores', String(cpu.cores)],
      ['kernels', cpu.isa === null ? 'none' : `${cpu.isa} (there are ${cpu.detected.join(', ')})`],
      ['ONNX Runtime', report.onnxRuntime === null ? 'none, which --device webgpu and cuda need' : `${report.onnxRuntime.version}: ${report.onnxRuntime.providers.join(', ')}`],
      ...report.devices.map((device): [string, string] => [
        device.name,
        device.there ? `there: --device ${device.name}` : `not there: ${device.problem}; to get it: ${device.remedy}`,
      ]),
      ['memory', `${bytes(memory.totalBytes)}, ${bytes(memory.freeBytes)} of it free, ${bytes(memory.availableBytes)} for this process; magicpig inspect REF shows what a model takes`],
      ['cache', report.cache.path],
      ['model', await defaultModel()],
      ...(problems.length === 0 ? [['missing', 'nothing'] as [string, string]] : problems.map(({ problem, remedy }): [string, string] => ['missing', `${problem}; mend it with: ${remedy}`])),
    ];
    terminal.result(report, table(lines));
    if (problems.length > 0) process.exitCode = 1;
  },
});

async function processor(problems: Problem[]) {
  const model = cpus()[0]?.model ?? 'unknown';
  try {
    const { cpuInfo } = await import('../native.js');
    return { model, ...cpuInfo() };
  } catch (error) {
    if (!MagicpigError.isInstance(error)) throw error;
    const remedy = error.code === 'NATIVE_MISSING' ? 'npm install --include=optional magicpig' : 'unset MAGICPIG_ISA';
    problems.push({ problem: error.message, remedy });
    return { model, isa: null, detected: [], cores: cpus().length };
  }
}

async function onnxRuntime(problems: Problem[]) {
  try {
    const { runtimeInfo } = await import('../onnx/runtime.js');
    return runtimeInfo();
  } catch (error) {
    // It is no part of the package: see ARCHITECTURE.md.
    if (errorCode(error) === 'ERR_MODULE_NOT_FOUND') return null;
    problems.push({ problem: `ONNX Runtime does not load (${error instanceof Error ? error.message : String(error)})`, remedy: 'npm install onnxruntime-node' });
    return null;
  }
}

type Device = { readonly name: DeviceName } & ({ readonly there: true } | ({ readonly there: false } & Problem));

/** Where dense layers can run. A device that is not there is no problem: the CPU does without. */
async function devices(): Promise<Device[]> {
  const others: Device[] = [];
  for (const name of accelerators) {
    const missing = await probe(name);
    others.push(missing === undefined ? { name, there: true } : { name, there: false, ...missing });
  }
  return [{ name: 'cpu', there: true }, ...others];
}

/** Where models go, which has to be writable, and how else they come where the hub is out of reach. */
async function cache(problems: Problem[]) {
  const { hub: path, offline } = cacheFromEnvironment();
  const existing = await firstExisting(path);
  const reason = await tryFolder(existing).then(() => undefined, (error: unknown) => errorCode(error) ?? String(error));
  const writable = reason === undefined;
  if (!writable) problems.push({ problem: `the cache of models cannot be used: ${existing} ${reason === 'ENOTDIR' ? 'is no folder' : `cannot be written (${reason})`}`, remedy: 'export HF_HOME=FOLDER' });
  const pip = spawnSync('python3', ['-m', 'pip', '--version'], { stdio: 'ignore' }).status === 0;
  return { path, writable, offline, pip };
}

/** Whether the first `generate` or `chat` has a download before it. */
async function defaultModel(): Promise<string> {
  const { resolveModel } = await import('../model/resolve.js');
  return await resolveModel(DEFAULT_MODEL, { offline: true }).then(
    (path) => `${DEFAULT_MODEL} is there: ${path}`,
    () => `${DEFAULT_MODEL} is not there yet; its first use, or magicpig pull ${DEFAULT_MODEL}, downloads it`,
  );
}

async function firstExisting(path: string): Promise<string> {
  const found = await stat(path).then(() => true, () => false);
  return found || dirname(path) === path ? path : firstExisting(dirname(path));
}
