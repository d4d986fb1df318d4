//! Activations as linear layers take them: f32, and rounded to 16 bits a block.

use crate::blocks::GROUP;
use crate::matrix::Cores;

/// Tokens from which on each is rounded by a thread of its own; fewer are done before another thread has begun.
const TOKENS_APART: usize = 4;

/// Elements that share a scale, in activations as in quantised weights.
pub(crate) const BLOCK: usize = 32;

/// The vectors `[tokens, size]` that go into a linear layer.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    pub(crate) tokens: usize,
    pub(crate) size: usize,
    /// `[tokens, size]`
    pub(crate) values: Vec<f32>,
    /// `[tokens, size]`: value / scale of its block, rounded. At most [`GREATEST`], so that a product with 8 bits of
    /// weight, summed in pairs and over the two halves of a block, is exact in f32 as in i32. Of each four, the second and third are
    /// the other way round: what 16 bits at a time make of bytes is the even ones and the odd ones.
    pub(crate) quants: Vec<i16>,
    /// `[tokens, size / BLOCK]`: the same as 256 high + low, for instructions that multiply bytes.
    pub(crate) bytes: Vec<QuantBytes>,
    /// `[tokens, size / BLOCK]`: the sums of quants, for weights whose bytes stand for something less.
    pub(crate) quant_sums: Vec<i32>,
    /// `[tokens, size / BLOCK]`
    pub(crate) factors: Vec<Factors>,
    /// `[tokens, size / GROUP]`: the sums of the values of the groups that a large block's offsets are for.
    pub(crate) group_sums: Vec<f32>,
}

/// Some of the vectors, whose quants are to be made of their values; the fields are as those of [`Activations`].
pub(crate) struct Part<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) quants: &'a mut [i16],
    pub(crate) bytes: &'a mut [QuantBytes],
    pub(crate) quant_sums: &'a mut [i32],
    pub(crate) factors: &'a mut [Factors],
    pub(crate) group_sums: &'a mut [f32],
}

/// What the f16 scale and offset of a weights' block are multiplied with.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Factors {
    /// The value of quant 1.
    pub(crate) scale: f32,
    /// The sum of the block's values.
    pub(crate) sum: f32,
}

/// The quants of a block in two signed bytes each.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct QuantBytes {
    pub(crate) high: [i8; BLOCK],
    pub(crate) low: [i8; BLOCK],
}

/// The greatest quant: 256 * 127 + 127.
pub(crate) const GREATEST: f32 = 32_639.0;

impl Activations {
    /// Takes `values` `[tokens, size]`, with quants where the size is of whole blocks.
    ///
    /// # Panics
    /// If `values` is not of whole vectors.
    pub fn set(&mut self, Cores { team, kernels }: Cores<'_>, values: &[f32], size: usize) {
        assert!(size > 0 && values.len().is_multiple_of(size), "{} values, vectors of {size}", values.len());
        self.tokens = values.len() / size;
        self.size = size;
        self.values.clear();
        self.values.extend_from_slice(values);
        if !size.is_multiple_of(BLOCK) {
            return;
        }
        if self.tokens < TOKENS_APART {
            self.parts(self.tokens).for_each(|mut part| kernels.quantise(&mut part));
        } else {
            let mut parts: Vec<_> = self.parts(1).collect();
            team.each_mut(&mut parts, |part| kernels.quantise(part));
        }
    }

    /// The vectors in parts of so many tokens, with room for their quants.
    fn parts(&mut self, tokens: usize) -> impl Iterator<Item = Part<'_>> {
        let (elements, blocks) = (self.values.len(), self.values.len() / BLOCK);
        self.quants.resize(elements, 0);
        self.bytes.resize(blocks, QuantBytes::default());
        self.quant_sums.resize(blocks, 0);
        self.factors.resize(blocks, Factors::default());
        self.group_sums.resize(elements / GROUP, 0.0);
        let (part, blocks) = (tokens * self.size, tokens * self.size / BLOCK);
        let quants = self.quants.chunks_mut(part).zip(self.bytes.chunks_mut(blocks));
        let sums = self.quant_sums.chunks_mut(blocks).zip(self.group_sums.chunks_mut(part / GROUP));
        let factors = self.factors.chunks_mut(blocks);
        let vectors = self.values.chunks(part).zip(quants).zip(sums).zip(factors);
        vectors.map(|(((values, (quants, bytes)), (quant_sums, group_sums)), factors)| Part {
            values,
            quants,
            bytes,
            quant_sums,
            factors,
            group_sums,
        })
    }

    /// Vectors.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use lsh_attn::kernels::Kernels;
    use rayon::ThreadPoolBuilder;
    use team::Team;

    use super::{Activations, Cores};
    use crate::kernels::DenseKernels;

    #[test]
    fn bytes_are_the_quants() {
        let mut x = Activations::default();
        let values: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) * 0.37).collect();
        let kernels = DenseKernels::from(Kernels::detect().expect("a kernel"));
        let pool = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        Team::assemble(&pool, |team| x.set(Cores { team, kernels }, &values, 64));
        for (block, quants) in x.bytes.iter().zip(x.quants.chunks_exact(32)) {
            for i in 0..32 {
                let quant = quants[[0, 2, 1, 3][i % 4] + i / 4 * 4];
                assert_eq!(256 * i32::from(block.high[i]) + i32::from(block.low[i]), i32::from(quant));
            }
        }
        assert_eq!(x.quants[63], 32_639);
    }
}
