//! Products of queries with rows in bf16: keys gathered or in a straight walk, and sums of values likewise.

use super::vector::Vector;
use super::{GATHER_AHEAD, STREAM_AHEAD, prefetch};

/// Which rows a kernel passes, in which order.
pub(super) trait Walk: Copy {
    /// The number of the i-th row.
    ///
    /// # Safety
    /// - the walk has so many.
    unsafe fn row(self, i: usize) -> usize;

    /// Asks for `count` rows of `units` each that come some time after the i-th.
    fn prefetch(self, rows: &[u16], units: usize, i: usize, count: usize);
}

/// Rows by their ids. Those that come after the last one of a walk are asked for too.
#[derive(Clone, Copy)]
pub(super) struct Gathered<'a>(pub &'a [u16]);

impl Walk for Gathered<'_> {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> usize {
        // SAFETY: the caller's promise.
        usize::from(unsafe { *self.0.get_unchecked(i) })
    }

    #[inline(always)]
    fn prefetch(self, rows: &[u16], units: usize, i: usize, count: usize) {
        prefetch::units_gathered(rows, units, self.0.iter().skip(i + GATHER_AHEAD).take(count));
    }
}

/// All rows, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Straight;

impl Walk for Straight {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> usize {
        i
    }

    #[inline(always)]
    fn prefetch(self, rows: &[u16], units: usize, i: usize, count: usize) {
        prefetch::far(rows.as_ptr().wrapping_add(i * units + STREAM_AHEAD), count * units);
    }
}

/// `out[g * n + i] = q[g] . k[walk.row(i)]`; the sums of R rows' lanes are made together.
///
/// # Safety
/// - `q` is `[g, head_dim]`, `out` `[g, n]`, and the walk has n rows, all of them within `rows`;
/// - `head_dim` is a multiple of 16.
#[inline(always)]
pub(super) unsafe fn dot<V: Vector, W: Walk, const R: usize>(
    walk: W,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    out: &mut [f32],
) {
    by_query_groups!(q.len() / head_dim, dot_of::<V, W, R>, walk, q, rows, head_dim, out)
}

/// # Safety
/// - as [`dot`], and queries `first..first + G` exist.
#[inline(always)]
unsafe fn dot_of<V: Vector, W: Walk, const R: usize, const G: usize>(
    first: usize,
    walk: W,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    out: &mut [f32],
) {
    let count = out.len() / (q.len() / head_dim);
    let q = &q[first * head_dim..];
    let mut i = 0;
    while i < count {
        if first == 0 {
            walk.prefetch(rows, 2 * head_dim, i, R);
        }
        // SAFETY: rows i..i + R of the walk exist, and places for them in each query's results.
        unsafe {
            let out = out.as_mut_ptr().add(first * count + i);
            if count - i >= R {
                dot_rows::<V, W, G, R>(walk, i, q, rows, head_dim, out, count);
                i += R;
            } else {
                dot_rows::<V, W, G, 1>(walk, i, q, rows, head_dim, out, count);
                i += 1;
            }
        }
    }
}

/// The products of R rows, from the walk's i-th on, with G queries; results of one query are `stride` from the next one's.
///
/// # Safety
/// - `q` has G queries, the walk so many rows, and `out` a place for each product.
#[inline(always)]
unsafe fn dot_rows<V: Vector, W: Walk, const G: usize, const R: usize>(
    walk: W,
    i: usize,
    q: &[f32],
    rows: &[u16],
    head_dim: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut from = [rows.as_ptr(); R];
    for (r, from) in from.iter_mut().enumerate() {
        // SAFETY: there are R rows (caller).
        *from = from.wrapping_add(unsafe { walk.row(i + r) } * 2 * head_dim);
    }
    let mut sums = [[V::splat(0.0); R]; G];
    for j in (0..head_dim).step_by(V::WIDTH) {
        // SAFETY: the register from j on is within the head, in each row and each query (caller).
        unsafe {
            let mut k = [V::splat(0.0); R];
            for (k, from) in k.iter_mut().zip(from) {
                *k = V::load_bf16(from.add(j));
            }
            for (g, sums) in sums.iter_mut().enumerate() {
                let q = V::load(q.as_ptr().add(g * head_dim + j));
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = V::multiply_add(q, k, *sum);
                }
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (r, sum) in V::sums(sums).into_iter().enumerate() {
            // SAFETY: there is a place for row r of query g (caller).
            unsafe { *out.add(g * stride + r) = sum };
        }
    }
}

/// `acc[g] += sum_i weights[g * n + i] * v[walk.row(i)]`; P registers of V pass queries that share them, and eight pass one
/// that is alone.
///
/// # Safety
/// - `acc` is `[g, head_dim]`, `weights` `[g, n]`, and the walk has n rows, all of them within `rows`;
/// - `head_dim` is a multiple of 16.
#[inline(always)]
pub(super) unsafe fn add<V: Vector, W: Walk, const P: usize>(
    walk: W,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    weights: &[f32],
) {
    let count = weights.len() / (acc.len() / head_dim);
    by_query_groups!(acc.len() / head_dim, add_of::<V, W, P>, walk, count, acc, rows, head_dim, weights)
}

/// # Safety
/// - as [`add`] for `count` rows, and queries `first..first + G` exist.
#[inline(always)]
unsafe fn add_of<V: Vector, W: Walk, const P: usize, const G: usize>(
    first: usize,
    walk: W,
    count: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    weights: &[f32],
) {
    let (acc, weights) = (&mut acc[first * head_dim..], &weights[first * count..]);
    let mut at = 0;
    while at < head_dim {
        // SAFETY: the next registers of V are within the head, the rest is the caller's promise.
        unsafe {
            if G == 1 && head_dim - at >= 8 * V::WIDTH {
                add_columns::<V, W, G, 8>(walk, count, at, acc, rows, head_dim, weights);
                at += 8 * V::WIDTH;
            } else if head_dim - at >= P * V::WIDTH {
                add_columns::<V, W, G, P>(walk, count, at, acc, rows, head_dim, weights);
                at += P * V::WIDTH;
            } else {
                add_columns::<V, W, G, 1>(walk, count, at, acc, rows, head_dim, weights);
                at += V::WIDTH;
            }
        }
    }
}

/// P registers of V from element `at` on, for G queries: sums stay in registers while all rows pass.
///
/// # Safety
/// - as [`add`] for `count` rows and G queries, and P registers from `at` on are within a head.
#[inline(always)]
unsafe fn add_columns<V: Vector, W: Walk, const G: usize, const P: usize>(
    walk: W,
    count: usize,
    at: usize,
    acc: &mut [f32],
    rows: &[u16],
    head_dim: usize,
    weights: &[f32],
) {
    let mut sums = [[V::splat(0.0); P]; G];
    for i in 0..count {
        // SAFETY: P registers of the walk's i-th row, and a weight for each query (caller).
        unsafe {
            let v = rows.as_ptr().add((2 * walk.row(i) + 1) * head_dim + at);
            let mut parts = [V::splat(0.0); P];
            for (p, part) in parts.iter_mut().enumerate() {
                *part = V::load_bf16(v.add(p * V::WIDTH));
            }
            for (g, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*weights.get_unchecked(g * count + i));
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = V::multiply_add(weight, part, *sum);
                }
            }
        }
    }
    for (g, sums) in sums.into_iter().enumerate() {
        for (p, sum) in sums.into_iter().enumerate() {
            // SAFETY: P registers from `at` on of query g.
            unsafe {
                let to = acc.as_mut_ptr().add(g * head_dim + at + p * V::WIDTH);
                V::load(to).plus(sum).store(to);
            }
        }
    }
}
