//! A weight matrix in the block format of its file.

use rayon::prelude::*;
use team::Team;

use crate::activations::{Activations, BLOCK};
use crate::blocks::{self, LARGE, large_bytes};
use crate::kernels::{DenseKernels, ROW_GROUP, format};
use crate::packed;

/// Formats of weights, by GGUF's names. The quantised ones hold blocks of 32 or 256 along a row (`blocks`).
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
    /// As Q4_0 with a fifth bit, which are in 4 bytes of their own: d (q - 16).
    Q5_0,
    /// As Q4_1, with a fifth bit.
    Q5_1,
    /// f16 scale, nibbles that name one of 16 values: d v(q).
    Iq4Nl,
    /// Groups of 16 with scales and minima of 4 bits: d s q - dmin m, q of 2 bits.
    Q2K,
    /// Groups of 16 with scales of 6 bits: d s (q - 4), q of 3 bits.
    Q3K,
    /// Groups of 32 with scales and minima of 6 bits: d s q - dmin m, q of 4 bits.
    Q4K,
    /// As Q4_K, with a fifth bit.
    Q5K,
    /// Groups of 16 with scales of 8 bits: d s (q - 32), q of 6 bits.
    Q6K,
}

impl WeightType {
    /// The format of GGUF's name, if it is one of these.
    pub fn named(name: &str) -> Option<WeightType> {
        WeightType::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Every format.
    pub const ALL: [WeightType; 14] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::Bf16,
        WeightType::Q8_0,
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Iq4Nl,
        WeightType::Q2K,
        WeightType::Q3K,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
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
            WeightType::Q5_0 => "Q5_0",
            WeightType::Q5_1 => "Q5_1",
            WeightType::Iq4Nl => "IQ4_NL",
            WeightType::Q2K => "Q2_K",
            WeightType::Q3K => "Q3_K",
            WeightType::Q4K => "Q4_K",
            WeightType::Q5K => "Q5_K",
            WeightType::Q6K => "Q6_K",
        }
    }

    /// Whether each element is a number by itself, of 16 or 32 bits.
    pub fn is_wide(self) -> bool {
        self.block().0 == 1
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            WeightType::F32 => (1, 4),
            WeightType::F16 => (1, 2),
            WeightType::Bf16 => (1, 2),
            WeightType::Q8_0 => (BLOCK, 34),
            WeightType::Q4_0 => (BLOCK, 18),
            WeightType::Q4_1 => (BLOCK, 20),
            WeightType::Q5_0 => (BLOCK, 22),
            WeightType::Q5_1 => (BLOCK, 24),
            WeightType::Iq4Nl => (BLOCK, 18),
            WeightType::Q2K => (LARGE, large_bytes(format::Q2_K)),
            WeightType::Q3K => (LARGE, large_bytes(format::Q3_K)),
            WeightType::Q4K => (LARGE, large_bytes(format::Q4_K)),
            WeightType::Q5K => (LARGE, large_bytes(format::Q5_K)),
            WeightType::Q6K => (LARGE, large_bytes(format::Q6_K)),
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
    /// Whether the blocks of each whole [`ROW_GROUP`] rows lie side by side (`packed`).
    packed: bool,
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
            packed: false,
        })
    }

    /// The matrix whose rows [`Matrix::pack`] has packed to `bytes`, or None where these are not whole rows, or fewer than a group.
    pub fn from_packed(kind: WeightType, inputs: usize, bytes: &'a [u8]) -> Option<Matrix<'a>> {
        let matrix = Matrix::new(kind, inputs, bytes)?;
        packed::can_pack(matrix).then_some(Matrix { packed: true, ..matrix })
    }

    /// Packs the rows, if they are of blocks and [`ROW_GROUP`] at least: as many bytes in another order.
    pub fn pack(self) -> Option<Vec<u8>> {
        (!self.packed && packed::can_pack(self)).then(|| {
            let mut bytes = vec![0; self.bytes.len()];
            packed::pack(self, &mut bytes);
            bytes
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

    /// The rows that lie alike, and those that a packed matrix has left over, which lie as in a file.
    pub(crate) fn split_left_over(self) -> (Matrix<'a>, Option<Matrix<'a>>) {
        let left_over = if self.packed { self.outputs() % ROW_GROUP } else { 0 };
        let (alike, rest) = self.bytes.split_at(self.bytes.len() - left_over * self.row_bytes);
        let rest = (left_over > 0).then_some(Matrix { bytes: rest, packed: false, ..self });
        (Matrix { bytes: alike, ..self }, rest)
    }

    /// The matrix in parts of `rows` rows, of whole groups where it is packed.
    pub(crate) fn row_groups(self, rows: usize) -> impl Iterator<Item = Matrix<'a>> {
        self.bytes.chunks(rows * self.row_bytes).map(move |bytes| Matrix { bytes, ..self })
    }

    /// The elements of row `index`, dequantised.
    pub fn row(&self, index: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.inputs];
        let mut unpacked = Vec::new();
        let (first, rows) = if self.packed { (index % ROW_GROUP, ROW_GROUP) } else { (0, 1) };
        let group =
            self.row_groups(rows).nth(index / rows).expect("a row of the matrix").file_order(&mut unpacked);
        let row = &group.bytes[first * self.row_bytes..][..self.row_bytes];
        blocks::dequantise(self.kind, row, &mut out, |element| element);
        out
    }

    /// The elements of all rows, dequantised by the tasks of rayon's current pool. A task's worth takes the calling thread alone.
    pub fn elements(self) -> Vec<f32> {
        let mut out = vec![0.0; self.outputs() * self.inputs];
        let mut unpacked = Vec::new();
        let Matrix { kind, bytes, .. } = self.file_order(&mut unpacked);
        if bytes.len() <= PART_BYTES {
            blocks::dequantise(kind, bytes, &mut out, |element| element);
            return out;
        }
        let (elements, block) = kind.block();
        let blocks = PART_BYTES / block;
        bytes.par_chunks(blocks * block).zip(out.par_chunks_mut(blocks * elements)).for_each(
            |(bytes, out)| {
                blocks::dequantise(kind, bytes, out, |element| element);
            },
        );
        out
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.packed
    }

    /// The same with one row after the other, made in `unpacked` where it is packed.
    pub(crate) fn file_order<'b>(self, unpacked: &'b mut Vec<u8>) -> Matrix<'b>
    where
        'a: 'b,
    {
        if !self.packed {
            return self;
        }
        unpacked.resize(self.bytes.len(), 0);
        packed::unpack(self, unpacked);
        Matrix { bytes: unpacked, packed: false, ..self }
    }
}

/// Bytes of weights that a task multiplies or dequantises at most.
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
    // Multiplications are what takes the time of several tokens: a part of fewer bytes is as long.
    let part_bytes = PART_BYTES / x.tokens.clamp(1, 4);
    let mut tasks = Vec::with_capacity(parts * products.len());
    for (matrix, y) in products {
        assert!(x.size == matrix.inputs && y.len() == matrix.outputs() * x.tokens, "sizes of a linear layer");
        let rows = matrix.outputs().div_ceil(parts).min(part_bytes / matrix.row_bytes + 1);
        let rows = rows.next_multiple_of(ROW_GROUP);
        let mut tokens: Vec<_> = y.chunks_exact_mut(matrix.outputs()).map(|y| y.chunks_mut(rows)).collect();
        tasks.extend(matrix.row_groups(rows).map(|part| {
            let y: Vec<_> = tokens.iter_mut().filter_map(|token| token.next()).collect();
            (part, y)
        }));
    }
    team.each_mut(&mut tasks, |(part, y)| kernels.multiply(*part, x, y));
}
