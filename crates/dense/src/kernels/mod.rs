//! Rows of weights times activations. An instruction set that multiplies 16 bits by 16 says what it does with lanes, and has its products by
//! `small` and `large`; `scalar` is for any processor. AVX-512 multiplies bytes and has its own.
//!
//! Which instruction sets there are, and which is used, is `lsh_attn::kernels`' to say.

// Kernels index raw memory and call intrinsics.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use lsh_attn::kernels::Isa;
use lsh_attn::kernels::{Kernels, PANEL};

use crate::activations::{Activations, BLOCK, Part};
use crate::blocks::GROUP;
use crate::columns::{ColumnBlock, Panel};
use crate::matrix::{Matrix, WeightType};
use crate::quant_rows::QuantRows;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod large;
mod panels;
mod scalar;
mod small;

/// Rows that a kernel likes to have together.
pub const ROW_GROUP: usize = 16;

/// How far ahead weights are asked for, in bytes: into the second-level cache, which takes more misses at once than the first.
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

/// The products of a format of blocks by an instruction set's `small` and `large`.
macro_rules! block_products {
    ($kind:expr $(, $packed:literal)?) => {
        match $kind {
            WeightType::Q8_0 => Some(small::<{ format::Q8_0 } $(, $packed)?>),
            WeightType::Q4_0 => Some(small::<{ format::Q4_0 } $(, $packed)?>),
            WeightType::Q4_1 => Some(small::<{ format::Q4_1 } $(, $packed)?>),
            WeightType::Q5_0 => Some(small::<{ format::Q5_0 } $(, $packed)?>),
            WeightType::Q5_1 => Some(small::<{ format::Q5_1 } $(, $packed)?>),
            WeightType::Iq4Nl => Some(small::<{ format::IQ4_NL } $(, $packed)?>),
            WeightType::Q2K => Some(large::<{ format::Q2_K } $(, $packed)?>),
            WeightType::Q3K => Some(large::<{ format::Q3_K } $(, $packed)?>),
            WeightType::Q4K => Some(large::<{ format::Q4_K } $(, $packed)?>),
            WeightType::Q5K => Some(large::<{ format::Q5_K } $(, $packed)?>),
            WeightType::Q6K => Some(large::<{ format::Q6_K } $(, $packed)?>),
            WeightType::F32 | WeightType::F16 | WeightType::Bf16 => None,
        }
    };
}
pub(crate) use block_products;

