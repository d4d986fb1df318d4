import type { DeviceName, PolicyOptions } from '../../decode/options.js';
import type { RelativeError } from '../../decode/session.js';
import type { ErrorCode } from '../../errors.js';
import type { ServeOptions, ServedSession } from '../options.js';

/** What the worker is started with. */
export type WorkerOptions = Pick<ServeOptions, 'model' | 'threads' | 'device' | 'lmHead' | 'weights' | 'context' | 'sessionsDir'> & {
  readonly session: ServedSession;
  readonly maxSessions: number;
  readonly parallel: number;
};

/** A message of a conversation, as templates take it. */
export interface ChatTurn {
  readonly role: string;
  readonly content: string;
  readonly tool_calls?: readonly { readonly id: string; readonly type: 'function'; readonly function: { readonly name: string; readonly arguments: unknown } }[];
  readonly tool_call_id?: string;
}

/** A function that the model may call. */
export interface Tool {
  readonly name: string;
  readonly description?: string | undefined;
  readonly parameters?: object | undefined;
}

export type PromptInput =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] }
  | { readonly kind: 'chat'; readonly messages: readonly ChatTurn[]; readonly tools: readonly Tool[] };

/** How an answer's attention differs from that of the server's other sessions, over the same index. */
export type Attention = Pick<PolicyOptions, 'policy' | 'budget' | 'targetError' | 'epsilon' | 'delta' | 'denseLayers'>;

/** What is to be told of an answer's attention. */
export interface ReportRequest {
  /** Bins into which the text is cut at most, but for its answer, which takes more of the same size. */
  readonly bins: number;
}

/** One text to go on with, one or several times. */
export interface GenerateRequest {
  readonly prompt: PromptInput;
  /** The named session that the text is kept in. */
  readonly session?: string | undefined;
  readonly choices: number;
  readonly maxTokens?: number | undefined;
  readonly stop: readonly string[];
  /** Of the first choice; each further one takes the next number. */
  readonly seed: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Most likely tokens to report beside each token, if any are to be. */
  readonly logprobs?: number | undefined;
  /** What the text is held to. */
  readonly schema?: object | undefined;
  readonly attention?: Attention | undefined;
  readonly report?: ReportRequest | undefined;
}

export interface SpelledLogprob {
  /** The token's own text, which may be a part of a character. */
  readonly token: string;
  readonly bytes: readonly number[];
  readonly logprob: number;
}

/** A token of an answer and the step that it came of; of the first one there was none. */
export interface StepReport {
  readonly text: string;
  readonly ms?: number;
  readonly attendMs?: number;
  /** Fraction of all keys that the step read. */
  readonly keysRead?: number;
  /** Mean over layers and heads of what the step said of its own error. */
  readonly relativeError?: number;
}

/** How an answer's attention went. */
export interface Report {
  readonly policy: string;
  readonly budget: number;
  readonly decodeMsPerToken: number;
  readonly attendMsPerToken: number;
  readonly keysRead: number;
  readonly relativeError: RelativeError | undefined;
  readonly steps: readonly StepReport[];
  readonly draws: {
    readonly binTokens: number;
    /** The text, cut into bins of so many tokens. */
    readonly texts: readonly string[];
    /** Keys that were drawn from each bin `[layers, bins]`, summed over steps and heads. */
    readonly layers: readonly (readonly number[])[];
  };
}

/** What sessions have cost and hold, for the metrics. */
export interface GenerationFigures {
  readonly prefillSeconds: number;
  readonly decodeSeconds: number;
  readonly keysRead: number;
}

export interface Usage {
  readonly promptTokens: number;
  /** Of these, tokens whose rows were there already. */
  readonly reusedTokens: number;
  readonly generatedTokens: number;
}

export type GenerateEvent =
  /** The request is in order and its text is being read. */
  | { readonly kind: 'started'; readonly promptTokens: number }
  | { readonly kind: 'token'; readonly choice: number; readonly text: string; readonly logprob?: SpelledLogprob; readonly top?: readonly SpelledLogprob[] }
  | { readonly kind: 'finished'; readonly choice: number; readonly reason: 'stop' | 'length' }
  | { readonly kind: 'done'; readonly usage: Usage; readonly figures: GenerationFigures; readonly report?: Report | undefined }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

/** What is open, and its size. */
export interface Holdings {
  readonly pooled: number;
  readonly named: number;
  readonly busy: number;
  readonly indexBytes: number;
  readonly rowBytes: number;
}

export interface NamedSession {
  readonly id: string;
  readonly tokens: number;
  readonly bytes: number;
  /** Seconds since 1970. */
  readonly lastUse: number;
}

/** Questions that have one answer. */
export interface Questions {
  holdings: { readonly ask: null; readonly answer: Holdings };
  sessions: { readonly ask: null; readonly answer: readonly NamedSession[] };
  remove: { readonly ask: { readonly session: string }; readonly answer: null };
  /** Checkpoints and frees everything; nothing may follow it. */
  close: { readonly ask: null; readonly answer: null };
}

export interface ModelInfo {
  readonly context: number;
  readonly chat: boolean;
  readonly device: DeviceName;
}

export type ToWorker =
  | { readonly kind: 'generate'; readonly id: number; readonly request: GenerateRequest }
  | { readonly kind: 'abort'; readonly id: number }
  | { [Name in keyof Questions]: { readonly kind: 'ask'; readonly id: number; readonly name: Name; readonly ask: Questions[Name]['ask'] } }[keyof Questions];

export type FromWorker =
  | { readonly kind: 'ready'; readonly info: ModelInfo }
  | { readonly kind: 'unready'; readonly code: ErrorCode; readonly message: string }
  | { readonly kind: 'event'; readonly id: number; readonly event: GenerateEvent }
  | { readonly kind: 'answer'; readonly id: number; readonly answer: unknown }
  | { readonly kind: 'refusal'; readonly id: number; readonly code: ErrorCode; readonly message: string };
