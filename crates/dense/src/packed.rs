//! Blocks of sixteen rows side by side, in the order in which a kernel takes them.
//!
//! A file has one row after the other, so that sixteen rows, a lane each, come from sixteen places: a third of a product's instructions
//! bring them into lanes, and no prefetcher of the hardware sees a straight walk. Packed once, when the model is loaded, a step
//! reads its weights in one. Nothing is rounded, and no byte is added.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::config::TransformerConfig;
use crate::kernels::ROW_GROUP;
use crate::matrix::{Matrix, WeightType};
use crate::weights_file::{TensorSpan, Weights, WeightsError, memory};

/// Rows that a task packs at a time.
const TASK_ROWS: usize = 16 * ROW_GROUP;

/// Replaces the spans of a model's matrices by those of packed ones in memory.
///
/// # Errors
/// If a matrix is not in the files, or there is no memory for it.
pub(crate) fn pack_weights(
    pool: &ThreadPool,
    weights: &mut Weights,
    config: &mut TransformerConfig,
) -> Result<(), WeightsError> {
    let mut any = false;
    let mut keep = |span: &mut TensorSpan| -> Result<(), WeightsError> {
        let matrix = weights.matrix(*span)?;
        if can_pack(matrix) {
            let mut bytes = memory(matrix.bytes().len())?;
            let parts = bytes.chunks_mut(TASK_ROWS * matrix.row_bytes()).zip(matrix.row_groups(TASK_ROWS));
            pool.install(|| parts.par_bridge().for_each(|(bytes, rows)| pack(rows, bytes)));
            *span = weights.keep(TensorSpan { packed: true, ..*span }, bytes);
            any = true;
        }
        Ok(())
    };
    for span in config.matrices_mut() {
        keep(span)?;
    }
    keep(&mut config.lm_head)?;
    if any {
        weights.release_files();
    }
    Ok(())
}

/// Whether a matrix is of blocks and has a whole group of rows.
pub(crate) fn can_pack(matrix: Matrix<'_>) -> bool {
    !matrix.kind().is_wide() && matrix.outputs() >= ROW_GROUP
}

/// Writes the bytes of a matrix that can be packed with the blocks of each [`ROW_GROUP`] rows side by side. Rows that are left over stay as
/// they are.
pub(crate) fn pack(matrix: Matrix<'_>, packed: &mut [u8]) {
    each_part(matrix, packed, |rows, in_packed, from, to| to[in_packed].copy_from_slice(&from[rows]));
}

/// Writes the bytes of a packed matrix as a file has them.
pub(crate) fn unpack(matrix: Matrix<'_>, rows: &mut [u8]) {
    each_part(matrix, rows, |rows, in_packed, from, to| to[rows].copy_from_slice(&from[in_packed]));
}

/// Calls `part(range in a group's rows, range in them packed, the group in matrix, the group in out)` for each part of all
/// blocks: the f16 numbers that begin or end them, and each 32 bits of the rest. A packed block has each part of all rows
/// before the next part, so that part begins at sixteen times the byte that it has in its row.
#[inline(always)]
fn each_part(
    matrix: Matrix<'_>,
    out: &mut [u8],
    part: impl Fn(Range<usize>, Range<usize>, &[u8], &mut [u8]),
) {
    match matrix.kind() {
        WeightType::Q8_0 => each_part_of::<1, 8, 0>(matrix, out, part),
        WeightType::Q4_0 | WeightType::Iq4Nl => each_part_of::<1, 4, 0>(matrix, out, part),
        WeightType::Q4_1 => each_part_of::<2, 4, 0>(matrix, out, part),
        WeightType::Q5_0 => each_part_of::<1, 5, 0>(matrix, out, part),
        WeightType::Q5_1 => each_part_of::<2, 5, 0>(matrix, out, part),
        WeightType::Q2K => each_part_of::<0, 21, 0>(matrix, out, part),
        WeightType::Q3K => each_part_of::<0, 27, 1>(matrix, out, part),
        WeightType::Q4K => each_part_of::<0, 36, 0>(matrix, out, part),
        WeightType::Q5K => each_part_of::<0, 44, 0>(matrix, out, part),
        WeightType::Q6K => each_part_of::<0, 52, 1>(matrix, out, part),
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("they have no blocks"),
    }
}

/// Of blocks that begin with so many numbers, go on with so many words and end with so many numbers.
#[inline(always)]
fn each_part_of<const FIRST: usize, const WORDS: usize, const LAST: usize>(
    matrix: Matrix<'_>,
    out: &mut [u8],
    part: impl Fn(Range<usize>, Range<usize>, &[u8], &mut [u8]),
) {
    let row_bytes = matrix.row_bytes();
    let group = ROW_GROUP * row_bytes;
    let (words, last) = (2 * FIRST, 2 * FIRST + 4 * WORDS);
    let (groups, rest) = matrix.bytes().split_at(matrix.bytes().len() / group * group);
    let (out, out_rest) = out.split_at_mut(groups.len());
    out_rest.copy_from_slice(rest);
    for (bytes, out) in groups.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        for block in (0..row_bytes).step_by(last + 2 * LAST) {
            for row in 0..ROW_GROUP {
                let mut part_at = |at: usize, size: usize| {
                    let (from, to) = (row * row_bytes + block + at, ROW_GROUP * (block + at) + row * size);
                    part(from..from + size, to..to + size, bytes, out);
                };
                (0..FIRST).for_each(|i| part_at(2 * i, 2));
                (0..WORDS).for_each(|i| part_at(words + 4 * i, 4));
                (0..LAST).for_each(|i| part_at(last + 2 * i, 2));
            }
        }
    }
}
