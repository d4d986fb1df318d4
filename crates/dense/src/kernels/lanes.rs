//! Sixteen rows of weights side by side, a 32-bit lane each: no sum is across lanes, and what brings quants into lanes is shared by tokens.
//! How bytes get into registers is an instruction set's to say.

use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::{ROW_GROUP, STREAM_AHEAD};

/// Sixteen rows of blocks, of which a register holds `WIDTH`. Where there are fewer, the last one stands for those that are missing; packed ones are
/// sixteen, and what they have at a byte of theirs begins at sixteen times its number (`crate::packed`).
pub(super) struct RowLanes<const WIDTH: usize, const PACKED: bool> {
    pub(super) starts: [*const u8; ROW_GROUP],
    pub(super) first: *const u8,
    ahead: usize,
}

impl<const WIDTH: usize, const PACKED: bool> RowLanes<WIDTH, PACKED> {
    /// Of `rows`, which are sixteen at most.
    pub(super) fn new(rows: &[u8], row_bytes: usize) -> Self {
        let height = rows.len() / row_bytes;
        let first = rows.as_ptr();
        RowLanes {
            starts: std::array::from_fn(|row| first.wrapping_add(row.min(height - 1) * row_bytes)),
            first,
            ahead: if PACKED { STREAM_AHEAD } else { STREAM_AHEAD.max(ROW_GROUP * row_bytes) },
        }
    }

    /// Asks for memory that rows to come have, as much as all rows have in bytes `from..from + bytes` of theirs.
    #[inline(always)]
    pub(super) fn prefetch(&self, from: usize, bytes: usize) {
        for line in (0..ROW_GROUP * bytes).step_by(64) {
            // SAFETY: a prefetch never faults, so the address need not even be valid.
            unsafe {
                let line = self.first.wrapping_add(ROW_GROUP * from + self.ahead + line);
                _mm_prefetch::<_MM_HINT_T1>(line.cast());
            }
        }
    }
}
