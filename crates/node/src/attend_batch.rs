//! One layer's attention of several sessions, one token each, in the background.

use engine::{AttendRow, attend_batch};
use napi::bindgen_prelude::{AsyncTask, ClassInstance, Float32Array};
use napi::{Env, Task};
use napi_derive::napi;

use crate::arguments::length;
use crate::failure::{Code, Failure};
use crate::session::NativeSession;
use crate::slot::{Claim, run_all};

/// What sessions that were attended together got.
#[napi(object, object_from_js = false)]
pub struct NativeAttended {
    /// [sessions, heads * headDim]; zeros where a session failed or stayed behind.
    pub out: Float32Array,
    /// Of each session what stood in its way, or null.
    pub failures: Vec<Option<NativeFailure>>,
}

/// What stood in a session's way.
#[napi(object, object_from_js = false)]
pub struct NativeFailure {
    /// The error's code.
    pub code: String,
    /// The error's text.
    pub message: String,
}

/// Attends in libuv's thread pool. The arrays are copies: JavaScript may write to its own while these are read on another thread.
pub struct AttendBatchTask {
    /// Each session's claim, or why there is none; nothing for one that stays behind.
    claims: Vec<Result<Claim, Option<Failure>>>,
    layer: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

#[napi]
impl Task for AttendBatchTask {
    type Output = (Vec<f32>, Vec<Option<Failure>>);
    type JsValue = NativeAttended;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let AttendBatchTask { claims, layer, q, k, v } = self;
        let mut out = vec![0.0; q.len()];
        let (wide, narrow) = (q.len() / claims.len(), k.len() / claims.len());
        let inputs = q.chunks_exact(wide).zip(k.chunks_exact(narrow)).zip(v.chunks_exact(narrow));
        let (mut claimed, mut parts) = (Vec::new(), Vec::new());
        for ((claim, inputs), out) in claims.iter_mut().zip(inputs).zip(out.chunks_exact_mut(wide)) {
            if let Ok(claim) = claim {
                claimed.push(claim);
                parts.push((inputs, out));
            }
        }
        let attended = run_all(&mut claimed, |sessions| {
            let row = |((session, cancel), (((q, k), v), out))| AttendRow { session, q, k, v, out, cancel };
            let mut rows: Vec<_> = sessions.into_iter().zip(parts).map(row).collect();
            attend_batch(*layer, &mut rows)
        })
        .and_then(|outcomes| outcomes.map_err(Failure::from));
        let mut attended = match attended {
            Ok(outcomes) => outcomes.into_iter().map(|outcome| outcome.err().map(Failure::from)).collect(),
            Err(failure) => {
                out.fill(0.0);
                vec![Some(failure); claimed.len()]
            }
        }
        .into_iter();
        let failure = |claim: &Result<Claim, Option<Failure>>| match claim {
            Ok(_) => attended.next().expect("as many as there are claims"),
            Err(failure) => failure.clone(),
        };
        let failures = claims.iter().map(failure).collect();
        Ok((out, failures))
    }

    fn resolve(&mut self, _: Env, (out, failures): Self::Output) -> napi::Result<Self::JsValue> {
        // The sessions are free again before anyone is told.
        self.claims.clear();
        let failure = |failure: Failure| {
            let (code, message) = failure.parts();
            NativeFailure { code: code.to_owned(), message }
        };
        let failures = failures.into_iter().map(|outcome| outcome.map(failure)).collect();
        Ok(NativeAttended { out: out.into(), failures })
    }
}

/// As attendDecode for one token of each session, whose threads attend them together: k and v are [sessions, kvHeads * headDim], q and the
/// result [sessions, heads * headDim], to the bit what attendDecode writes. Each session fails by itself, also where it is busy, was disposed of, or
/// has another shape than the first one; where there is none, one stays behind whose row is zeros. Copies its inputs.
#[napi(js_name = "attendBatch")]
pub fn attend_sessions(
    sessions: Vec<Option<ClassInstance<'_, NativeSession>>>,
    layer: f64,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> napi::Result<AsyncTask<AttendBatchTask>, Code> {
    let Some(first) = sessions.iter().flatten().next() else {
        return Err(Failure::invalid("no sessions; there must be one at least".to_owned()).into());
    };
    let layer = first.layer(layer)?;
    let (wide, narrow) = first.widths();
    length("q", q, sessions.len() * wide)?;
    length("k", k, sessions.len() * narrow)?;
    length("v", v, sessions.len() * narrow)?;
    let claim = |session: &Option<ClassInstance<'_, NativeSession>>| match session {
        Some(session) => session.claim().map_err(Some),
        None => Err(None),
    };
    let claims = sessions.iter().map(claim).collect();
    Ok(AsyncTask::new(AttendBatchTask { claims, layer, q: q.to_vec(), k: k.to_vec(), v: v.to_vec() }))
}
