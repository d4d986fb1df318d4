//! Asking for memory that is needed soon. It changes nothing but time, and never faults, so that addresses need not even be
//! valid. Every x86-64 has the instruction, whatever else it has; elsewhere nothing happens.

use crate::rows::Rows;

/// Bytes that come at once.
const LINE: usize = 64;

/// Asks for `values`, into the first-level cache.
#[inline(always)]
pub fn near<T>(values: &[T]) {
    let from = values.as_ptr().cast::<u8>();
    for line in (0..size_of_val(values)).step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction is part of x86-64, and does nothing where an address is not valid.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, line);
    }
}

/// Asks for rows, into the first-level cache.
pub fn rows(rows: Rows<'_>) {
    near(rows.stored());
}

/// Asks for `units` of 16 bits at `from`, into the second-level cache.
#[inline(always)]
pub(super) fn far(from: *const u16, units: usize) {
    for line in (0..units).step_by(LINE / size_of::<u16>()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `near`.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, line);
    }
}

/// Asks for the rows that `ids` name, into the second-level cache.
#[inline]
pub fn gathered(rows: Rows<'_>, ids: &[u16]) {
    let (from, units) = (rows.stored().as_ptr(), rows.row_bytes() / size_of::<u16>());
    ids.iter().for_each(|&id| far(from.wrapping_add(usize::from(id) * units), units));
}
