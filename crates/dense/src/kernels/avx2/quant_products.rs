//! Products of rows and columns of whole numbers: a lane is a column. Pairs of 16 bits are multiplied and added as fast as f32 are, which are
//! one number each.

use std::ops::Range;

use lsh_attn::kernels::PANEL;

use super::lanes::Avx2;
use crate::activations::BLOCK;
use crate::columns::ColumnBlock;
use crate::kernels::ROW_GROUP;
use crate::kernels::lanes::Lanes;
use crate::quant_rows::QuantRows;

const _: () = assert!(PANEL == ROW_GROUP, "as many columns as lanes");

/// Blocks of a panel that all rows pass before the next ones: 18 KiB, which stay in the first-level cache.
const STRETCH: usize = 16;

/// y += rows * columns.
///
/// # Safety
/// - `y` is `[rows, n]`, n of whole panels, `columns` `[n / PANEL, blocks]`, and each of as many `rows` has as many blocks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add(rows: &QuantRows, columns: &[ColumnBlock], n: usize, y: &mut [f32]) {
    let add_panel = if rows.offsets.is_empty() { add_panel::<false> } else { add_panel::<true> };
    for (number, panel) in columns.chunks_exact(columns.len() / (n / PANEL)).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { add_panel(rows, panel, n, &mut y[number * PANEL..]) };
    }
}

/// Four rows at a time: their sums and the columns fit into sixteen registers.
///
/// # Safety
/// - rows, and columns from the beginning of `y` on, exist as [`add`] has them; rows have offsets if they are said to.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_panel<const OFFSETS: bool>(rows: &QuantRows, panel: &[ColumnBlock], n: usize, y: &mut [f32]) {
    let height = rows.scales.len() / panel.len();
    for first in (0..panel.len()).step_by(STRETCH) {
        let stretch = first..panel.len().min(first + STRETCH);
        let mut row = 0;
        while row < height {
            // SAFETY: rows `row..row + R` exist, the rest is the caller's promise.
            unsafe {
                if height - row >= 4 {
                    add_rows::<OFFSETS, 4>(rows, row, panel, stretch.clone(), n, &mut y[row * n..]);
                    row += 4;
                } else {
                    add_rows::<OFFSETS, 1>(rows, row, panel, stretch.clone(), n, &mut y[row * n..]);
                    row += 1;
                }
            }
        }
    }
}

