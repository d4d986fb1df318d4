//! Sessions in folders that nobody needs to have open: what is in them, whether they are whole, and removing them.

use std::path::PathBuf;

use engine::{Info, Report};
use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Task};
use napi_derive::napi;

use crate::failure::{Code, Failure, contained};
use crate::options::NativeField;

/// What a session's folder holds.
#[napi(object, object_from_js = false)]
pub struct NativeSessionInfo {
    /// Names and values that must be the same when it is opened.
    pub fingerprint: Vec<NativeField>,
    /// Tokens of the last commit.
    pub tokens: f64,
    /// Segments of the last commit.
    pub segments: f64,
    /// Bytes of rows, index and tokens that are committed.
    pub bytes: f64,
    /// Of these, bytes that wait in the journal.
    pub journal_bytes: f64,
}

/// What the checksums of a session say.
#[napi(object, object_from_js = false)]
pub struct NativeReport {
    /// Segments of the last commit.
    pub segments: f64,
    /// Tokens of the last commit.
    pub tokens: f64,
    /// Bytes that were read and compared.
    pub bytes: f64,
    /// What is not as it was written; nothing if the session is whole.
    pub problems: Vec<NativeProblem>,
}

/// Something that is not as it was written.
#[napi(object, object_from_js = false)]
pub struct NativeProblem {
    /// The file.
    pub path: String,
    /// Where the damaged part begins, in bytes.
    pub offset: f64,
    /// What is wrong.
    pub what: String,
}

/// What is in the session in a folder.
#[napi]
pub fn inspect_session(path: String) -> napi::Result<NativeSessionInfo, Code> {
    let Info { fingerprint, tokens, segments, bytes, journal_bytes, .. } =
        contained(|| Ok(engine::inspect(&PathBuf::from(path))?)).flatten()?;
    Ok(NativeSessionInfo {
        fingerprint: fingerprint.into_iter().map(|(name, value)| NativeField { name, value }).collect(),
        tokens: tokens as f64,
        segments: segments as f64,
        bytes: bytes as f64,
        journal_bytes: journal_bytes as f64,
    })
}

/// Removes the session in a folder, which nobody may have open for writing.
#[napi]
pub fn remove_session(path: String) -> napi::Result<(), Code> {
    Ok(contained(|| Ok(engine::remove(&PathBuf::from(path))?)).flatten()?)
}

/// Packs the last commit of a session into a new file; resolves with its bytes.
#[napi(ts_return_type = "Promise<number>")]
pub fn export_session(path: String, archive: String) -> AsyncTask<PackTask> {
    AsyncTask::new(PackTask { session: path.into(), archive: archive.into(), unpack: false })
}

/// Makes a session from what exportSession packed, in a folder that is not there yet.
#[napi(ts_return_type = "Promise<number>")]
pub fn import_session(archive: String, path: String) -> AsyncTask<PackTask> {
    AsyncTask::new(PackTask { session: path.into(), archive: archive.into(), unpack: true })
}

/// Packs or unpacks a session in libuv's thread pool.
pub struct PackTask {
    session: PathBuf,
    archive: PathBuf,
    unpack: bool,
}

#[napi]
impl Task for PackTask {
    /// Bytes of the archive, or 0.
    type Output = Result<u64, Failure>;
    type JsValue = f64;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let PackTask { session, archive, unpack } = self;
        Ok(contained(|| {
            if *unpack {
                engine::import(archive, session)?;
                return Ok(0);
            }
            Ok(engine::export(session, archive)?)
        })
        .flatten())
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        output.map(|bytes| bytes as f64).map_err(|failure| failure.into_rejection(env))
    }
}

/// Reads all checksums of a session.
#[napi(ts_return_type = "Promise<NativeReport>")]
pub fn verify_session(path: String) -> AsyncTask<VerifyTask> {
    AsyncTask::new(VerifyTask(path.into()))
}

/// Verifies in libuv's thread pool.
pub struct VerifyTask(PathBuf);

#[napi]
impl Task for VerifyTask {
    type Output = Result<Report, Failure>;
    type JsValue = NativeReport;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(contained(|| Ok(engine::verify(&self.0)?)).flatten())
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        let Report { segments, tokens, bytes, problems } =
            output.map_err(|failure| failure.into_rejection(env))?;
        let problem = |problem: engine::Problem| NativeProblem {
            path: problem.path.display().to_string(),
            offset: problem.offset as f64,
            what: problem.what,
        };
        Ok(NativeReport {
            segments: segments as f64,
            tokens: tokens as f64,
            bytes: bytes as f64,
            problems: problems.into_iter().map(problem).collect(),
        })
    }
}
