//! Rows of weights times activations, once per instruction set. `scalar` is the meaning.
//!
//! Which instruction sets there are, and which is used, is `lsh_attn::kernels`' to say.

// Kernels index raw memory and call intrinsics.
#![allow(unsafe_code)]

use lsh_attn::kernels::{Isa, Kernels};

use crate::activations::{Activations, BLOCK, Part};
use crate::blocks::GROUP;
use crate::matrix::{Matrix, WeightType};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod panels;
mod scalar;

/// Rows that a kernel likes to have together.
pub const ROW_GROUP: usize = 16;

/// How far ahead weights are asked for, in bytes: into the second-level cache, which takes more misses at once than the first.
#[cfg(target_arch = "x86_64")]
const STREAM_AHEAD: usize = 16 << 10;

/// Runs `body::<.., T>` over the activations in groups of eight, four, two and one: a group shares each row's loads.
macro_rules! by_token_groups {
    ($tokens:expr, $body:ident $(::<$($constant:tt),+>)?, $($argument:expr),*) => {{
        let mut first = 0;
        while first < $tokens {
            // SAFETY: tokens `first` up to `first + T` exist, the rest is the caller's promise.
            unsafe {
                match $tokens - first {
                    1 => { $body::<$($($constant,)+)? 1>(first, $($argument),*); first += 1 }
                    2 | 3 => { $body::<$($($constant,)+)? 2>(first, $($argument),*); first += 2 }
                    4..8 => { $body::<$($($constant,)+)? 4>(first, $($argument),*); first += 4 }
                    _ => { $body::<$($($constant,)+)? 8>(first, $($argument),*); first += 8 }
                }
            }
        }
    }};
}
pub(crate) use by_token_groups;

/// The products of packed rows of a format by an instruction set's `small` and `large`, but for formats without blocks.
#[cfg(target_arch = "x86_64")]
macro_rules! packed_products {
    ($kind:expr) => {
        match $kind {
            WeightType::Q8_0 => Some(small::blocks::<{ format::Q8_0 }, true>),
            WeightType::Q4_0 => Some(small::blocks::<{ format::Q4_0 }, true>),
            WeightType::Q4_1 => Some(small::blocks::<{ format::Q4_1 }, true>),
            WeightType::Q5_0 => Some(small::blocks::<{ format::Q5_0 }, true>),
            WeightType::Q5_1 => Some(small::blocks::<{ format::Q5_1 }, true>),
            WeightType::Iq4Nl => Some(small::blocks::<{ format::IQ4_NL }, true>),
            WeightType::Q2K => Some(large::blocks::<{ format::Q2_K }, true>),
            WeightType::Q3K => Some(large::blocks::<{ format::Q3_K }, true>),
            WeightType::Q4K => Some(large::blocks::<{ format::Q4_K }, true>),
            WeightType::Q5K => Some(large::blocks::<{ format::Q5_K }, true>),
            WeightType::Q6K => Some(large::blocks::<{ format::Q6_K }, true>),
            WeightType::F32 | WeightType::F16 | WeightType::Bf16 => None,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use packed_products;

/// What a gate of an MLP goes through before it meets `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateActivation {
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), approximated with a tanh.
    Gelu,
}

/// `y[token][row]` of the rows in `bytes`, each of `row_bytes`, which the format and `x.size` call for. What a token gets does not
/// depend on the tokens beside it.
type Multiply = unsafe fn(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]);

type Norm = unsafe fn(x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]);
type Gate = unsafe fn(activation: GateActivation, gate: &mut [f32], up: &[f32]);
/// Rounds the values to 16 bits a block.
type Quantise = unsafe fn(&mut Part<'_>);
/// Weights as blocks of `kind`, of which there is a way to round to.
type Round = unsafe fn(kind: WeightType, elements: &[f32], out: &mut [u8]);
/// Blocks as bf16.
type Dequantise = unsafe fn(kind: WeightType, blocks: &[u8], out: &mut [u16]);
type NormPanel =
    unsafe fn(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut [u32]);
type GatePanel = unsafe fn(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut [u32],
);

/// One function per format, which every instruction set's file has. They are unsafe since the CPU must have the
/// features, and since they trust the lengths; [`DenseKernels::multiply`] checks them.
struct Table {
    f32: Multiply,
    f16: Multiply,
    bf16: Multiply,
    q8_0: Multiply,
    q4_0: Multiply,
    q4_1: Multiply,
    q5_0: Multiply,
    q5_1: Multiply,
    iq4_nl: Multiply,
    q2_k: Multiply,
    q3_k: Multiply,
    q4_k: Multiply,
    q5_k: Multiply,
    q6_k: Multiply,
    norm: Norm,
    gate: Gate,
    quantise: Quantise,
    round: Round,
    dequantise: Dequantise,
    norm_panel: NormPanel,
    gate_panel: GatePanel,
    /// Products of packed rows of a format, where the instruction set gains by them.
    packed: fn(WeightType) -> Option<Multiply>,
}

/// Formats as const parameters of the kernels.
pub(crate) mod format {
    pub const F32: u8 = 0;
    pub const F16: u8 = 1;
    pub const BF16: u8 = 2;
    pub const Q8_0: u8 = 3;
    pub const Q4_0: u8 = 4;
    pub const Q4_1: u8 = 5;
    pub const Q5_0: u8 = 6;
    pub const Q5_1: u8 = 7;
    pub const IQ4_NL: u8 = 8;
    pub const Q2_K: u8 = 9;
    pub const Q3_K: u8 = 10;
    pub const Q4_K: u8 = 11;
    pub const Q5_K: u8 = 12;
    pub const Q6_K: u8 = 13;
}

/// The kernels of one instruction set. Cheap to copy.
#[derive(Clone, Copy)]
pub struct DenseKernels {
    table: &'static Table,
    base: Kernels,
}

impl std::fmt::Debug for DenseKernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DenseKernels")
    }
}

