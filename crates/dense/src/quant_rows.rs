//! Rows of weights as whole numbers, for products with columns that are whole numbers too.

use crate::activations::BLOCK;
use crate::blocks::{self, GROUP, LARGE, Small};
use crate::kernels::format;
use crate::matrix::WeightType;

/// Rows of blocks: an element is its block's scale * quant + offset.
#[derive(Debug, Default)]
pub(crate) struct QuantRows {
    /// `[rows, inputs]`, of 4,096 at most: where a format has scales of 16 elements they are in the quants, which no rounding takes
    /// part in.
    pub(crate) quants: Vec<i16>,
    /// `[rows, inputs / BLOCK]`
    pub(crate) scales: Vec<f32>,
    /// Likewise; empty where the format has none.
    pub(crate) offsets: Vec<f32>,
}

impl QuantRows {
    /// Whether rows of the format are such numbers: those of single numbers are not, nor those with an offset for 16 elements.
    pub(crate) fn hold(kind: WeightType) -> bool {
        !kind.is_wide() && kind != WeightType::Q2K
    }

    /// Takes the blocks of whole rows.
    ///
    /// # Panics
    /// If [`QuantRows::hold`] says no.
    #[inline(always)]
    pub(crate) fn set(&mut self, kind: WeightType, bytes: &[u8]) {
        let (elements, block) = kind.block();
        let elements = bytes.len() / block * elements;
        self.quants.resize(elements, 0);
        self.scales.resize(elements / BLOCK, 0.0);
        let has_offsets =
            matches!(kind, WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K);
        self.offsets.resize(if has_offsets { elements / BLOCK } else { 0 }, 0.0);
        match kind {
            WeightType::Q8_0 => self.set_small::<{ format::Q8_0 }>(bytes, block),
            WeightType::Q4_0 => self.set_small::<{ format::Q4_0 }>(bytes, block),
            WeightType::Q4_1 => self.set_small::<{ format::Q4_1 }>(bytes, block),
            WeightType::Q5_0 => self.set_small::<{ format::Q5_0 }>(bytes, block),
            WeightType::Q5_1 => self.set_small::<{ format::Q5_1 }>(bytes, block),
            WeightType::Iq4Nl => self.set_small::<{ format::IQ4_NL }>(bytes, block),
            WeightType::Q3K => self.set_large::<{ format::Q3_K }>(bytes, block),
            WeightType::Q4K => self.set_large::<{ format::Q4_K }>(bytes, block),
            WeightType::Q5K => self.set_large::<{ format::Q5_K }>(bytes, block),
            WeightType::Q6K => self.set_large::<{ format::Q6_K }>(bytes, block),
            WeightType::Q2K | WeightType::F32 | WeightType::F16 | WeightType::Bf16 => {
                unreachable!("no rows of whole numbers")
            }
        }
    }

    #[inline(always)]
    fn set_small<const FORMAT: u8>(&mut self, bytes: &[u8], block_bytes: usize) {
        let zero = blocks::small_zero(FORMAT) as i16;
        let blocks = bytes.chunks_exact(block_bytes).zip(self.quants.as_chunks_mut::<BLOCK>().0);
        for (number, (block, out)) in blocks.enumerate() {
            let Small { quants, scale, offset } = blocks::small::<FORMAT>(block);
            for (out, quant) in out.iter_mut().zip(quants) {
                *out = i16::from(quant) - zero;
            }
            self.scales[number] = scale;
            if let Some(to) = self.offsets.get_mut(number) {
                *to = offset;
            }
        }
    }

    #[inline(always)]
    fn set_large<const FORMAT: u8>(&mut self, bytes: &[u8], block_bytes: usize) {
        const BLOCKS: usize = LARGE / BLOCK;
        let zero = blocks::layout(FORMAT).zero as i16;
        let blocks = bytes.chunks_exact(block_bytes).zip(self.quants.as_chunks_mut::<LARGE>().0);
        for (number, (block, out)) in blocks.enumerate() {
            let quants = blocks::large_quants::<FORMAT>(block);
            let codes = blocks::codes::<FORMAT>(block);
            let (scale, minimum) = blocks::large_scales::<FORMAT>(block);
            let scales = &mut self.scales[number * BLOCKS..][..BLOCKS];
            if blocks::wide_groups(FORMAT) {
                for (out, quant) in out.iter_mut().zip(quants) {
                    *out = i16::from(quant);
                }
                let offsets = &mut self.offsets[number * BLOCKS..][..BLOCKS];
                for (i, (to, offset)) in scales.iter_mut().zip(offsets).enumerate() {
                    *to = scale * f32::from(codes.scales[i]);
                    *offset = -minimum * f32::from(codes.minima[i]);
                }
                continue;
            }
            let groups = out.as_chunks_mut::<GROUP>().0.iter_mut().zip(quants.as_chunks::<GROUP>().0);
            for ((out, quants), code) in groups.zip(codes.scales) {
                for (out, &quant) in out.iter_mut().zip(quants) {
                    *out = (i16::from(quant) - zero) * i16::from(code);
                }
            }
            scales.fill(scale);
        }
    }
}
