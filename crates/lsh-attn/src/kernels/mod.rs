//! Kernels: the inner loops, once per instruction set, behind one table of function pointers.
//!
//! Sums of floats are written once (`bf16_rows`, `gemm`, `exponentials`), over what an instruction set does with a register of lanes
//! (`vector`), but for AVX-512's matrix products. All else is in a file for each set, and equals what `scalar` has. [`Kernels`] states
//! tolerances per function. This module alone detects CPU features, once; `MAGICPIG_ISA` forces a lower instruction set (`scalar`,
//! `avx2`, `avx512`, `avx512bf16`), for tests and for finding out what a machine gains.

// Kernels index raw memory and call intrinsics: the one place in this crate where unsafe code is.
#![allow(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::hash::{HashPlan, LANES, Lanes};
use crate::inclusion::NODES;
use crate::rows::{RowType, Rows};
use crate::sketch::{BLOCK_KEYS, Draw, SKETCH_BITS, SketchQueries, VALUE_BITS, ValueWeights, block_bytes};

/// Runs `body::<G>` over groups of four queries and then one by one: four share each widened row.
macro_rules! by_query_groups {
    ($queries:expr, $body:ident $(::<$($constant:ty),+>)?, $($argument:expr),*) => {{
        let mut first = 0;
        while first < $queries {
            // SAFETY: `first` up to `first + G` are queries, the rest is the caller's promise.
            unsafe {
                match $queries - first {
                    1 => { $body::<$($($constant,)+)? 1>(first, $($argument),*); first += 1 }
                    2 => { $body::<$($($constant,)+)? 2>(first, $($argument),*); first += 2 }
                    3 => { $body::<$($($constant,)+)? 3>(first, $($argument),*); first += 3 }
                    _ => { $body::<$($($constant,)+)? 4>(first, $($argument),*); first += 4 }
                }
            }
        }
    }};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16_rows;
mod exponentials;
mod gemm;
pub mod prefetch;
mod scalar;
mod vector;

/// An instruction set that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// The same with products of bf16.
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The name that `MAGICPIG_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
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
    #[error(
        "MAGICPIG_ISA={0} is none of scalar, avx2, avx512, avx512bf16; unset it to use the best that is there"
    )]
    Unknown(String),
    /// The machine lacks it.
    #[error("MAGICPIG_ISA={0} is not available on this machine; unset it to use the best that is there")]
    Unavailable(Isa),
}

type Hash = unsafe fn(&HashPlan, &[Lanes], &mut [Lanes], &mut [[u16; LANES]]);
type TakeRepeated = unsafe fn(counts: &mut [u8], out: &mut Vec<u16>);
type LnInclusion = unsafe fn(nodes: &[f32; NODES], cosines: &mut [f32]);
type Rotate = unsafe fn(signs: &[f32], x: &mut [Lanes]);
type SketchEncode = unsafe fn(bits: u32, x: &[Lanes], block: &mut [u8]);
type SketchWeights = unsafe fn(
    bits: u32,
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
);
type DrawKeys = unsafe fn(weights: &[u16], how: Draw<'_>, ids: &mut Vec<u16>, ln_pi: &mut Vec<f32>) -> f64;
type ValueEncode = unsafe fn(bits: u32, x: &[Lanes], block: &mut [u8]);
type ValueSums = unsafe fn(bits: u32, padded_dim: usize, values: &[u8], weights: &[u16], num: &mut [f32]);
type DotGathered = unsafe fn(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]);
type AddGathered = unsafe fn(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]);
type DotBlock = unsafe fn(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]);
type AddBlock = unsafe fn(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]);
type Max = unsafe fn(x: &[f32]) -> f32;
type ExpSum = unsafe fn(x: &mut [f32], max: f32) -> f32;
type Narrow = unsafe fn(x: &[f32], out: &mut [u16]);
type Gemm = unsafe fn(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]);

/// The functions over rows of one type.
struct RowKernels {
    dot_gathered: DotGathered,
    add_gathered: AddGathered,
    dot_block: DotBlock,
    add_block: AddBlock,
}

/// The functions that every instruction set's file has. They are unsafe since the CPU must have the features, and
/// since they trust lengths and ids; [`Kernels`] checks all of it.
struct Table {
    isa: Isa,
    hash: Hash,
    take_repeated: TakeRepeated,
    ln_inclusion: LnInclusion,
    rotate: Rotate,
    sketch_encode: SketchEncode,
    sketch_weights: SketchWeights,
    draw_keys: DrawKeys,
    value_encode: ValueEncode,
    value_sums: ValueSums,
    bf16: RowKernels,
    int8: RowKernels,
    max: Max,
    exp_sum: ExpSum,
    narrow: Narrow,
    gemm: Gemm,
}

/// Columns of a panel of B.
pub const PANEL: usize = 16;

/// Sizes of a product C += A B of bf16 matrices, summed in f32. A is `[m, k]` and C is `[m, n]`, row-major and dense. B `[k, n]`
/// lies in panels of [`PANEL`] columns, `[n / PANEL, k / 2, PANEL]`, each element a pair of two rows: the even one's in the
/// lower half.
#[derive(Clone, Copy, Debug)]
pub struct GemmShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C, a multiple of [`PANEL`].
    pub n: usize,
    /// Columns of A and rows of B, an even number.
    pub k: usize,
}

impl GemmShape {
    /// Elements of A, pairs of B, elements of C.
    fn lengths(self) -> (usize, usize, usize) {
        (self.m * self.k, self.k / 2 * self.n, self.m * self.n)
    }
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

    /// Appends the places of `counts` that hold 2 or more, ascending, and sets all of them to 0. Exact.
    ///
    /// `counts` has a multiple of 64 elements, at most 65,536.
    pub fn take_repeated(self, counts: &mut [u8], out: &mut Vec<u16>) {
        assert!(counts.len().is_multiple_of(64) && counts.len() <= 1 << 16);
        // SAFETY: features as above; the length was just checked.
        unsafe { (self.0.take_repeated)(counts, out) }
    }

    /// Cosines as what [`InclusionTable`](crate::inclusion::InclusionTable) has for them, in place. Bit-exact on every ISA.
    pub fn ln_inclusion(self, nodes: &[f32; NODES], cosines: &mut [f32]) {
        // SAFETY: features as above; there is no other precondition.
        unsafe { (self.0.ln_inclusion)(nodes, cosines) }
    }

    /// Rotates 16 vectors at once, one a lane: `signs` is a number of rounds times `x.len()`, a power of two. Bit-exact on
    /// every ISA.
    pub fn rotate(self, signs: &[f32], x: &mut [Lanes]) {
        assert!(x.len().is_power_of_two() && signs.len().is_multiple_of(x.len()));
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.rotate)(signs, x) }
    }

    /// Codes of 16 rotated keys, one a lane of `x` `[padded_dim]`, into `block`. Bit-exact on every ISA.
    pub fn sketch_encode(self, bits: u32, x: &[Lanes], block: &mut [u8]) {
        assert!(SKETCH_BITS.contains(&bits) && block.len() == block_bytes(x.len(), bits));
        assert!(x.len().is_multiple_of(32));
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.sketch_encode)(bits, x, block) }
    }

    /// Estimated weights of the blocks' keys in bf16, `[blocks, queries, 16]`, and their sums over all blocks, one a query. Bit-exact
    /// on every ISA.
    ///
    /// An estimate is 2^x with the fraction of x taken for the mantissa's, up to 6% more than the power itself, and that in 8 bits: a
    /// proposal has to be known exactly, not to be exact. x is cut to -126..=100.
    pub fn sketch_weights(
        self,
        bits: u32,
        padded_dim: usize,
        blocks: &[u8],
        queries: SketchQueries<'_>,
        weights: &mut [u16],
        totals: &mut [f32],
    ) {
        let count = check_sketch(bits, padded_dim, blocks, queries);
        assert_eq!(weights.len(), count * queries.offsets.len() * BLOCK_KEYS, "one weight a key and query");
        assert_eq!(totals.len(), queries.offsets.len(), "one sum a query");
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.sketch_weights)(bits, padded_dim, blocks, queries, weights, totals) }
    }

    /// Draws keys of consecutive blocks by systematic sampling (Madow 1949): their probabilities are lengths on a line, and a
    /// key is drawn where a step of length one lands on it. `weights` are `[blocks, queries, 16]`, in bf16. Appends ids, ascending,
    /// and ln pi of each; returns the expected number of keys. Probabilities are counted in units of 2^-24. Bit-exact on every ISA.
    pub fn draw_keys(self, weights: &[u16], how: Draw<'_>, ids: &mut Vec<u16>, ln_pi: &mut Vec<f32>) -> f64 {
        let block = how.coefficients.len() * BLOCK_KEYS;
        assert!(block > 0 && weights.len().is_multiple_of(block), "whole blocks");
        assert!((0.0..1.0).contains(&how.floor) && (0.0..1.0).contains(&how.start));
        // SAFETY: features as above; lengths and range were just checked.
        unsafe { (self.0.draw_keys)(weights, how, ids, ln_pi) }
    }

    /// Codes of 16 rotated values, one a lane of `x` `[padded_dim]`, into `block`. Bit-exact on every ISA.
    pub fn value_encode(self, bits: u32, x: &[Lanes], block: &mut [u8]) {
        assert!(VALUE_BITS.contains(&bits) && block.len() == block_bytes(x.len(), bits));
        assert!(x.len().is_multiple_of(32));
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.value_encode)(bits, x, block) }
    }

    /// Adds to `num` `[queries, padded_dim]` the sums of the values that blocks of codes stand for, times `weights` as
    /// [`Kernels::sketch_weights`] makes them. Weights times factors are rounded to 7 bits for each block and query, so that each is off
    /// by at most 1/254 of the greatest; [`ValueWeights`] are what counts. Integers within a block, f32 from block to block: bit-exact on
    /// every ISA.
    pub fn value_sums(self, bits: u32, padded_dim: usize, values: &[u8], weights: &[u16], num: &mut [f32]) {
        assert!(VALUE_BITS.contains(&bits) && padded_dim > 0 && padded_dim.is_multiple_of(32));
        assert!(num.len().is_multiple_of(padded_dim), "one sum a query and element");
        let (queries, bytes) = (num.len() / padded_dim, block_bytes(padded_dim, bits));
        assert!(values.len().is_multiple_of(bytes));
        assert_eq!(weights.len(), values.len() / bytes * queries * BLOCK_KEYS, "one weight a key and query");
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.value_sums)(bits, padded_dim, values, weights, num) }
    }

    /// What weights `[16]` of a block's keys are rounded to by [`Kernels::value_sums`].
    pub fn value_weights(self, bits: u32, weights: &[u16], values: &[u8]) -> ValueWeights {
        scalar::values::rounded(bits, weights, values)
    }

    /// `out[g * n + i] = q[g] . k[ids[i]]` for every query g and the first n ids, where `q` is `[g, d]` and k are the keys of
    /// `rows`: gathered keys against queries that share them. Ids beyond the n-th name rows that come next: their memory is
    /// asked for.
    ///
    /// bf16: accumulates in f32; within `d * 2^-24 * sum|q_j k_j|` of the exact product. Int8: each query is rounded to 16
    /// bits, so that a product is off by at most `2^-16 max|q| sum|k_j|` besides the rounding of the result; sums of integers,
    /// bit-exact on every ISA.
    pub fn dot_gathered(self, q: &[f32], rows: Rows<'_>, ids: &[u16], out: &mut [f32]) {
        let head_dim = check_gather(q.len(), rows, ids);
        let queries = q.len() / head_dim;
        assert!(
            out.len().is_multiple_of(queries) && out.len() / queries <= ids.len(),
            "an id for each result"
        );
        // SAFETY: features as above; every id is inside `rows` (`check_gather`), and there are enough of them.
        unsafe { (self.of_rows(rows).dot_gathered)(q, rows.stored(), head_dim, ids, out) }
    }

    /// `acc[g] += sum_i weights[g * n + i] * v[ids[i]]` for every query g and all n ids, where `acc` is `[g, d]` and v are the
    /// values of `rows`.
    ///
    /// bf16: accumulates in f32; within `(n + 2) * 2^-24 * (|acc_j| + sum|w_i v_ij|)` of the exact sum. Int8: weights times scales of V are
    /// rounded to 16 bits together, 128 rows at a time, so that each is off by at most 2^-16 of the greatest of them; sums of
    /// integers, bit-exact on every ISA.
    pub fn add_gathered(self, acc: &mut [f32], rows: Rows<'_>, ids: &[u16], weights: &[f32]) {
        let head_dim = check_gather(acc.len(), rows, ids);
        assert_eq!(weights.len(), acc.len() / head_dim * ids.len(), "a weight for each query and id");
        // SAFETY: features as above; every id is inside `rows` (`check_gather`), and the lengths agree.
        unsafe { (self.of_rows(rows).add_gathered)(acc, rows.stored(), head_dim, ids, weights) }
    }

    /// `out[g * n + i] = q[g] . k[i]` for every query g and the keys of all n rows, where `q` is `[g, d]`: consecutive keys
    /// against all queries of a KV head.
    ///
    /// Tolerance as [`Kernels::dot_gathered`]. Asks for the memory behind `rows` too, where the next block is.
    pub fn dot_block(self, q: &[f32], rows: Rows<'_>, out: &mut [f32]) {
        let head_dim = check_block(q.len(), rows, out.len());
        // SAFETY: features as above; `check_block` ties all lengths to each other.
        unsafe { (self.of_rows(rows).dot_block)(q, rows.stored(), head_dim, out) }
    }

    /// `acc[g] += sum_i weights[g * n + i] * v[i]` for every query g and the values of all n rows. Shapes as
    /// [`Kernels::dot_block`], with `acc` in the place of `q`; tolerance as [`Kernels::add_gathered`].
    pub fn add_block(self, acc: &mut [f32], rows: Rows<'_>, weights: &[f32]) {
        let head_dim = check_block(acc.len(), rows, weights.len());
        // SAFETY: features as above; `check_block` ties all lengths to each other.
        unsafe { (self.of_rows(rows).add_block)(acc, rows.stored(), head_dim, weights) }
    }

    fn of_rows(self, rows: Rows<'_>) -> &'static RowKernels {
        match rows.row_type() {
            RowType::Bf16 => &self.0.bf16,
            RowType::Int8 => &self.0.int8,
        }
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

    /// x as bf16, to nearest even. Bit-exact on every ISA for numbers that are not NaN.
    pub fn narrow(self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.narrow)(x, out) }
    }

    /// C += A B for cache-resident panels.
    ///
    /// Accumulates in f32; within `(k + 2) * 2^-24 * (|c| + sum|a b|)` of the exact sum.
    pub fn gemm(self, shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
        assert!(shape.n.is_multiple_of(PANEL) && shape.k.is_multiple_of(2), "{shape:?}");
        assert_eq!((a.len(), b.len(), c.len()), shape.lengths(), "{shape:?}");
        // SAFETY: features as above; the lengths were just checked.
        unsafe { (self.0.gemm)(shape, a, b, c) }
    }
}

/// Elements `at..at + 4` of the queries side by side, as an instruction takes them.
///
/// # Safety
/// - there are as many.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn four_quants(queries: SketchQueries<'_>, at: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { queries.quants.as_ptr().add(at).cast::<i32>().read_unaligned() }
}

/// The number of blocks, once everything agrees.
fn check_sketch(bits: u32, padded_dim: usize, blocks: &[u8], queries: SketchQueries<'_>) -> usize {
    assert!(SKETCH_BITS.contains(&bits) && padded_dim > 0 && padded_dim.is_multiple_of(32));
    let count = queries.offsets.len();
    assert!(queries.quants.len() == count * padded_dim);
    assert!(queries.scales.len() == count && queries.zeros.len() == count);
    let bytes = block_bytes(padded_dim, bits);
    assert!(blocks.len().is_multiple_of(bytes));
    blocks.len() / bytes
}

/// The head dimension of `rows`, once everything agrees.
fn check_gather(values: usize, rows: Rows<'_>, ids: &[u16]) -> usize {
    let head_dim = check_heads(values, rows);
    let past_last = ids.iter().copied().max().map_or(0, |id| usize::from(id) + 1);
    assert!(past_last <= rows.len(), "id {past_last} - 1 is not among the rows");
    head_dim
}

/// Likewise, for `values` of queries and rows.
fn check_block(queries: usize, rows: Rows<'_>, values: usize) -> usize {
    let head_dim = check_heads(queries, rows);
    assert_eq!((queries / head_dim) * rows.len(), values, "one value a query and row");
    head_dim
}

fn check_heads(values: usize, rows: Rows<'_>) -> usize {
    let head_dim = rows.head_dim();
    assert!(head_dim > 0 && head_dim.is_multiple_of(16), "head dimension {head_dim}");
    assert!(rows.row_type() == RowType::Bf16 || head_dim <= INT8_MOST_DIM, "head dimension {head_dim}");
    assert!(values > 0 && values.is_multiple_of(head_dim), "{values} elements of whole heads");
    head_dim
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
        Isa::Avx512 => has_avx512().then_some(&avx512::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => {
            (has_avx512() && is_x86_feature_detected!("avx512bf16")).then_some(&avx512::bf16::TABLE)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

/// Gathered rows whose cache lines, of K and V, are asked for before they are needed.
const GATHER_AHEAD: usize = 32;
/// How far ahead of a straight walk over rows memory is asked for, in units of 16 bits: 32 KiB, into the second-level cache.
/// Into the first it would not come faster, since the few misses that a core can have there at once are what limits.
const STREAM_AHEAD: usize = 16_384;

/// Rows of 8 bits whose weights are rounded together. A sum of so many products of 16 and 8 bits is below 2^30.
const INT8_CHUNK: usize = 128;
/// Head dimension up to which queries in 16 bits have their place, and sums of products with codes stay below 2^30.
const INT8_MOST_DIM: usize = 256;

/// How far ahead a scan asks for codes, in bytes: into the second-level cache, likewise.
const SCAN_AHEAD: usize = 16 << 10;

/// Bounds of an estimate's base-2 logarithm: 2^100 summed over a segment is still finite.
const SKETCH_LOG2: (f32, f32) = (-126.0, 100.0);
/// 2^7, a bf16's exponent step as an integer, and the integer of 1.0: x * STEP + ONE, rounded, are the bits of about 2^x.
const EXPONENT_STEP: f32 = 128.0;
const EXPONENT_ONE: f32 = 127.0 * EXPONENT_STEP;

/// Bits that are multiplied at once: the pairs of products that an instruction adds fit 16 bits with four and not with eight, so that a code of
/// eight goes as two of four.
const fn plane_bits(bits: u32) -> u32 {
    if bits == 8 { 4 } else { bits }
}

/// 64-byte lines of codes whose products, added in pairs, fit into an i16: a line has `8 / bits` groups of two pairs, and a
/// pair is at most twice the greatest code times 127.
const fn lines_of_i16(bits: u32) -> usize {
    let greatest_pair = 2 * ((1 << plane_bits(bits)) - 1) * 127;
    let groups = i16::MAX as u32 / greatest_pair;
    (groups * bits / 8) as usize
}

/// A block whose weights are all below this adds no values: that they could be divided by the greatest of them is not sure.
const LEAST_WEIGHT: f32 = 1e-30;
