// Runs TypeScript as it is, also in threads, which tsx by itself leaves out.
import { isMainThread } from 'node:worker_threads';

if (isMainThread) await import('tsx');
else (await import('tsx/esm/api')).register();
