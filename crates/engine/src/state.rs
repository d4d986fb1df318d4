//! What a commit keeps beside the columns: the last token's residual stream, from which its logits come again, and the
//! index's kind, its parameters and what it does next.

use kv_store::SEGMENT_ROWS;

use crate::EngineError;
use crate::config::{Budget, Policy};
use crate::index::LshIndex;
use crate::session::{Index, Session};
use crate::sketch::SessionSketch;
use crate::storage::floats;

/// Kinds of index. A state is the number of the residual's elements in 4 bytes, these in f32, the kind in a byte, and
/// numbers in 8 bytes each, all little-endian.
const NONE: u8 = 0;
const SKETCH: u8 = 1;
const LSH: u8 = 2;

/// The state of a session.
pub(crate) fn encode(session: &Session) -> Vec<u8> {
    let residual = session.scratch.residual();
    let mut state = (residual.len() as u32).to_le_bytes().to_vec();
    residual.iter().for_each(|x| state.extend(x.to_le_bytes()));
    let (kind, words): (u8, Vec<u64>) = match &session.index {
        Index::None => (NONE, Vec::new()),
        Index::Sketch(index) => {
            let steering = index.steering().map(f64::to_bits);
            (SKETCH, [vec![u64::from(index.bits()), u64::from(index.residual())], steering.to_vec()].concat())
        }
        Index::Lsh(index) => {
            let (k, l) = index.parameters();
            let runs =
                index.stored_rows().into_iter().flat_map(|(segment, rows)| [vec![segment], rows].concat());
            let numbers = [vec![k, l], index.ends(), runs.collect()].concat();
            (LSH, numbers.into_iter().map(|number| number as u64).collect())
        }
    };
    state.push(kind);
    state.extend(words.into_iter().flat_map(u64::to_le_bytes));
    state
}

/// Gives a session that was just opened what its folder's state says. A folder without a commit has none.
///
/// # Errors
/// If it is none that [`encode`] makes.
pub(crate) fn restore(session: &mut Session) -> Result<(), EngineError> {
    let state = session.storage.store.state().to_vec();
    if state.is_empty() {
        return Ok(());
    }
    let unreadable = || EngineError::State { path: session.storage.store.directory().to_owned() };
    let (residual, index) = split(&state).ok_or_else(unreadable)?;
    session.index = decode(session, index)?;
    session.scratch.set_residual(residual);
    session.residual_of = session.tokens();
    Ok(())
}

/// The residual stream, and the index's part.
fn split(state: &[u8]) -> Option<(Vec<f32>, &[u8])> {
    let (count, rest) = state.split_at_checked(4)?;
    let count = u32::from_le_bytes(count.try_into().ok()?) as usize;
    let (residual, index) = rest.split_at_checked(count.checked_mul(4)?)?;
    Some((floats(residual), index))
}

fn decode(session: &Session, state: &[u8]) -> Result<Index, EngineError> {
    let unreadable = || EngineError::State { path: session.storage.store.directory().to_owned() };
    let (kind, words) = state.split_first().ok_or_else(unreadable)?;
    let words: Vec<u64> =
        words.chunks(8).map_while(|word| word.try_into().ok().map(u64::from_le_bytes)).collect();
    let numbers: Vec<usize> = words.iter().map(|&word| word as usize).collect();
    let (shape, seed) = (session.shape(), session.seed);
    match (*kind, numbers.as_slice()) {
        (NONE, []) => Ok(Index::None),
        (SKETCH, &[bits, residual @ (0 | 1), ..]) if words.len() == 5 => {
            let (bits, residual, budget) = (bits as u32, residual == 1, Budget::ByLength);
            Policy::Sketch { bits, budget, residual }.check().map_err(|_| unreadable())?;
            let mut index =
                SessionSketch::new(shape, (bits, residual), budget, seed).without_local(&session.attention);
            index.restore(&session.storage);
            index.set_steering([2, 3, 4].map(|word| f64::from_bits(words[word])));
            Ok(Index::Sketch(index))
        }
        (LSH, &[k, l, ref layers @ ..]) if layers.len() >= shape.layers => {
            Policy::Lsh { k, l }.check().map_err(|_| unreadable())?;
            let (ends, runs) = layers.split_at(shape.layers);
            let runs = runs.chunks(1 + shape.layers);
            if ends.iter().any(|&end| end > session.tokens())
                || runs
                    .clone()
                    .any(|run| run.len() <= shape.layers || run[1..].iter().any(|&rows| rows > SEGMENT_ROWS))
            {
                return Err(unreadable());
            }
            let runs: Vec<_> = runs.map(|run| (run[0], run[1..].to_vec())).collect();
            let mut index = LshIndex::new(shape, k, l, seed).without_local(&session.attention);
            if !index.restore(session.kernels(), &session.pool(), &session.storage, ends, &runs) {
                return Err(unreadable());
            }
            Ok(Index::Lsh(index))
        }
        _ => Err(unreadable()),
    }
}
