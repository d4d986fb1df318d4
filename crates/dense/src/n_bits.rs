//! Quantised weights as ONNX Runtime's MatMulNBits takes them: the product of devices other than the CPU.
//!
//! The operator has quants of 4 or 8 bits without a sign, counted from the middle of their range, and a scale for every 16
//! or 32 inputs. Each format fits into that with the numbers that its blocks have; minima, which the operator lacks, are offsets
//! beside it.

use rayon::prelude::*;

use crate::blocks::{GROUP, LARGE, Large, Small, large, small};
use crate::kernels::format;
use crate::matrix::{Matrix, WeightType};

/// Weights `[outputs, inputs]`: an element is `scale (quant - 2^(bits - 1)) + offset`.
#[derive(Debug)]
pub struct NBits {
    /// Rows of all matrices.
    pub outputs: usize,
    /// Inputs that share a scale: 16 or 32.
    pub block: usize,
    /// Of a quant: 4 or 8.
    pub bits: usize,
    /// `[outputs, inputs / block, block * bits / 8]`; of two quants in a byte the earlier is the low one.
    pub quants: Vec<u8>,
    /// `[outputs, inputs / block]`.
    pub scales: Vec<f32>,
    /// `[inputs / block, outputs]`, or None for a format without minima, where all are zero.
    pub offsets: Option<Vec<f32>>,
}

impl NBits {
    /// Packs matrices one after the other along the outputs, by the tasks of rayon's current pool. The numbers are the file's, but
    /// for offsets, which are rounded to f32.
    ///
    /// None if there is no matrix, or not all are of the same blocks and inputs.
    pub fn pack(matrices: &[Matrix<'_>]) -> Option<NBits> {
        let first = matrices.first()?;
        let (kind, inputs) = (first.kind(), first.inputs());
        let alike = |matrix: &Matrix<'_>| {
            (matrix.kind(), matrix.inputs(), matrix.is_packed()) == (kind, inputs, false)
        };
        if !matrices.iter().all(alike) {
            return None;
        }
        let (Form { block, bits, minima, .. }, pack) = packing(kind)?;
        let (blocks, outputs) = (inputs / block, matrices.iter().map(Matrix::outputs).sum::<usize>());
        let mut packed = NBits {
            outputs,
            block,
            bits,
            quants: vec![0; outputs * inputs * bits / 8],
            scales: vec![0.0; outputs * blocks],
            offsets: minima.then(|| vec![0.0; blocks * outputs]),
        };
        packed.tasks(matrices).into_par_iter().for_each(|task| task.run(pack));
        Some(packed)
    }

    /// The matrices' rows in groups, each with its places.
    fn tasks<'a>(&'a mut self, matrices: &[Matrix<'a>]) -> Vec<Task<'a>> {
        let (mut quants, mut scales) = (&mut self.quants[..], &mut self.scales[..]);
        let mut columns: Vec<_> =
            self.offsets.iter_mut().flat_map(|offsets| offsets.chunks_mut(self.outputs.max(1))).collect();
        let mut tasks = Vec::with_capacity(self.outputs / TASK_ROWS + matrices.len());
        for rows in matrices.iter().flat_map(|matrix| matrix.row_groups(TASK_ROWS)) {
            let blocks = rows.outputs() * rows.inputs() / self.block;
            tasks.push(Task {
                quants: taken(&mut quants, blocks * self.block * self.bits / 8),
                scales: taken(&mut scales, blocks),
                offsets: columns.iter_mut().map(|column| taken(column, rows.outputs())).collect(),
                rows,
            });
        }
        tasks
    }
}

/// Rows that a task packs: their offsets fill whole lines of memory.
const TASK_ROWS: usize = 32;

/// Cuts off the first elements.
fn taken<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    rest.split_off_mut(..count).expect("places for all rows")
}

/// Some rows, and where what becomes of them goes.
struct Task<'a> {
    rows: Matrix<'a>,
    quants: &'a mut [u8],
    scales: &'a mut [f32],
    /// For each block of inputs those of the rows; empty for a format without minima.
    offsets: Vec<&'a mut [f32]>,
}

impl Task<'_> {
    fn run(self, pack: Pack) {
        let Task { rows, quants, scales, offsets } = self;
        let blocks = offsets.len();
        let mut by_row = vec![0.0; rows.outputs() * blocks];
        pack(rows.kind().block().1, rows.bytes(), Places { quants, scales, offsets: &mut by_row });
        for (block, offsets) in offsets.into_iter().enumerate() {
            for (offset, row) in offsets.iter_mut().zip(by_row.chunks_exact(blocks)) {
                *offset = row[block];
            }
        }
    }
}

