//! What a commit keeps of an index beside its columns: its kind, its parameters, and what it does next.

use crate::EngineError;
use crate::config::{Budget, Policy};
use crate::index::LshIndex;
use crate::session::{Index, Session};
use crate::sketch::SessionSketch;

/// First byte of a state; none is an empty one. Numbers follow in 8 bytes each, little-endian.
const SKETCH: u8 = 1;
const LSH: u8 = 2;

/// The state of an index.
pub(crate) fn encode(index: &Index) -> Vec<u8> {
    let (kind, words): (u8, Vec<u64>) = match index {
        Index::None => return Vec::new(),
        Index::Sketch(index) => {
            let steering = index.steering().map(f64::to_bits);
            (SKETCH, [vec![u64::from(index.bits())], steering.to_vec()].concat())
        }
        Index::Lsh(index) => {
            let (k, l) = index.parameters();
            let numbers = [vec![k, l], index.ends()].concat();
            (LSH, numbers.into_iter().map(|number| number as u64).collect())
        }
    };
    std::iter::once(kind).chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
}

/// The index that a session's folder has, as it was when it was committed.
///
/// # Errors
/// If the state is none that [`encode`] makes.
pub(crate) fn decode(session: &Session) -> Result<Index, EngineError> {
    let store = &session.storage.store;
    let unreadable = || EngineError::State { path: store.directory().to_owned() };
    let Some((kind, words)) = store.state().split_first() else { return Ok(Index::None) };
    let words: Vec<u64> =
        words.chunks(8).map_while(|word| word.try_into().ok().map(u64::from_le_bytes)).collect();
    let numbers: Vec<usize> = words.iter().map(|&word| word as usize).collect();
    let (shape, seed) = (session.shape(), session.seed);
    match (*kind, numbers.as_slice()) {
        (SKETCH, &[bits, ..]) if words.len() == 4 => {
            let (bits, budget) = (bits as u32, Budget::ByLength);
            Policy::Sketch { bits, budget }.check().map_err(|_| unreadable())?;
            let mut index = SessionSketch::new(shape, bits, budget, seed);
            index.restore(&session.storage);
            index.set_steering([1, 2, 3].map(|word| f64::from_bits(words[word])));
            Ok(Index::Sketch(index))
        }
        (LSH, &[k, l, ref ends @ ..]) if ends.len() == shape.layers => {
            Policy::Lsh { k, l }.check().map_err(|_| unreadable())?;
            if ends.iter().any(|&end| end > session.tokens()) {
                return Err(unreadable());
            }
            let mut index = LshIndex::new(shape, k, l, seed);
            index.restore(session.kernels(), &session.pool(), &session.storage, ends);
            Ok(Index::Lsh(index))
        }
        _ => Err(unreadable()),
    }
}
