import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import type { ExecutionContext } from 'ava';

export interface FakeHub {
  readonly url: string;
  /** Files of the one repository, owner/name, at its one commit. */
  readonly files: Map<string, Buffer>;
  commit: string;
  /** Method and path of every request, with its range. */
  readonly requests: string[];
  /** Bytes after which each transfer to come is cut; Infinity once they are used up. */
  readonly cuts: number[];
  /** Answers transfers in place of the hub where it returns true. */
  answer: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
  close(): Promise<void>;
}

/** As much of Hugging Face's hub as a download needs, on this machine, with faults to order. */
export async function fakeHub(t: ExecutionContext, files: Record<string, Buffer>): Promise<FakeHub> {
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => { serve(hub, request, response, body); });
  });
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const hub: FakeHub = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    files: new Map(Object.entries(files)),
    commit: 'c'.repeat(40),
    requests: [],
    cuts: [],
    answer: undefined,
    close: () => new Promise((resolve) => {
      server.close(() => { resolve(); });
      server.closeAllConnections();
    }),
  };
  t.teardown(() => hub.close());
  return hub;
}

function serve(hub: FakeHub, request: IncomingMessage, response: ServerResponse, body: string): void {
  const path = decodeURIComponent((request.url ?? '').split('?')[0] as string);
  const range = request.headers.range;
  hub.requests.push(`${request.method ?? ''} ${path}${range === undefined ? '' : ` ${range}`}`);
  const json = (value: unknown) => response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
  if (path.startsWith('/api/models/owner/name/revision/')) {
    json({ _id: '1', id: 'owner/name', sha: hub.commit, siblings: [...hub.files.keys()].map((rfilename) => ({ rfilename })) });
  } else if (path === `/api/models/owner/name/paths-info/${hub.commit}`) {
    const { paths } = JSON.parse(body) as { paths: string[] };
    json(paths.filter((name) => hub.files.has(name)).map((name) => description(name, hub.files.get(name) as Buffer)));
  } else if (path.startsWith(`/owner/name/resolve/${hub.commit}/`)) {
    if (hub.answer?.(request, response) !== true) transfer(hub, path.split('/').slice(5).join('/'), range, response);
  } else {
    response.writeHead(404).end('{"error":"Repository not found"}');
  }
}

function description(path: string, bytes: Buffer): object {
  if (!path.endsWith('.gguf')) {
    return { type: 'file', path, size: bytes.length, oid: createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex') };
  }
  const oid = createHash('sha256').update(bytes).digest('hex');
  return { type: 'file', path, size: bytes.length, oid: '0'.repeat(40), lfs: { oid, size: bytes.length, pointerSize: 130 } };
}

function transfer(hub: FakeHub, name: string, range: string | undefined, response: ServerResponse): void {
  const bytes = hub.files.get(name);
  if (bytes === undefined) {
    response.writeHead(404).end();
    return;
  }
  const offset = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
  const cut = hub.cuts.shift() ?? Infinity;
  response.writeHead(206, { 'content-length': bytes.length - offset, 'content-range': `bytes ${offset}-${bytes.length - 1}/${bytes.length}` });
  const part = bytes.subarray(offset, offset + cut);
  if (offset + part.length === bytes.length) response.end(part);
  else response.write(part, () => setTimeout(() => response.destroy(), 20));
}
