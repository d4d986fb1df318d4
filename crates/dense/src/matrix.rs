//! A weight matrix in the block format of its file.

use half::{bf16, f16};
use team::Team;

use crate::activations::{Activations, BLOCK};
use crate::kernels::{DenseKernels, ROW_GROUP};

/// Formats of weights, by GGUF's names. The quantised ones hold blocks of 32 along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
    /// f16 scale, 32 signed bytes: d q.
    Q8_0,
    /// f16 scale, 16 bytes of nibbles (elements 0 to 15 low, 16 to 31 high): d (q - 8).
    Q4_0,
    /// f16 scale and offset, nibbles: d q + m.
    Q4_1,
}

impl WeightType {
    /// Every format.
    pub const ALL: [WeightType; 6] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::Bf16,
        WeightType::Q8_0,
        WeightType::Q4_0,
        WeightType::Q4_1,
    ];

    /// GGUF's name.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "F32",
            WeightType::F16 => "F16",
            WeightType::Bf16 => "BF16",
            WeightType::Q8_0 => "Q8_0",
            WeightType::Q4_0 => "Q4_0",
            WeightType::Q4_1 => "Q4_1",
        }
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            WeightType::F32 => (1, 4),
            WeightType::F16 | WeightType::Bf16 => (1, 2),
            WeightType::Q8_0 => (BLOCK, 34),
            WeightType::Q4_0 => (BLOCK, 18),
            WeightType::Q4_1 => (BLOCK, 20),
        }
    }

    /// Bytes of a row of `size` elements, or None where it is not of whole blocks.
    pub fn row_bytes(self, size: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        size.is_multiple_of(elements).then(|| size / elements * bytes)
    }
}

/// Weights `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    kind: WeightType,
    inputs: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// The matrix with rows of `inputs` elements in `bytes`, or None where these are not whole rows.
    pub fn new(kind: WeightType, inputs: usize, bytes: &'a [u8]) -> Option<Matrix<'a>> {
        let row_bytes = kind.row_bytes(inputs)?;
        (row_bytes > 0 && bytes.len().is_multiple_of(row_bytes)).then_some(Matrix {
            kind,
            inputs,
            row_bytes,
            bytes,
        })
    }

    /// Rows.
    pub fn outputs(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// Elements of a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn kind(&self) -> WeightType {
        self.kind
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The matrix in parts of `rows` rows.
    pub(crate) fn row_groups(self, rows: usize) -> impl Iterator<Item = Matrix<'a>> {
        self.bytes.chunks(rows * self.row_bytes).map(move |bytes| Matrix { bytes, ..self })
    }

    /// The elements of row `index`, dequantised.
    pub fn row(&self, index: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.inputs);
        for block in self.bytes[index * self.row_bytes..][..self.row_bytes].chunks_exact(self.kind.block().1)
        {
            dequantise(self.kind, block, &mut out);
        }
        out
    }
}

/// Bytes of weights that a task multiplies at most.
const PART_BYTES: usize = 128 << 10;

/// Threads, and the kernels that they run.
#[derive(Clone, Copy)]
pub struct Cores<'a> {
    /// The threads.
    pub team: &'a Team<'a>,
    /// The kernels.
    pub kernels: DenseKernels,
}

/// `y = x W^T` for each matrix and its `y` `[tokens, outputs]`, in one region of the team.
///
/// For quantised weights products are exact in i32 within a block, or an eighth of it, and summed over blocks in f32: within
/// `blocks * 2^-24` of the sum of absolute products. Activations have been rounded by 2^-16 of the greatest one of their block. A
/// token's products are the same to the bit whichever tokens are beside it.
///
/// # Panics
/// If the sizes do not agree.
pub fn multiply(cores: Cores<'_>, x: &Activations, products: &mut [(Matrix<'_>, &mut [f32])]) {
    let Cores { team, kernels } = cores;
    // More parts than threads: a core that is interrupted leaves its rest to the others.
    let parts = 2 * team.threads();
    let mut tasks = Vec::with_capacity(parts * products.len());
    for (matrix, y) in products {
        assert!(x.size == matrix.inputs && y.len() == matrix.outputs() * x.tokens, "sizes of a linear layer");
        let rows = matrix.outputs().div_ceil(parts).min(PART_BYTES / matrix.row_bytes + 1);
        let rows = rows.next_multiple_of(ROW_GROUP);
        let mut tokens: Vec<_> = y.chunks_exact_mut(matrix.outputs()).map(|y| y.chunks_mut(rows)).collect();
        tasks.extend(matrix.row_groups(rows).map(|part| {
            let y: Vec<_> = tokens.iter_mut().filter_map(|token| token.next()).collect();
            (part, y)
        }));
    }
    team.each_mut(&mut tasks, |(part, y)| kernels.multiply(part.kind, part.bytes, part.row_bytes, x, y));
}

/// Rows of whole blocks as [`WeightType::Q8_0`], each block with the scale that takes its greatest element to 127: every
/// element within half of that scale, and of what f16 rounds off it.
pub(crate) fn quantise_q8_0(matrix: Matrix<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(WeightType::Q8_0.row_bytes(matrix.inputs)? * matrix.outputs());
    for row in 0..matrix.outputs() {
        for block in matrix.row(row).chunks_exact(BLOCK) {
            let greatest = block.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
            let scale = f16::from_f32(greatest / 127.0);
            let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
            out.extend(scale.to_le_bytes());
            out.extend(
                block.iter().map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8),
            );
        }
    }
    Some(out)
}

fn dequantise(kind: WeightType, block: &[u8], out: &mut Vec<f32>) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    match kind {
        WeightType::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
        WeightType::F16 => out.push(half(0)),
        WeightType::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
        WeightType::Q8_0 => out.extend(block[2..].iter().map(|&q| half(0) * f32::from(q as i8))),
        WeightType::Q4_0 => out.extend(nibbles(&block[2..]).map(|q| half(0) * (f32::from(q) - 8.0))),
        WeightType::Q4_1 => out.extend(nibbles(&block[4..]).map(|q| half(0) * f32::from(q) + half(2))),
    }
}

fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}
