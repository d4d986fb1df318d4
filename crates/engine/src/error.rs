//! What can go wrong in a session.

/// An error of a session. [`EngineError::code`] is stable; the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An argument is out of range or does not fit the others.
    #[error("{0}")]
    Invalid(String),
    /// The rows could not be stored.
    #[error(transparent)]
    Store(#[from] kv_store::StoreError),
    /// A session's folder holds the state of an index that this version does not know.
    #[error("the session in {} has an index that cannot be read; verify it, or make it anew", path.display())]
    State {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The model's weights cannot be used.
    #[error(transparent)]
    Weights(#[from] dense::WeightsError),
    /// `MAGICPIG_ISA` names what is not there.
    #[error(transparent)]
    Isa(#[from] lsh_attn::kernels::IsaError),
    /// Threads could not be started.
    #[error("cannot start {threads} threads: {cause}; ask for fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl EngineError {
    /// The code that crosses into JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::Invalid(_)
            | EngineError::Isa(_)
            | EngineError::Threads { .. }
            | EngineError::Weights(dense::WeightsError::Isa(_) | dense::WeightsError::Threads(_)) => {
                "INVALID_OPTION"
            }
            EngineError::Store(error) => error.code(),
            EngineError::State { .. } => "SESSION_CORRUPT",
            EngineError::Weights(dense::WeightsError::Io { .. }) => "FILE_UNREADABLE",
            EngineError::Weights(dense::WeightsError::Memory { .. }) => "OUT_OF_MEMORY",
            EngineError::Weights(_) => "GGUF_MALFORMED",
            EngineError::Cancelled => "ABORTED",
        }
    }
}
