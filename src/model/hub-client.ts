import { HubApiError, modelInfo, pathsInfo } from '@huggingface/hub';
import { MagicpigError } from '../errors.js';
import { throwIfAborted } from './abort.js';
import type { Digest } from './digest.js';
import { reason } from './download.js';
import type { HubReference } from './reference.js';

export interface HubFile {
  readonly bytes: number;
  readonly digest: Digest;
}

const publicHub = 'https://huggingface.co';

/** Until the first byte of an answer. Also how long a hub that is out of reach holds up a model that is elsewhere too. */
const answerMs = 10_000;

/**
 * Asks the hub (or HF_ENDPOINT) about repositories and their files, as HF_TOKEN where that is set.
 *
 * Every call throws MODEL_NOT_FOUND where the hub has no such thing (or shows it to others only), DOWNLOAD_FAILED where it
 * cannot be reached, and ABORTED.
 */
export class HubClient {
  readonly #endpoint: string;
  readonly #token: string | undefined;
  readonly #signal: AbortSignal | undefined;

  constructor(signal: AbortSignal | undefined, environment: NodeJS.ProcessEnv = process.env) {
    this.#endpoint = (environment.HF_ENDPOINT || publicHub).replace(/\/+$/, '');
    this.#token = environment.HF_TOKEN || undefined;
    this.#signal = signal;
  }

  /** The commit that a revision is at, and what files it has. */
  async revision({ repo, revision }: HubReference): Promise<{ commit: string; files: string[] }> {
    const info = await this.#ask(repo, (common) => modelInfo({ ...common, name: repo, revision, additionalFields: ['sha', 'filePaths'] }));
    if (!/^[0-9a-f]{40}$/.test(info.sha)) throw this.#nonsense(repo, 'a commit');
    return { commit: info.sha, files: info.filePaths };
  }

  async file(repo: string, commit: string, path: string): Promise<HubFile> {
    const [info] = await this.#ask(repo, (common) => pathsInfo({ ...common, repo: { type: 'model', name: repo }, revision: commit, paths: [path] }));
    if (info?.type !== 'file') throw new MagicpigError('MODEL_NOT_FOUND', `${repo} has no file ${path} at ${commit}`);
    const digest: Digest = info.lfs ? { algorithm: 'sha256', hex: info.lfs.oid } : { algorithm: 'git-sha1', hex: info.oid ?? '' };
    const bytes = info.lfs?.size ?? info.size;
    const form = digest.algorithm === 'sha256' ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/;
    if (!form.test(digest.hex) || !Number.isSafeInteger(bytes) || bytes < 0) throw this.#nonsense(repo, 'a digest');
    return { bytes, digest };
  }

  /** The bytes of a file from `offset` on. Throws a plain Error where trying again may help. */
  async bytes(repo: string, commit: string, path: string, offset: number, signal: AbortSignal): Promise<Response> {
    const url = `${this.#endpoint}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
    const response = await this.#fetch(url, { headers: { Range: `bytes=${offset}-`, 'Accept-Encoding': 'identity' }, signal });
    const { status } = response;
    if (status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${offset}-`)) return response;
    if (status === 200) return response;
    await response.body?.cancel();
    if (status >= 400 && status < 500 && status !== 408 && status !== 416 && status !== 429) throw this.#refusal(repo, status);
    throw new Error(`the server answered ${status}`);
  }

  async #ask<T>(repo: string, call: (common: { hubUrl: string; fetch: typeof fetch }) => Promise<T>): Promise<T> {
    try {
      return await call({ hubUrl: this.#endpoint, fetch: (input, init) => this.#fetch(input, init) });
    } catch (error) {
      throwIfAborted(this.#signal);
      if (error instanceof HubApiError && error.statusCode >= 400 && error.statusCode < 500 && error.statusCode !== 429) {
        throw this.#refusal(repo, error.statusCode);
      }
      throw new MagicpigError('DOWNLOAD_FAILED', `${this.#endpoint} did not answer about ${repo} (${reason(error)}); check the network, or give a path`, {
        cause: error,
      });
    }
  }

  /** fetch with the token, which stays with the hub (redirects to other hosts drop it), and a limit until the answer begins. */
  async #fetch(input: string | URL | Request, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.#token !== undefined) headers.set('Authorization', `Bearer ${this.#token}`);
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort(new Error(`no answer within ${answerMs / 1000} s`));
    }, answerMs);
    const signals = [late.signal, init.signal, this.#signal].filter((signal) => signal !== null && signal !== undefined);
    try {
      return await fetch(input, { ...init, headers, signal: AbortSignal.any(signals) });
    } finally {
      clearTimeout(timer);
    }
  }

  #refusal(repo: string, status: number): MagicpigError {
    const hint = this.#token === undefined ? 'if it is private or gated, set HF_TOKEN to a token that may read it' : 'or HF_TOKEN may not read it';
    return new MagicpigError('MODEL_NOT_FOUND', `${this.#endpoint} has no such file or revision of ${repo} (status ${status}); ${hint}`);
  }

  #nonsense(repo: string, what: string): MagicpigError {
    return new MagicpigError('DOWNLOAD_FAILED', `${this.#endpoint} answered about ${repo} without ${what}; is HF_ENDPOINT right?`);
  }
}