/// How MatMulNBits holds a format.
struct Form {
    /// Inputs that share a scale.
    block: usize,
    bits: usize,
    /// What is added to a quant of `blocks`, so that the one that stands for the offset alone comes to the middle; nothing where
    /// quants take the whole range.
    shift: u8,
    /// Whether there are minima, and so offsets.
    minima: bool,
}

const fn form(format: u8) -> Form {
    let (block, bits, shift, minima) = match format {
        format::Q4_0 => (32, 4, 0, false),
        format::Q4_1 | format::Q4_K => (32, 4, 0, true),
        format::Q5_0 => (32, 8, 128 - 16, false),
        format::Q5_1 | format::Q5_K => (32, 8, 128, true),
        format::Q2_K => (16, 4, 8, true),
        format::Q3_K => (16, 4, 8 - 4, false),
        format::Q6_K => (16, 8, 128 - 32, false),
        _ => (32, 8, 128, false),
    };
    Form { block, bits, shift, minima }
}

/// Where blocks of MatMulNBits go, one after the other; offsets only for a format with minima.
struct Places<'a> {
    quants: &'a mut [u8],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
}

impl Places<'_> {
    /// Writes block number `at` of a format, as `blocks` unpacks it.
    #[inline(always)]
    fn put<const FORMAT: u8>(&mut self, at: usize, quants: &[i8], scale: f32, offset: f32) {
        let Form { block, bits, shift, minima } = const { form(FORMAT) };
        let bytes = block * bits / 8;
        let out = &mut self.quants[at * bytes..][..bytes];
        let unsigned = |quant: i8| (quant as u8).wrapping_add(shift);
        if bits == 8 {
            for (out, &quant) in out.iter_mut().zip(quants) {
                *out = unsigned(quant);
            }
        } else {
            for (out, &[low, high]) in out.iter_mut().zip(quants.as_chunks::<2>().0) {
                *out = unsigned(low) | unsigned(high) << 4;
            }
        }
        self.scales[at] = scale;
        if minima {
            // What the operator counts quants from, and the file does not.
            let uncounted = (1 << (bits - 1)) - i32::from(shift);
            self.offsets[at] = offset + uncounted as f32 * scale;
        }
    }
}

/// Packs whole blocks, each of so many bytes.
type Pack = fn(block_bytes: usize, blocks: &[u8], places: Places<'_>);

/// How MatMulNBits holds a format, and what packs it; None for one without blocks.
fn packing(kind: WeightType) -> Option<(Form, Pack)> {
    let packing: (Form, Pack) = match kind {
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => return None,
        WeightType::Q8_0 => (form(format::Q8_0), small_blocks::<{ format::Q8_0 }>),
        WeightType::Q4_0 => (form(format::Q4_0), small_blocks::<{ format::Q4_0 }>),
        WeightType::Q4_1 => (form(format::Q4_1), small_blocks::<{ format::Q4_1 }>),
        WeightType::Q5_0 => (form(format::Q5_0), small_blocks::<{ format::Q5_0 }>),
        WeightType::Q5_1 => (form(format::Q5_1), small_blocks::<{ format::Q5_1 }>),
        WeightType::Iq4Nl => (form(format::IQ4_NL), small_blocks::<{ format::IQ4_NL }>),
        WeightType::Q2K => (form(format::Q2_K), large_blocks::<{ format::Q2_K }>),
        WeightType::Q3K => (form(format::Q3_K), large_blocks::<{ format::Q3_K }>),
        WeightType::Q4K => (form(format::Q4_K), large_blocks::<{ format::Q4_K }>),
        WeightType::Q5K => (form(format::Q5_K), large_blocks::<{ format::Q5_K }>),
        WeightType::Q6K => (form(format::Q6_K), large_blocks::<{ format::Q6_K }>),
    };
    Some(packing)
}

fn small_blocks<const FORMAT: u8>(block_bytes: usize, blocks: &[u8], mut places: Places<'_>) {
    for (at, block) in blocks.chunks_exact(block_bytes).enumerate() {
        let Small { quants, scale, offset } = small::<FORMAT>(block);
        places.put::<FORMAT>(at, &quants, scale, offset);
    }
}

fn large_blocks<const FORMAT: u8>(block_bytes: usize, blocks: &[u8], mut places: Places<'_>) {
    let size = const { form(FORMAT) }.block;
    for (number, block) in blocks.chunks_exact(block_bytes).enumerate() {
        let Large { quants, scales, offsets } = large::<FORMAT>(block);
        for (group, quants) in quants.chunks_exact(size).enumerate() {
            let from = group * size / GROUP;
            places.put::<FORMAT>(number * (LARGE / size) + group, quants, scales[from], offsets[from]);
        }
    }
}