/// Rows `row..row + R` times a stretch of a panel's blocks, added to the first PANEL numbers of each n of `y`.
///
/// # Safety
/// - the rows exist, and have as many blocks as the panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_rows<const OFFSETS: bool, const R: usize>(
    rows: &QuantRows,
    row: usize,
    panel: &[ColumnBlock],
    stretch: Range<usize>,
    n: usize,
    y: &mut [f32],
) {
    let mut sums = [Avx2::number(0.0); R];
    for (r, sum) in sums.iter_mut().enumerate() {
        *sum = Avx2::loaded(y[r * n..].first_chunk().expect("a panel of columns"));
    }
    for number in stretch {
        let block = &panel[number];
        let mut products = [Avx2::splat(0); R];
        for (i, pairs) in block.pairs.iter().enumerate() {
            let columns = Avx2::words(bytes_of(pairs));
            for (r, product) in products.iter_mut().enumerate() {
                let at = ((row + r) * panel.len() + number) * BLOCK + 2 * i;
                // SAFETY: two quants of the row's block (caller).
                let weights = unsafe { *rows.quants.as_ptr().add(at).cast::<[i16; 2]>() };
                *product = Avx2::add_products(*product, columns, weights);
            }
        }
        let scales = Avx2::loaded(&block.scales);
        for (r, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
            let at = (row + r) * panel.len() + number;
            // SAFETY: the row's block (caller).
            let scale = unsafe { *rows.scales.get_unchecked(at) };
            *sum = Avx2::multiply_add(Avx2::numbers(product), Avx2::times(scales, Avx2::number(scale)), *sum);
            if OFFSETS {
                // SAFETY: there are as many as scales.
                let offset = unsafe { *rows.offsets.get_unchecked(at) };
                *sum = Avx2::multiply_add(Avx2::loaded(&block.sums), Avx2::number(offset), *sum);
            }
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        *y[r * n..].first_chunk_mut().expect("a panel of columns") = Avx2::stored(sum);
    }
}

/// As the words that they are in memory.
#[inline(always)]
fn bytes_of(words: &[u32; PANEL]) -> &[u8; 4 * PANEL] {
    // SAFETY: as many bytes, of any alignment.
    unsafe { &*std::ptr::from_ref(words).cast() }
}

#[cfg(test)]
mod tests {
    use lsh_attn::kernels::{Isa, Kernels};
    use lsh_attn::mix::{mix64, normals};

    use super::{BLOCK, ColumnBlock, PANEL, QuantRows};
    use crate::columns::{GREATEST, Panel};
    use crate::kernels::DenseKernels;
    use crate::matrix::{Matrix, WeightType};

    const INPUTS: usize = 1280;
    const OUTPUTS: usize = 7;
    const TOKENS: usize = PANEL + 4;

    /// Instruction sets of this machine that take quants.
    fn each_isa(check: impl Fn(DenseKernels)) {
        let all = Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok()).map(DenseKernels::from);
        let taking: Vec<_> = all.filter(|kernels| kernels.takes_quants(&[])).collect();
        if taking.is_empty() {
            eprintln!("no instruction set of this machine multiplies columns of quants: not tested");
        }
        taking.into_iter().for_each(check);
    }

    /// `rows` `[tokens, inputs]` as panels of quants.
    fn columns_of(kernels: DenseKernels, rows: &[f32], inputs: usize) -> Vec<ColumnBlock> {
        let panels = rows.chunks(PANEL * inputs).map(|rows| {
            let mut blocks = vec![ColumnBlock::default(); inputs / BLOCK];
            kernels.rows_panel(rows, inputs, &mut Panel::Blocks(&mut blocks));
            blocks
        });
        panels.collect::<Vec<_>>().concat()
    }

    #[test]
    fn products_are_those_of_the_elements() {
        let mut x = normals(1, TOKENS * INPUTS);
        x[5] = 40.0;
        x[2 * INPUTS..3 * INPUTS].fill(0.0);
        for kind in WeightType::ALL.into_iter().filter(|&kind| QuantRows::hold(kind)) {
            let size = OUTPUTS * kind.row_bytes(INPUTS).expect("whole blocks");
            // No pair of bytes is an f16 of 2 or more.
            let bytes: Vec<u8> = (0..size as u64).map(|i| mix64(i) as u8 & 0x3f).collect();
            let matrix = Matrix::new(kind, INPUTS, &bytes).expect("whole rows");
            each_isa(|kernels| {
                let columns = columns_of(kernels, &x, INPUTS);
                let n = TOKENS.next_multiple_of(PANEL);
                let mut y = vec![3.0f32; OUTPUTS * n];
                kernels.add_quant_products(matrix, &columns, &mut QuantRows::default(), &mut y);
                for output in 0..OUTPUTS {
                    let row = matrix.row(output);
                    for (token, x) in x.chunks_exact(INPUTS).enumerate() {
                        let (mut exact, mut size, mut rounding) = (0.0f64, 0.0f64, 0.0f64);
                        for (row, x) in row.chunks_exact(BLOCK).zip(x.chunks_exact(BLOCK)) {
                            let greatest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                            for (&w, &x) in row.iter().zip(x) {
                                exact += f64::from(w) * f64::from(x);
                                size += (f64::from(w) * f64::from(x)).abs();
                                // Half a quant, and as much again for weights that an offset makes smaller.
                                rounding += f64::from(w.abs() * greatest / GREATEST);
                            }
                        }
                        let off = (f64::from(y[output * n + token]) - 3.0 - exact).abs();
                        assert!(off <= rounding + 1e-5 * (size + 3.0), "{}: {off}, {rounding}", kind.name());
                    }
                }
                assert!(y[TOKENS..n].iter().all(|&y| y == 3.0), "columns without a token are zeros");
            });
        }
    }

    #[test]
    fn the_greatest_products_fit() {
        // Q6_K: quants -32, scales of groups -128, d 1.
        let mut block = [0u8; 210];
        block[192..208].fill(0x80);
        block[208..].copy_from_slice(&[0x00, 0x3c]);
        let matrix = Matrix::new(WeightType::Q6K, 256, &block).expect("a row");
        each_isa(|kernels| {
            let columns = columns_of(kernels, &[1.0; 256 * PANEL], 256);
            let mut y = vec![0.0f32; PANEL];
            kernels.add_quant_products(matrix, &columns, &mut QuantRows::default(), &mut y);
            assert_eq!(y, [256.0 * 4096.0; PANEL]);
        });
    }

    #[test]
    fn columns_are_rounded_to_half_a_quant() {
        let x = normals(2, PANEL * BLOCK);
        each_isa(|kernels| {
            let block = &columns_of(kernels, &x, BLOCK)[0];
            for (lane, x) in x.chunks_exact(BLOCK).enumerate() {
                let scale = block.scales[lane];
                for (i, &x) in x.iter().enumerate() {
                    let quant = (block.pairs[i / 2][lane] >> (16 * (i % 2))) as u16 as i16;
                    assert!((f32::from(quant) * scale - x).abs() <= 0.501 * scale, "{x}: {quant} * {scale}");
                }
                assert!((block.sums[lane] - x.iter().sum::<f32>()).abs() < 1e-5);
            }
        });
    }
}
