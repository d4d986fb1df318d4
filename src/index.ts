export { MagicpigError, errorCodes, type ErrorCode } from './errors.js';
export { loadModel, type Model, type BatchStepOptions, type LoadOptions, type LoadProgress, type OpenSessionOptions, type SessionOptions } from './decode/model.js';
export type { JsonConstraint, TokenConstraint } from './decode/constraint.js';
export type { TokenLogprob } from './decode/logprobs.js';
export type { Device, DeviceName, PolicyName, PolicyOptions, RowType, SamplingOptions, WeightBits } from './decode/options.js';
export type {
  GenerateOptions,
  GeneratedToken,
  PrefillOptions,
  Prompt,
  RelativeError,
  Session,
  SessionStats,
  StepOptions,
} from './decode/session.js';
export { exportSession, importSession, inspectSession, listSessions, removeSession, verifySession, type SessionInfo, type SessionReport } from './decode/sessions.js';
export type { TunedDefaults } from './decode/tuned.js';
export { tune, type Tried, type TuneOptions, type Tuning } from './eval/tune.js';
export type { ChatMessage } from './model/template.js';
export type { ModelConfig, RopeConfig } from './model/types.js';
export { cpuInfo, type CpuInfo } from './native.js';
