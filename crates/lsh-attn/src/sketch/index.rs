//! Codes of a segment's keys, appended block by block.

use crate::hash::{LANES, Lanes};
use crate::kernels::Kernels;
use crate::mix::{derive_seed, mix64};
use crate::rows::Rows;
use crate::sketch::{BLOCK_KEYS, SKETCH_BITS, block_bytes, value_bits};

/// Rounds of (random signs, Hadamard transform) that make a rotation.
const ROUNDS: usize = 3;

/// The rotation of one layer and the lengths of its codes.
#[derive(Clone, Debug)]
pub struct SketchPlan {
    dim: usize,
    padded_dim: usize,
    bits: u32,
    /// `[ROUNDS, padded_dim]`, of one magnitude that keeps lengths.
    signs: Vec<f32>,
}

impl SketchPlan {
    /// Codes of `bits` bits an element for keys of `dim` elements, and of [`value_bits`] for values.
    ///
    /// # Panics
    /// If `bits` is not of [`SKETCH_BITS`], or `dim` is 0.
    pub fn new(dim: usize, bits: u32, seed: u64) -> SketchPlan {
        assert!(SKETCH_BITS.contains(&bits) && dim > 0, "{bits} bits, d = {dim}");
        let padded_dim = dim.next_power_of_two().max(32);
        let size = 1.0 / (padded_dim as f32).sqrt();
        let sign = |index: usize| if mix64(derive_seed(seed, index as u64)) & 1 == 0 { size } else { -size };
        SketchPlan { dim, padded_dim, bits, signs: (0..ROUNDS * padded_dim).map(sign).collect() }
    }

    /// Elements of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// [`SketchPlan::dim`] rounded up to a power of two of at least 32.
    pub fn padded_dim(&self) -> usize {
        self.padded_dim
    }

    /// Bits an element.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Bytes of a block of [`BLOCK_KEYS`] keys.
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.padded_dim, self.bits)
    }

    /// Bits an element of values' codes.
    pub fn value_bits(&self) -> u32 {
        value_bits(self.bits)
    }

    /// Bytes of a block of [`BLOCK_KEYS`] values.
    pub fn value_block_bytes(&self) -> usize {
        block_bytes(self.padded_dim, self.value_bits())
    }

    /// Rotates [`LANES`] vectors, `element(lane, j)` their element j, into `out` `[padded_dim]`.
    pub(crate) fn rotate(
        &self,
        kernels: Kernels,
        out: &mut Vec<Lanes>,
        element: impl Fn(usize, usize) -> f32,
    ) {
        out.clear();
        out.extend((0..self.dim).map(|j| Lanes(std::array::from_fn(|lane| element(lane, j)))));
        out.resize(self.padded_dim, Lanes([0.0; LANES]));
        kernels.rotate(&self.signs, out);
    }

    /// Takes a rotation back: [`LANES`] vectors `[padded_dim]`.
    pub(crate) fn unrotate(&self, kernels: Kernels, x: &mut [Lanes]) {
        // A rotation's rounds are H S with S^2 = 1/n and H^2 = n, so a round's inverse is S H. From the last to the first that
        // is H, then H S for each round but the first, then the first one's S.
        let rounds: Vec<&[f32]> = self.signs.chunks_exact(self.padded_dim).collect();
        let mut signs = vec![1.0; self.padded_dim];
        rounds[1..].iter().rev().for_each(|round| signs.extend_from_slice(round));
        kernels.rotate(&signs, x);
        for (x, sign) in x.iter_mut().zip(rounds[0]) {
            x.0.iter_mut().for_each(|x| *x *= sign);
        }
    }
}

/// Which rows of a segment, `first..end`, have codes, and around which centre. The blocks of [`BLOCK_KEYS`] codes are the
/// caller's to keep.
#[derive(Clone, Debug)]
pub struct SketchIndex {
    first: usize,
    centre: Vec<f32>,
    count: usize,
}

impl SketchIndex {
    /// An empty index whose first row will be `first`, for keys around `centre` `[dim]`. Any centre is correct; one near
    /// the keys' mean makes codes spend their bits on what tells keys apart.
    pub fn new(first: usize, centre: Vec<f32>) -> SketchIndex {
        SketchIndex { first, centre, count: 0 }
    }

    /// One that has `count` blocks already.
    pub fn with_blocks(first: usize, centre: Vec<f32>, count: usize) -> SketchIndex {
        SketchIndex { first, centre, count }
    }

    /// Position within the segment of the first row.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Position within the segment after the last indexed row.
    pub fn end(&self) -> usize {
        self.first + self.count * BLOCK_KEYS
    }

    /// Blocks.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The centre `[dim]`.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// Indexes rows from [`SketchIndex::end`] on, as many whole blocks as end before `end`, and appends the blocks to
    /// `blocks`. `rows` are the segment's rows from its start.
    pub fn extend(
        &mut self,
        kernels: Kernels,
        plan: &SketchPlan,
        rows: Rows<'_>,
        end: usize,
        blocks: &mut Vec<u8>,
    ) {
        let dim = plan.dim;
        let mut keys = vec![0.0; BLOCK_KEYS * dim];
        let mut work = Vec::new();
        while self.end() + BLOCK_KEYS <= end {
            for (lane, key) in keys.chunks_exact_mut(dim).enumerate() {
                rows.key(self.end() + lane, key);
            }
            plan.rotate(kernels, &mut work, |lane, j| keys[lane * dim + j] - self.centre[j]);
            let at = blocks.len();
            blocks.resize(at + plan.block_bytes(), 0);
            kernels.sketch_encode(plan.bits, &work, &mut blocks[at..]);
            self.count += 1;
        }
    }

    /// Forgets rows from `end` on; a block that it cuts goes whole.
    pub fn truncate(&mut self, end: usize) {
        self.count = self.count.min(end.saturating_sub(self.first) / BLOCK_KEYS);
    }
}
