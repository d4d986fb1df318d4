//! Sessions in folders: what opening, committing and forking mean for rows, tokens and index together.

use std::path::{Path, PathBuf};

use kv_store::{Access, Counts, StoreError};

use crate::EngineError;
use crate::config::{Policy, SessionConfig};
use crate::fingerprint::{Field, index_fields, index_of, row_fields, tables_of};
use crate::session::{Index, Session};
use crate::state;
use crate::storage::{Layout, Storage};

/// Where a session lives that outlasts its process.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// What the model is, in named fields that must be the same when the session is opened again. Shape, kind of rows, seed
    /// and index are added.
    pub model: Vec<(String, String)>,
    /// To read or to write. What a reader appends stays in its memory.
    pub access: Access,
    /// Whether the session is made where there is none. One that is there is opened all the same.
    pub create: bool,
}

impl Session {
    /// Opens the session in a folder, or makes one. Its index is the policy's; one that needs none takes whichever is there.
    ///
    /// # Errors
    /// As [`Session::new`]; if the folder has a session of another model, shape, seed or index, another process writes to
    /// it, it is damaged or not there, or the file system refuses.
    pub fn open(config: &SessionConfig, folder: &Folder, policy: Policy) -> Result<Session, EngineError> {
        config.check()?;
        policy.check()?;
        kv_store::install_sigbus_message();
        let Folder { path, model, access, create } = folder;
        let fingerprint = |index: Vec<Field>| {
            [model.clone(), row_fields(config.shape, config.rows, config.seed), index].concat()
        };
        let found = match kv_store::inspect(path) {
            Ok(info) if matches!(policy, Policy::Exact | Policy::Compare { .. }) => {
                Some(index_of(&info.fingerprint))
            }
            Ok(_) => Some(index_fields(policy)),
            Err(StoreError::NotFound { .. }) if *create => None,
            Err(error) => return Err(error.into()),
        };
        let index = found.clone().unwrap_or_else(|| index_fields(policy));
        let layout = Layout { tables: tables_of(&index), ..config.layout() };
        let storage = match found {
            Some(_) => Storage::open(path, layout, &fingerprint(index), *access)?,
            None => Storage::create(path, layout, &fingerprint(index))?,
        };
        let mut session = Session::over(config, storage)?;
        state::restore(&mut session)?;
        session.set_policy(policy)?;
        Ok(session)
    }

    /// Appends to the list of tokens whose rows are stored, which a commit keeps with them.
    ///
    /// # Errors
    /// If the list would be longer than every layer is, or the disk is full.
    pub fn push_tokens(&mut self, tokens: &[u32]) -> Result<(), EngineError> {
        let (after, rows) = (self.storage.store.token_count() + tokens.len(), self.tokens());
        if after > rows {
            return Err(EngineError::Invalid(format!("{after} tokens, and {rows} have rows")));
        }
        Ok(self.storage.store.push_tokens(tokens)?)
    }

    /// The tokens whose rows are stored.
    pub fn token_list(&self) -> Vec<u32> {
        self.storage.store.tokens()
    }

    /// Makes the session as it is now last: when this returns it survives whatever happens to process and machine.
    ///
    /// # Errors
    /// If a step stopped half-way and was not taken back, the session was opened for reading, or the disk is full or fails;
    /// the commit before is then what the folder has.
    pub fn commit(&mut self) -> Result<(), EngineError> {
        let tokens = self.tokens();
        if self.lengths.iter().any(|&length| length != tokens) || self.storage.store.token_count() != tokens {
            return Err(EngineError::Invalid(
                "a step stopped half-way; truncate the session first".to_owned(),
            ));
        }
        let pool = self.pool();
        if let Index::Lsh(index) = &mut self.index {
            index.store(&pool, &mut self.storage)?;
        }
        let counts = self.counts(tokens);
        Ok(self.storage.store.commit(&state::encode(self), &counts)?)
    }

    /// Commits, and makes a session in the folder `directory` that goes on from here by itself. `model` is for a session
    /// without a folder; one with a folder passes its own fields on. A reader's fork has what its folder has.
    ///
    /// # Errors
    /// As [`Session::commit`]; if something is in the folder already.
    pub fn fork(&mut self, directory: &Path, model: &[(String, String)]) -> Result<(), EngineError> {
        if !self.storage.store.is_read_only() {
            self.commit()?;
        }
        let index = index_fields(self.index.policy());
        let fingerprint =
            [model.to_vec(), row_fields(self.shape(), self.storage.row_type(), self.seed), index].concat();
        Ok(self.storage.store.fork(directory, &fingerprint)?)
    }

    /// Puts what was committed where opening finds it without replaying a journal. To drop a session without it loses
    /// nothing that was committed.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn close(self) -> Result<(), EngineError> {
        Ok(self.storage.store.close()?)
    }

    /// What the store has of a text of `tokens` tokens, index included.
    fn counts(&self, tokens: usize) -> Counts {
        let mut counts = self.storage.counts(tokens);
        match &self.index {
            Index::None => {}
            Index::Lsh(index) => index.count(&self.storage, &mut counts, false),
            Index::Sketch(index) => index.count(&mut counts, false),
        }
        counts
    }

    /// The fields that say which index a session in a folder has, and which cannot be exchanged.
    pub(crate) fn kept_index(&self) -> Vec<Field> {
        index_of(self.storage.store.fingerprint())
    }
}
