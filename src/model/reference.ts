import { MagicpigError } from '../errors.js';
import { knownModels } from './known-models.js';

/** What a model REF names. */
export type ModelReference =
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'known'; readonly name: string }
  | ({ readonly kind: 'hub' } & HubReference);

export interface HubReference {
  /** "owner/name". */
  readonly repo: string;
  /** A path inside the repository, or undefined for its only GGUF file or its safetensors. */
  readonly file: string | undefined;
  /** A branch, a tag or a commit. */
  readonly revision: string;
}

const hubPrefix = 'hf:';

/**
 * A REF is a short name (`smollm2-135m`), `hf:owner/name[/file][@revision]`, or the path of a .gguf file or of a folder of safetensors. A short name wins
 * over a file of that name, which `./` in front still reaches.
 *
 * Throws INVALID_OPTION for an `hf:` that is not of that form, MODEL_NOT_FOUND for a word that is no known name.
 */
export function parseReference(reference: string): ModelReference {
  if (reference.startsWith(hubPrefix)) return { kind: 'hub', ...parseHub(reference) };
  if (Object.hasOwn(knownModels, reference)) return { kind: 'known', name: reference };
  if (/[/\\]|\.gguf$/i.test(reference)) return { kind: 'path', path: reference };
  throw new MagicpigError(
    'MODEL_NOT_FOUND',
    `there is no model called ${JSON.stringify(reference)}; known names: ${Object.keys(knownModels).join(', ')}; or give the path of a .gguf file or of a folder of safetensors (./name), or hf:owner/name`,
  );
}

function parseHub(reference: string): HubReference {
  const at = reference.lastIndexOf('@');
  const path = reference.slice(hubPrefix.length, at < 0 ? undefined : at);
  const revision = at < 0 ? 'main' : reference.slice(at + 1);
  const segments = path.split('/');
  const [owner = '', name = '', ...file] = segments;
  // These become folders of the cache: no segment may climb out of it.
  const harmless = (segment: string) => /^[^\\:*?"<>|\0]+$/.test(segment) && segment !== '.' && segment !== '..';
  const valid = segments.length >= 2 && /^[\w.-]+$/.test(owner) && /^[\w.-]+$/.test(name) && [...segments, ...revision.split('/')].every(harmless);
  if (!valid) {
    throw new MagicpigError('INVALID_OPTION', `${JSON.stringify(reference)} is not of the form hf:owner/name[/file][@revision]`);
  }
  return { repo: `${owner}/${name}`, file: file.length > 0 ? file.join('/') : undefined, revision };
}
