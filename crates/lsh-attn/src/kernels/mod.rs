//! Kernels: the inner loops, once per instruction set, behind one table of function pointers.
//!
//! `scalar` is the meaning. Each other file has the same functions and equals it within the tolerances that
//! [`Kernels`] states per function. This module alone detects CPU features, once; `MAGICPIG_ISA` forces a
//! lower instruction set (`scalar`, `avx2`, `avx512`), for tests and for finding out what a machine gains.

// Kernels index raw memory and call intrinsics: the one place in this crate where unsafe code is.
#![allow(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::hash::{HashPlan, LANES, Lanes};

/// Runs `body::<G>` over groups of four queries and then one by one: four share each widened row.
macro_rules! by_query_groups {
    ($queries:expr, $body:ident, $($argument:expr),*) => {{
        let mut first = 0;
        while first < $queries {
            // SAFETY: `first` up to `first + G` are queries, the rest is the caller's promise.
            unsafe {
                match $queries - first {
                    1 => { $body::<1>(first, $($argument),*); first += 1 }
                    2 => { $body::<2>(first, $($argument),*); first += 2 }
                    3 => { $body::<3>(first, $($argument),*); first += 3 }
                    _ => { $body::<4>(first, $($argument),*); first += 4 }
                }
            }
        }
    }};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

/// An instruction set that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable Rust: the meaning of every kernel.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The name that `MAGICPIG_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        table(self).is_some()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No kernels of that name exist.
    #[error("MAGICPIG_ISA={0} is none of scalar, avx2, avx512; unset it to use the best that is there")]
    Unknown(String),
    /// The machine lacks it.
    #[error("MAGICPIG_ISA={0} is not available on this machine; unset it to use the best that is there")]
    Unavailable(Isa),
}

type Hash = unsafe fn(&HashPlan, &[Lanes], &mut [Lanes], &mut [[u16; LANES]]);
type DotGathered = unsafe fn(q: &[f32], rows: &[u16], row_len: usize, ids: &[u16], out: &mut [f32]);
type AddGathered = unsafe fn(acc: &mut [f32], rows: &[u16], row_len: usize, ids: &[u16], weights: &[f32]);
type DotBlock = unsafe fn(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]);
type AddBlock = unsafe fn(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]);
type Max = unsafe fn(x: &[f32]) -> f32;
type ExpSum = unsafe fn(x: &mut [f32], max: f32) -> f32;
type Gemm = unsafe fn(shape: GemmShape, a: &[f32], b: &[f32], c: &mut [f32]);

/// The functions that every instruction set's file has. They are unsafe since the CPU must have the features, and
/// since they trust lengths and ids; [`Kernels`] checks all of it.
struct Table {
    isa: Isa,
    hash: Hash,
    dot_gathered: DotGathered,
    add_gathered: AddGathered,
    dot_block: DotBlock,
    add_block: AddBlock,
    max: Max,
    exp_sum: ExpSum,
    gemm: Gemm,
}

/// Sizes of a product C += A B: A is `[m, k]`, B is `[k, n]`, C is `[m, n]`, all row-major and dense.
#[derive(Clone, Copy, Debug)]
pub struct GemmShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C, a multiple of 16.
    pub n: usize,
    /// Columns of A and rows of B.
    pub k: usize,
}

/// The kernels of one instruction set. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Kernels(&'static Table);

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels({})", self.0.isa)
    }
}

