//! The addon: converts arguments, forwards to `engine`, and maps errors to stable codes.
//!
//! Nothing here loops over floats or touches files. Whatever fails, panics included, arrives in JavaScript as an
//! `Error` whose `code` is one of `src/errors.ts`.
#![deny(unsafe_code)]

mod append;
mod arguments;
mod attend_batch;
mod audit;
mod bench;
mod build_index;
mod cpu_info;
mod decode_batch;
mod draws;
mod failure;
mod grammar;
mod keep;
mod model;
mod open;
mod options;
mod prefill;
mod prefill_tokens;
mod session;
mod sessions;
mod slot;
mod stats;
mod weigh;
mod weights;
