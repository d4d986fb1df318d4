//! Activations as linear layers take them: f32, and rounded to 16 bits a block.

/// Elements that share a scale, in activations as in quantised weights.
pub(crate) const BLOCK: usize = 32;

/// The vectors `[tokens, size]` that go into a linear layer.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    pub(crate) tokens: usize,
    pub(crate) size: usize,
    /// `[tokens, size]`
    pub(crate) values: Vec<f32>,
    /// `[tokens, size]`: value / scale of its block, rounded. At most 32,767, so that a product with 8 bits of
    /// weight, summed in pairs and over the two halves of a block, is exact in f32 as in i32.
    pub(crate) quants: Vec<i16>,
    /// `[tokens, size / BLOCK]`
    pub(crate) scales: Vec<f32>,
    /// `[tokens, size / BLOCK]`: sum of the block's values, which meets the offset of the weights' block.
    pub(crate) sums: Vec<f32>,
}

impl Activations {
    /// Takes `values` `[tokens, size]`, with quants where the size is of whole blocks.
    ///
    /// # Panics
    /// If `values` is not of whole vectors.
    pub fn set(&mut self, values: &[f32], size: usize) {
        assert!(size > 0 && values.len().is_multiple_of(size), "{} values, vectors of {size}", values.len());
        self.tokens = values.len() / size;
        self.size = size;
        self.values.clear();
        self.values.extend_from_slice(values);
        self.quants.clear();
        self.scales.clear();
        self.sums.clear();
        if !size.is_multiple_of(BLOCK) {
            return;
        }
        for block in values.chunks_exact(BLOCK) {
            let greatest = block.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
            let inverse = if greatest > 0.0 { 32_767.0 / greatest } else { 0.0 };
            self.quants.extend(block.iter().map(|x| round(x * inverse) as i16));
            self.scales.push(greatest / 32_767.0);
            self.sums.push(block.iter().sum());
        }
    }

    /// Vectors.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Added to a float below 2^22 in size, it leaves the float's rounding to nearest even in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// x rounded to the nearest integer, ties to even. What the library has for this is a call for every element where the
/// platform's floor has no such instruction.
#[inline]
fn round(x: f32) -> i32 {
    (x + ROUNDING).to_bits() as i32 - ROUNDING.to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::round;

    #[test]
    fn rounds_to_nearest_even() {
        for (x, want) in
            [(0.5, 0), (1.5, 2), (-0.5, 0), (-2.5, -2), (32_766.6, 32_767), (-32_767.0, -32_767), (3.2, 3)]
        {
            assert_eq!(round(x), want, "{x}");
        }
    }
}
