//! Rows: the K and V of one token, side by side, in bf16 or in 8 bits.

mod int8;

use std::ops::Range;

use half::bf16;

pub(crate) use int8::{Int8Row, quantise};

/// How the elements of rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowType {
    /// `[2 * head_dim]` bf16, K then V.
    Bf16,
    /// `[2 * head_dim]` signed bytes, K then V, after them the bf16 scale of K and that of V: half of bf16's bytes, and two
    /// times two more. The scales lie in the row since a gathered row then costs no line of memory elsewhere.
    Int8,
}

impl RowType {
    /// Every row type.
    pub const ALL: [RowType; 2] = [RowType::Bf16, RowType::Int8];

    /// The name that options and fingerprints take.
    pub fn name(self) -> &'static str {
        match self {
            RowType::Bf16 => "bf16",
            RowType::Int8 => "int8",
        }
    }

    /// Units of 16 bits that a row takes up: a bf16, or two bytes.
    pub fn units(self, head_dim: usize) -> usize {
        match self {
            RowType::Bf16 => 2 * head_dim,
            RowType::Int8 => head_dim + 2,
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        self.units(head_dim) * size_of::<u16>()
    }

    /// Writes `k` and `v` (each `[head_dim]`, f32) as one row `[units]`, rounded to nearest even: to bf16, or to multiples of
    /// max|k| / 127 and max|v| / 127, which are off by at most 1/253 of that maximum.
    ///
    /// # Panics
    /// If the lengths do not agree, or `head_dim` is odd.
    pub fn encode(self, k: &[f32], v: &[f32], row: &mut [u16]) {
        assert_eq!(k.len(), v.len(), "a row holds K and V of the same head dimension");
        assert_eq!(row.len(), self.units(k.len()), "a row of another head dimension");
        match self {
            RowType::Bf16 => {
                for (out, &x) in row.iter_mut().zip(k.iter().chain(v)) {
                    *out = bf16::from_f32(x).to_bits();
                }
            }
            RowType::Int8 => int8::encode_row(k, v, row),
        }
    }
}

/// Consecutive rows of one KV head.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    row_type: RowType,
    head_dim: usize,
    /// `[rows, units]`
    stored: &'a [u16],
}

impl<'a> Rows<'a> {
    /// The rows in `stored` `[rows, row_type.units(head_dim)]`.
    ///
    /// # Panics
    /// If these are not whole rows.
    pub fn new(row_type: RowType, head_dim: usize, stored: &'a [u16]) -> Rows<'a> {
        assert!(stored.len().is_multiple_of(row_type.units(head_dim)), "{} units", stored.len());
        Rows { row_type, head_dim, stored }
    }

    /// How their elements are stored.
    pub fn row_type(self) -> RowType {
        self.row_type
    }

    /// Elements of a key, and of a value.
    pub fn head_dim(self) -> usize {
        self.head_dim
    }

    /// How many rows there are.
    pub fn len(self) -> usize {
        self.stored.len() / self.units()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.stored.is_empty()
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        self.row_type.row_bytes(self.head_dim)
    }

    /// The rows of a range.
    pub fn slice(self, range: Range<usize>) -> Rows<'a> {
        let units = self.units();
        Rows { stored: &self.stored[range.start * units..range.end * units], ..self }
    }

    /// The rows, up to `count` at a time.
    pub fn chunks(self, count: usize) -> impl Iterator<Item = Rows<'a>> {
        self.stored.chunks(count * self.units()).map(move |stored| Rows { stored, ..self })
    }

    /// Writes what the K of a row stands for, `[head_dim]`.
    pub fn key(self, row: usize, out: &mut [f32]) {
        match self.row_type {
            RowType::Bf16 => widen_all(&self.row(row)[..self.head_dim], out),
            RowType::Int8 => Int8Row::new(self.row(row)).key(out),
        }
    }

    /// Writes what the V of a row stands for, `[head_dim]`.
    pub fn value(self, row: usize, out: &mut [f32]) {
        match self.row_type {
            RowType::Bf16 => widen_all(&self.row(row)[self.head_dim..], out),
            RowType::Int8 => Int8Row::new(self.row(row)).value(out),
        }
    }

    /// Mean of the keys `[head_dim]`, accumulated in f64: the centre of an index. Zeros where there are none.
    pub fn mean_key(self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.head_dim];
        let mut key = vec![0.0; self.head_dim];
        for row in 0..self.len() {
            self.key(row, &mut key);
            for (sum, &k) in sum.iter_mut().zip(&key) {
                *sum += f64::from(k);
            }
        }
        let count = self.len().max(1) as f64;
        sum.into_iter().map(|sum| (sum / count) as f32).collect()
    }

    /// `[rows, units]`
    pub(crate) fn stored(self) -> &'a [u16] {
        self.stored
    }

    fn units(self) -> usize {
        self.row_type.units(self.head_dim)
    }

    fn row(self, row: usize) -> &'a [u16] {
        &self.stored[row * self.units()..][..self.units()]
    }
}

/// The exact value of a bf16 bit pattern.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The exact values of bf16 bit patterns.
#[inline(always)]
pub(crate) fn widen_all(bits: &[u16], out: &mut [f32]) {
    for (out, &bits) in out.iter_mut().zip(bits) {
        *out = widen(bits);
    }
}