impl From<Kernels> for DenseKernels {
    /// The kernels of the same instruction set.
    fn from(kernels: Kernels) -> DenseKernels {
        // A `Kernels` exists only where the CPU has the features of its instruction set.
        let table = match kernels.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => &avx512::TABLE,
            _ => &scalar::TABLE,
        };
        DenseKernels { table, base: kernels }
    }
}

impl DenseKernels {
    /// The kernels of attention, of the same instruction set: matrix products are theirs.
    pub(crate) fn base(self) -> Kernels {
        self.base
    }

    /// `out = x * weights`, x divided by the root of its mean square plus `epsilon`.
    pub(crate) fn norm(self, x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.norm)(x, weights, epsilon, out) }
    }

    /// `gate = activation(gate) * up`.
    pub(crate) fn gate(self, activation: GateActivation, gate: &mut [f32], up: &[f32]) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.gate)(activation, gate, up) }
    }

    /// Rounds the values of `x`, of whole blocks, to 16 bits.
    pub(crate) fn quantise(self, x: &mut Part<'_>) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.quantise)(x) }
    }

    /// Elements as blocks of `kind`, to the bit the same on every instruction set.
    ///
    /// # Panics
    /// If they are no whole blocks, `out` has another length, or `kind` is none of Q8_0, Q4_0 and Q4_1.
    pub fn round(self, kind: WeightType, elements: &[f32], out: &mut [u8]) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.round)(kind, elements, out) }
    }

    /// Whether products of packed rows of a format are faster than those of rows as files have them.
    pub fn prefers_packed(self, kind: WeightType) -> bool {
        (self.table.packed)(kind).is_some()
    }

    /// The elements of all rows as bf16, `[outputs, inputs]`.
    pub(crate) fn dequantise(self, matrix: Matrix<'_>, out: &mut [u16]) {
        assert_eq!(out.len(), matrix.outputs() * matrix.inputs());
        let mut unpacked = Vec::new();
        let matrix = matrix.file_order(&mut unpacked);
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.dequantise)(matrix.kind(), matrix.bytes(), out) }
    }

    /// A panel of pairs of x `[weights.len(), n]` from `column` on, each column divided by the root of its mean square plus
    /// `epsilon`, and times the weights.
    pub(crate) fn norm_panel(
        self,
        x: &[f32],
        n: usize,
        column: usize,
        weights: &[f32],
        epsilon: f32,
        panel: &mut [u32],
    ) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.norm_panel)(x, n, column, weights, epsilon, panel) }
    }

    /// A panel of pairs of activation(gate) * up, both `[features, n]`, from `column` on.
    pub(crate) fn gate_panel(
        self,
        activation: GateActivation,
        gate: &[f32],
        up: &[f32],
        n: usize,
        column: usize,
        panel: &mut [u32],
    ) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.gate_panel)(activation, gate, up, n, column, panel) }
    }

    /// `y[token][row] = row . x[token]` for the rows in `bytes`, to the bit the same whichever tokens are beside it.
    pub(crate) fn multiply(self, matrix: Matrix<'_>, x: &Activations, y: &mut [&mut [f32]]) {
        let (kind, bytes, row_bytes) = (matrix.kind(), matrix.bytes(), matrix.row_bytes());
        assert_eq!(matrix.inputs(), x.size);
        assert!(bytes.len().is_multiple_of(row_bytes) && y.len() == x.tokens);
        assert!(y.iter().all(|y| y.len() == bytes.len() / row_bytes));
        assert_eq!(x.values.len(), x.tokens * x.size);
        if kind.block().0 > 1 {
            let blocks = x.values.len() / BLOCK;
            assert!(x.quants.len() == x.values.len() && x.bytes.len() == blocks);
            assert!(x.quant_sums.len() == blocks && x.factors.len() == blocks);
            assert_eq!(x.group_sums.len(), x.values.len() / GROUP);
        }
        if matrix.is_packed() {
            return match (self.table.packed)(kind) {
                // SAFETY: as below; packed rows are whole groups.
                Some(multiply) => unsafe { multiply(bytes, row_bytes, x, y) },
                None => self.multiply(matrix.file_order(&mut Vec::new()), x, y),
            };
        }
        let multiply = match kind {
            WeightType::F32 => self.table.f32,
            WeightType::F16 => self.table.f16,
            WeightType::Bf16 => self.table.bf16,
            WeightType::Q8_0 => self.table.q8_0,
            WeightType::Q4_0 => self.table.q4_0,
            WeightType::Q4_1 => self.table.q4_1,
            WeightType::Q5_0 => self.table.q5_0,
            WeightType::Q5_1 => self.table.q5_1,
            WeightType::Iq4Nl => self.table.iq4_nl,
            WeightType::Q2K => self.table.q2_k,
            WeightType::Q3K => self.table.q3_k,
            WeightType::Q4K => self.table.q4_k,
            WeightType::Q5K => self.table.q5_k,
            WeightType::Q6K => self.table.q6_k,
        };
        // SAFETY: the CPU has the features (`From`), and the lengths agree (above).
        unsafe { multiply(bytes, row_bytes, x, y) }
    }
}