impl Kernels {
    /// The best kernels for this machine, or those that `MAGICPIG_ISA` names. Detection happens once.
    ///
    /// # Errors
    /// If `MAGICPIG_ISA` names an instruction set that is unknown or not there.
    pub fn detect() -> Result<Kernels, IsaError> {
        static DETECTED: OnceLock<Result<Kernels, IsaError>> = OnceLock::new();
        DETECTED
            .get_or_init(|| match std::env::var("MAGICPIG_ISA") {
                Ok(name) if !name.is_empty() => Kernels::of(name.parse()?),
                _ => Kernels::of(
                    Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar),
                ),
            })
            .clone()
    }

    /// The kernels of `isa`.
    ///
    /// # Errors
    /// If this machine cannot run them.
    pub fn of(isa: Isa) -> Result<Kernels, IsaError> {
        table(isa).map(Kernels).ok_or(IsaError::Unavailable(isa))
    }

    /// Which instruction set these are.
    pub fn isa(self) -> Isa {
        self.0.isa
    }

    /// SimHash codes of 16 vectors at once, one a lane: `codes[table][lane]`.
    ///
    /// `input` is `[plan.padded_dim()]`, `work` as long, `codes` is `[plan.tables()]`. Bit-exact on every ISA:
    /// each does the same additions in the same order.
    pub fn hash(self, plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
        assert!(
            input.len() == plan.padded_dim() && work.len() == input.len() && codes.len() == plan.tables()
        );
        // SAFETY: a `Kernels` exists only where the CPU has the features of its table (`table`).
        unsafe { (self.0.hash)(plan, input, work, codes) }
    }

    /// `out[i] = q . rows[ids[i]][..d]`, d = `q.len()`, for bf16 rows of `row_len` elements.
    ///
    /// Accumulates in f32; differs from scalar by at most `d * 2^-24 * sum|q_j k_j|`.
    pub fn dot_gathered(self, q: &[f32], rows: &[u16], row_len: usize, ids: &[u16], out: &mut [f32]) {
        check_gather(q.len(), rows, row_len, ids, out.len());
        // SAFETY: features as above; every id is inside `rows` and d <= row_len (`check_gather`).
        unsafe { (self.0.dot_gathered)(q, rows, row_len, ids, out) }
    }

    /// `acc += sum_i weights[i] * rows[ids[i]][row_len - d..]`, d = `acc.len()`, for bf16 rows of `row_len`
    /// elements: the V half of gathered rows.
    ///
    /// Accumulates in f32; differs from scalar by at most `n * 2^-24 * sum|w_i v_ij|`.
    pub fn add_gathered(self, acc: &mut [f32], rows: &[u16], row_len: usize, ids: &[u16], weights: &[f32]) {
        check_gather(acc.len(), rows, row_len, ids, weights.len());
        // SAFETY: features as above; every id is inside `rows` and d <= row_len (`check_gather`).
        unsafe { (self.0.add_gathered)(acc, rows, row_len, ids, weights) }
    }

    /// `out[g * n + i] = q[g] . rows[i][..d]` for every query g and each of the n rows, where `q` is `[g, d]`
    /// and a row has 2 d elements: the K half of consecutive rows against all queries of a KV head.
    ///
    /// Accumulates in f32; tolerance as [`Kernels::dot_gathered`].
    pub fn dot_block(self, q: &[f32], head_dim: usize, rows: &[u16], out: &mut [f32]) {
        check_block(q.len(), head_dim, rows.len(), out.len());
        // SAFETY: features as above; `check_block` ties all lengths to each other.
        unsafe { (self.0.dot_block)(q, rows, head_dim, out) }
    }

    /// `acc[g] += sum_i weights[g * n + i] * rows[i][d..]` for every query g: the V half of consecutive rows.
    /// Shapes as [`Kernels::dot_block`], with `acc` in the place of `q`; tolerance as [`Kernels::add_gathered`].
    pub fn add_block(self, acc: &mut [f32], head_dim: usize, rows: &[u16], weights: &[f32]) {
        check_block(acc.len(), head_dim, rows.len(), weights.len());
        // SAFETY: features as above; `check_block` ties all lengths to each other.
        unsafe { (self.0.add_block)(acc, rows, head_dim, weights) }
    }

    /// The greatest of `x`; negative infinity for none. Exact; NaN may or may not be passed over.
    pub fn max(self, x: &[f32]) -> f32 {
        // SAFETY: features as above; there is no other precondition.
        unsafe { (self.0.max)(x) }
    }

    /// `x[i] = exp(x[i] - max)` in place; returns the sum. Arguments below -87 give at most 2e-38.
    ///
    /// Each value within 4e-7 relative of the exact one; the sum is accumulated in f32.
    pub fn exp_sum(self, x: &mut [f32], max: f32) -> f32 {
        // SAFETY: features as above; there is no other precondition.
        unsafe { (self.0.exp_sum)(x, max) }
    }

    /// C += A B in f32 for the small, cache-resident tiles of prefill.
    ///
    /// Differs from scalar by at most `k * 2^-24 * sum|a b|` an element.
    pub fn gemm(self, shape: GemmShape, a: &[f32], b: &[f32], c: &mut [f32]) {
        let GemmShape { m, n, k } = shape;
        assert!(
            n.is_multiple_of(16) && a.len() == m * k && b.len() == k * n && c.len() == m * n,
            "{shape:?}"
        );
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.gemm)(shape, a, b, c) }
    }
}

fn check_gather(dim: usize, rows: &[u16], row_len: usize, ids: &[u16], values: usize) {
    assert!(dim.is_multiple_of(16) && dim <= row_len, "head dimension {dim}, row of {row_len}");
    assert_eq!(ids.len(), values, "one value an id");
    let past_last = ids.iter().copied().max().map_or(0, |id| usize::from(id) + 1);
    assert!(past_last * row_len <= rows.len(), "id {past_last} - 1 is not among the rows");
}

fn check_block(queries: usize, head_dim: usize, rows: usize, values: usize) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(16) && queries.is_multiple_of(head_dim));
    assert!(rows.is_multiple_of(2 * head_dim));
    assert_eq!((queries / head_dim) * (rows / (2 * head_dim)), values, "one value a query and row");
}

/// The kernels of `isa` where this CPU has its features.
fn table(isa: Isa) -> Option<&'static Table> {
    match isa {
        Isa::Scalar => Some(&scalar::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(&avx2::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq"))
        .then_some(&avx512::TABLE),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => None,
    }
}

/// ln 2 in two parts: the first has 9 trailing zero bits, so that n times it is exact for |n| < 512.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Taylor coefficients of exp, degree 6 first: the truncated term is below 1.2e-7 for |r| <= ln2 / 2.
const EXP_POLYNOMIAL: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
