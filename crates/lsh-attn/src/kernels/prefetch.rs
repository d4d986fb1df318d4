//! Asking for memory that is needed soon. It changes nothing but time, and never faults, so that addresses need not even be
//! valid. Every x86-64 has the instruction, whatever else it has; elsewhere nothing happens.

use crate::rows::Rows;

/// Bytes that come at once.
const LINE: usize = 64;

/// Asks for `values`, into the first-level cache.
#[inline(always)]
pub fn near<T>(values: &[T]) {
    ask::<true>(values.as_ptr().cast(), size_of_val(values));
}

/// Asks for rows, into the first-level cache.
pub fn rows(rows: Rows<'_>) {
    near(rows.stored());
}

/// Asks for `count` values at `from`, into the second-level cache.
#[inline(always)]
pub fn far<T>(from: *const T, count: usize) {
    ask::<false>(from.cast(), count * size_of::<T>());
}

/// Asks for the rows that `ids` name, into the second-level cache.
#[inline]
pub fn gathered(rows: Rows<'_>, ids: &[u16]) {
    units_gathered(rows.stored(), rows.row_bytes() / size_of::<u16>(), ids);
}

/// The same of rows of `units` each.
#[inline(always)]
pub(super) fn units_gathered<'a>(rows: &[u16], units: usize, ids: impl IntoIterator<Item = &'a u16>) {
    for &id in ids {
        far(rows.as_ptr().wrapping_add(usize::from(id) * units), units);
    }
}

#[inline(always)]
fn ask<const NEAR: bool>(from: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction is part of x86-64, and does nothing where an address is not valid.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
            let at = from.wrapping_add(line).cast();
            if NEAR { _mm_prefetch::<_MM_HINT_T0>(at) } else { _mm_prefetch::<_MM_HINT_T1>(at) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, line);
    }
}