/// The products of a format of single numbers by an instruction set's `floats`.
macro_rules! wide_products {
    ($kind:expr) => {
        match $kind {
            WeightType::F32 => Some(floats::<{ format::F32 }>),
            WeightType::F16 => Some(floats::<{ format::F16 }>),
            WeightType::Bf16 => Some(floats::<{ format::BF16 }>),
            _ => None,
        }
    };
}
pub(crate) use wide_products;

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
    unsafe fn(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut Panel<'_>);
type GatePanel = unsafe fn(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut Panel<'_>,
);
type RowsPanel = unsafe fn(rows: &[f32], width: usize, panel: &mut Panel<'_>);

/// Products of many columns in whole numbers.
#[derive(Clone, Copy)]
struct QuantProducts {
    /// Takes the blocks of rows of a kind that [`QuantRows::hold`].
    rows: unsafe fn(kind: WeightType, blocks: &[u8], out: &mut QuantRows),
    /// Adds the rows' products with `columns` `[n / PANEL, blocks]` to `y` `[rows, n]`.
    add: unsafe fn(rows: &QuantRows, columns: &[ColumnBlock], n: usize, y: &mut [f32]),
}

/// What every instruction set's file has. The functions are unsafe since the CPU must have the features, and since they trust the
/// lengths; [`DenseKernels::multiply`] checks them.
struct Table {
    /// Products of rows as files have them: those of single numbers at least.
    rows: fn(WeightType) -> Option<Multiply>,
    /// Products of packed rows, of all formats of blocks.
    packed: fn(WeightType) -> Option<Multiply>,
    norm: Norm,
    gate: Gate,
    quantise: Quantise,
    round: Round,
    dequantise: Dequantise,
    norm_panel: NormPanel,
    gate_panel: GatePanel,
    rows_panel: RowsPanel,
    /// None where products of bf16 are as fast.
    quants: Option<QuantProducts>,
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

    /// The elements of all rows as bf16, `[outputs, inputs]`.
    pub(crate) fn dequantise(self, matrix: Matrix<'_>, out: &mut [u16]) {
        assert_eq!(out.len(), matrix.outputs() * matrix.inputs());
        let mut unpacked = Vec::new();
        let matrix = matrix.file_order(&mut unpacked);
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.dequantise)(matrix.kind(), matrix.bytes(), out) }
    }

    /// A panel of x `[weights.len(), n]` from `column` on, each column divided by the root of its mean square plus
    /// `epsilon`, and times the weights.
    pub(crate) fn norm_panel(
        self,
        x: &[f32],
        n: usize,
        column: usize,
        weights: &[f32],
        epsilon: f32,
        panel: &mut Panel<'_>,
    ) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.norm_panel)(x, n, column, weights, epsilon, panel) }
    }

    /// A panel of activation(gate) * up, both `[features, n]`, from `column` on.
    pub(crate) fn gate_panel(
        self,
        activation: GateActivation,
        gate: &[f32],
        up: &[f32],
        n: usize,
        column: usize,
        panel: &mut Panel<'_>,
    ) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.gate_panel)(activation, gate, up, n, column, panel) }
    }

    /// A panel of the columns that `rows` `[tokens, width]` are, the first PANEL of them.
    pub(crate) fn rows_panel(self, rows: &[f32], width: usize, panel: &mut Panel<'_>) {
        // SAFETY: the CPU has the features (`From`); there is no other precondition.
        unsafe { (self.table.rows_panel)(rows, width, panel) }
    }

    /// Whether columns that all these matrices are multiplied with are best quants, in place of bf16.
    pub(crate) fn takes_quants(self, matrices: &[Matrix<'_>]) -> bool {
        self.table.quants.is_some() && matrices.iter().all(|matrix| QuantRows::hold(matrix.kind()))
    }

    /// `y += matrix x` with x `[inputs, n]` as quants and y `[outputs, n]`; `rows` is scratch space. Products are exact in i32 within a block and
    /// summed over blocks in f32.
    ///
    /// # Panics
    /// Unless [`DenseKernels::takes_quants`] says yes and the sizes agree.
    pub(crate) fn add_quant_products(
        self,
        matrix: Matrix<'_>,
        columns: &[ColumnBlock],
        rows: &mut QuantRows,
        y: &mut [f32],
    ) {
        let QuantProducts { rows: set, add } =
            self.table.quants.expect("an instruction set that takes quants");
        let (blocks, outputs) = (matrix.inputs() / BLOCK, matrix.outputs());
        let n = y.len() / outputs;
        assert!(y.len() == n * outputs && n.is_multiple_of(PANEL) && columns.len() == n / PANEL * blocks);
        let mut unpacked = Vec::new();
        let matrix = matrix.file_order(&mut unpacked);
        // SAFETY: the CPU has the features (`From`), and the rows are whole ones, of as many blocks as the columns (above).
        unsafe {
            set(matrix.kind(), matrix.bytes(), rows);
            add(rows, columns, n, y);
        }
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
        let products = if matrix.is_packed() { self.table.packed } else { self.table.rows };
        let Some(multiply) = products(kind) else {
            return self.multiply_repacked(matrix, x, y);
        };
        let (groups, left_over) = matrix.split_left_over();
        let Some(left_over) = left_over else {
            // SAFETY: the CPU has the features (`From`), the lengths agree (above), and packed rows are whole groups.
            return unsafe { multiply(bytes, row_bytes, x, y) };
        };
        let (mut y, mut y_rest): (Vec<_>, Vec<_>) =
            y.iter_mut().map(|y| y.split_at_mut(groups.outputs())).unzip();
        // SAFETY: as above.
        unsafe { multiply(groups.bytes(), row_bytes, x, &mut y) };
        self.multiply(left_over, x, &mut y_rest);
    }

    /// [`DenseKernels::multiply`] of rows as files have them, where there is no function for these: packs some at a time.
    fn multiply_repacked(self, matrix: Matrix<'_>, x: &Activations, y: &mut [&mut [f32]]) {
        for (number, rows) in matrix.row_groups(ROW_GROUP).enumerate() {
            let height = rows.outputs();
            // Where there are fewer, zeros stand for those that are missing.
            let mut bytes = rows.bytes().to_vec();
            bytes.resize(ROW_GROUP * rows.row_bytes(), 0);
            let group = Matrix::new(rows.kind(), rows.inputs(), &bytes).expect("whole rows");
            let packed = group.pack().expect("a whole group");
            let group = Matrix::from_packed(rows.kind(), rows.inputs(), &packed).expect("a whole group");
            let mut products = vec![[0.0; ROW_GROUP]; x.tokens];
            let mut parts: Vec<_> = products.iter_mut().map(|products| &mut products[..]).collect();
            self.multiply(group, x, &mut parts);
            for (y, products) in y.iter_mut().zip(&products) {
                y[number * ROW_GROUP..][..height].copy_from_slice(&products[..height]);
            }
        }
    }
}
