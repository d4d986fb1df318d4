//! SimHash by structured rotations: K bits a table, L tables.
//!
//! A bit is the sign of one coordinate of a randomly rotated vector (Charikar 2002). Each rotation is three
//! rounds of (random signs, Hadamard transform) instead of a Gaussian matrix (Andoni et al. 2015), so d bits
//! cost O(d log d). Coordinates of one rotation are orthogonal, not independent: a table therefore takes each
//! of its K bits from another rotation.

use crate::kernels::Kernels;
use crate::mix::{derive_seed, mix64};

/// Vectors that are hashed together, one a lane.
pub const LANES: usize = 16;

/// One coordinate of [`LANES`] vectors.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Lanes(pub [f32; LANES]);

const ROUNDS: usize = 3;

/// Where a sign bit goes: coordinate `dim` of a rotation gives bit `shift` of `table`'s code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitTarget {
    pub dim: u16,
    pub table: u16,
    pub shift: u8,
}

/// One rotation: its signs `[ROUNDS, padded_dim]` and the bits that are taken from it.
pub(crate) struct Rotation<'a> {
    pub signs: &'a [f32],
    pub bits: &'a [BitTarget],
}

/// The hash functions of one layer: which rotations, and which of their signs form which table's code.
#[derive(Clone, Debug)]
pub struct HashPlan {
    bits_per_table: usize,
    tables: usize,
    dim: usize,
    padded_dim: usize,
    signs: Vec<f32>,
    targets: Vec<Vec<BitTarget>>,
}

impl HashPlan {
    /// Hash functions for vectors of `dim` elements: `tables` codes of `bits_per_table` bits each, drawn by
    /// `seed`.
    ///
    /// # Panics
    /// If `bits_per_table` is not in 1..=16, or `tables` or `dim` is 0 or above 65,535.
    pub fn new(dim: usize, bits_per_table: usize, tables: usize, seed: u64) -> HashPlan {
        assert!((1..=16).contains(&bits_per_table), "K = {bits_per_table}");
        assert!((1..=65_535).contains(&tables) && (1..=65_535).contains(&dim), "L = {tables}, d = {dim}");
        let padded_dim = dim.next_power_of_two().max(16);
        let bits = bits_per_table * tables;
        let rotations = bits.div_ceil(padded_dim).max(bits_per_table);

        let signs = (0..rotations * ROUNDS * padded_dim)
            .map(|index| if mix64(derive_seed(seed, index as u64)) & 1 == 0 { 1.0 } else { -1.0 })
            .collect();
        let mut targets = vec![Vec::new(); rotations];
        for bit in 0..bits {
            // Consecutive bits come from consecutive rotations, so the K bits of a table never share one.
            let (dim, rotation) = (bit / rotations, bit % rotations);
            let (table, shift) = (bit / bits_per_table, bit % bits_per_table);
            targets[rotation].push(BitTarget { dim: dim as u16, table: table as u16, shift: shift as u8 });
        }
        HashPlan { bits_per_table, tables, dim, padded_dim, signs, targets }
    }

    /// K.
    pub fn bits_per_table(&self) -> usize {
        self.bits_per_table
    }

    /// L.
    pub fn tables(&self) -> usize {
        self.tables
    }

    /// Buckets of a table, 2^K.
    pub fn buckets(&self) -> usize {
        1 << self.bits_per_table
    }

    /// Elements of a vector to hash.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// [`HashPlan::dim`] rounded up to a power of two; the rest is zero.
    pub fn padded_dim(&self) -> usize {
        self.padded_dim
    }

    pub(crate) fn rotations(&self) -> impl Iterator<Item = Rotation<'_>> {
        self.signs
            .chunks_exact(ROUNDS * self.padded_dim)
            .zip(&self.targets)
            .map(|(signs, bits)| Rotation { signs, bits })
    }
}

/// Hashes vectors in groups of [`LANES`], keeping its scratch space between calls.
#[derive(Debug)]
pub struct Hasher {
    input: Vec<Lanes>,
    work: Vec<Lanes>,
    codes: Vec<[u16; LANES]>,
}

impl Hasher {
    /// Scratch space for `plan`.
    pub fn new(plan: &HashPlan) -> Hasher {
        let zero = Lanes([0.0; LANES]);
        Hasher {
            input: vec![zero; plan.padded_dim],
            work: vec![zero; plan.padded_dim],
            codes: vec![[0; LANES]; plan.tables],
        }
    }

    /// Codes `[table][lane]` of up to [`LANES`] vectors; `element(lane, j)` is element j of a lane's vector.
    /// Lanes from `count` on hold codes of zero vectors.
    pub fn hash(
        &mut self,
        kernels: Kernels,
        plan: &HashPlan,
        count: usize,
        element: impl Fn(usize, usize) -> f32,
    ) -> &[[u16; LANES]] {
        assert!(count <= LANES);
        for (j, lanes) in self.input[..plan.dim].iter_mut().enumerate() {
            for (lane, x) in lanes.0.iter_mut().enumerate() {
                *x = if lane < count { element(lane, j) } else { 0.0 };
            }
        }
        kernels.hash(plan, &self.input, &mut self.work, &mut self.codes);
        &self.codes
    }
}
