import type { Argv, CommandModule } from 'yargs';
import { MagicpigError } from '../errors.js';
import { bytes, count, table } from './format.js';
import type { Terminal } from './terminal.js';

const folder = <T>(yargs: Argv<T>) => yargs.positional('dir', { type: 'string', demandOption: true, describe: "The session's folder" });

export const sessions = (terminal: Terminal): CommandModule => ({
  command: 'sessions',
  describe: 'Look after sessions that are kept in folders',
  builder: (yargs) =>
    yargs
      .command(
        'ls [dir]',
        'List the sessions in a folder',
        (inner) => inner.positional('dir', { type: 'string', default: '.', describe: 'The folder that holds the folders of sessions' }),
        async ({ dir }) => { await list(dir, terminal); },
      )
      .command('inspect <dir>', 'Say what is in a session', folder, async ({ dir }) => { await inspect(dir, terminal); })
      .command('verify <dir>', 'Read every checksum of a session', folder, async ({ dir }) => { await verify(dir, terminal); })
      .command(
        'export <dir> <file>',
        'Pack a session into one file',
        (inner) => folder(inner).positional('file', { type: 'string', demandOption: true, describe: 'The file, such as book.tar.zst' }),
        async ({ dir, file }) => { await pack(dir, file, terminal); },
      )
      .command(
        'import <file> <dir>',
        'Make a session from what export packed',
        (inner) => folder(inner.positional('file', { type: 'string', demandOption: true, describe: 'The file' })),
        async ({ file, dir }) => { await unpack(file, dir, terminal); },
      )
      .command('rm <dir>', 'Remove a session', folder, async ({ dir }) => { await remove(dir, terminal); })
      .demandCommand(1, 'no subcommand was given: sessions ls, inspect, verify, export, import or rm'),
  handler: () => undefined,
});

async function list(directory: string, terminal: Terminal): Promise<void> {
  const { listSessions } = await import('../decode/sessions.js');
  const found = await listSessions(directory);
  const lines = found.map((session): readonly [string, string] => {
    if ('error' in session) return [session.directory, session.error.message];
    const { tokens, diskBytes, model, lastUse } = session;
    return [session.directory, `${count(tokens)} tokens, ${bytes(diskBytes)}, ${model}, ${day(lastUse)}`];
  });
  const result = found.map((session) => ('error' in session ? { directory: session.directory, error: { code: session.error.code, message: session.error.message } } : session));
  terminal.result({ sessions: result }, lines.length === 0 ? `no sessions in ${directory}` : table(lines));
}

async function inspect(directory: string, terminal: Terminal): Promise<void> {
  const { inspectSession } = await import('../decode/sessions.js');
  const info = await inspectSession(directory);
  terminal.result(info, table([
    ['model', info.model],
    ['tokens', count(info.tokens)],
    ['segments', count(info.segments)],
    ['rows and index', bytes(info.bytes)],
    ['on disk', bytes(info.diskBytes)],
    ['last use', day(info.lastUse)],
    ...Object.entries(info.fingerprint).filter(([name]) => name !== 'model'),
  ]));
}

async function verify(directory: string, terminal: Terminal): Promise<void> {
  const { verifySession } = await import('../decode/sessions.js');
  const { problems, segments, tokens, bytes: read } = await verifySession(directory);
  const ok = problems.length === 0;
  const said = problems.map(({ path, offset, what }) => `${path}, byte ${offset}: ${what}`);
  terminal.result({ ok, segments, tokens, bytes: read, problems }, ok ? `whole: ${count(tokens)} tokens, ${bytes(read)} compared` : said.join('\n'));
  if (!ok) process.exitCode = 1;
}

async function pack(directory: string, file: string, terminal: Terminal): Promise<void> {
  const { exportSession } = await import('../decode/sessions.js');
  const size = await exportSession(directory, file);
  terminal.result({ file, bytes: size }, `${file}: ${bytes(size)}`);
}

async function unpack(file: string, directory: string, terminal: Terminal): Promise<void> {
  const { importSession, inspectSession } = await import('../decode/sessions.js');
  await importSession(file, directory);
  const info = await inspectSession(directory);
  terminal.result(info, `${directory}: ${count(info.tokens)} tokens, every checksum compared`);
}

async function remove(directory: string, terminal: Terminal): Promise<void> {
  const { removeSession } = await import('../decode/sessions.js');
  try {
    removeSession(directory);
  } catch (error) {
    if (MagicpigError.isInstance(error) && error.code === 'SESSION_FOREIGN') {
      throw new MagicpigError(error.code, `${error.message}; nothing was removed`, { cause: error });
    }
    throw error;
  }
  terminal.result({ removed: directory }, `removed ${directory}`);
}

/** 2026-11-24 17:05, in the reader's own time. */
function day(date: Date): string {
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 16).replace('T', ' ');
}
