//! What is in a quantised block, by ggml's definitions (ggml-common.h, ggml-quants.c).
//!
//! A small block has 32 elements with one scale, a large one 256 in groups of 16 or 32 that have a scale each, and
//! some formats a minimum. Elements are products and sums of f16 numbers and small integers that f32 holds exactly, but
//! for the last sum of formats with a minimum.

use half::f16;

use crate::activations::BLOCK;
use crate::kernels::format;
use crate::matrix::WeightType;

/// Elements of a large block.
pub(crate) const LARGE: usize = 256;

/// Elements of a large block that may share a scale: in formats where 32 do, two groups have the same.
pub(crate) const GROUP: usize = 16;

/// Bytes of a large block by format.
pub(crate) const fn large_bytes(format: u8) -> usize {
    match format {
        format::Q2_K => 84,
        format::Q3_K => 110,
        format::Q4_K => 144,
        format::Q5_K => 176,
        _ => 210,
    }
}

/// Where a large block has its parts, in bytes.
pub(crate) struct Layout {
    /// The lower bits of quants: two of each in Q2_K and Q3_K, else four.
    pub low: usize,
    /// The higher ones: one of each in Q3_K and Q5_K, two in Q6_K.
    pub high: usize,
    /// Of groups.
    pub scales: usize,
    /// The block's own scale; that of minima follows, where there are any.
    pub scale: usize,
    /// What quants are counted from; formats without a minimum in the file have minus this many times the scale.
    pub zero: f32,
}

pub(crate) const fn layout(format: u8) -> Layout {
    match format {
        format::Q2_K => Layout { low: 16, high: 0, scales: 0, scale: 80, zero: 0.0 },
        format::Q3_K => Layout { low: 32, high: 0, scales: 96, scale: 108, zero: 4.0 },
        format::Q4_K => Layout { low: 16, high: 0, scales: 4, scale: 0, zero: 0.0 },
        format::Q5_K => Layout { low: 48, high: 16, scales: 4, scale: 0, zero: 0.0 },
        _ => Layout { low: 0, high: 128, scales: 192, scale: 208, zero: 32.0 },
    }
}

/// Whether the groups of a large block's format have 32 elements.
pub(crate) const fn wide_groups(format: u8) -> bool {
    matches!(format, format::Q4_K | format::Q5_K)
}

/// The values of IQ4_NL's quants.
pub(crate) const IQ4_NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What quants of a small block are counted from, in formats whose offset is minus this many times the scale.
pub(crate) const fn small_zero(format: u8) -> f32 {
    match format {
        format::Q4_0 => 8.0,
        format::Q5_0 => 16.0,
        _ => 0.0,
    }
}

/// A small block: an element is scale * quant + offset.
pub(crate) struct Small {
    pub quants: [i8; BLOCK],
    pub scale: f32,
    pub offset: f32,
}

#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
pub(crate) fn small<const FORMAT: u8>(block: &[u8]) -> Small {
    let scale = half(block, 0);
    let (offset, first) = match FORMAT {
        format::Q4_0 => (-small_zero(FORMAT) * scale, 2),
        format::Q4_1 => (half(block, 2), 4),
        format::Q5_0 => (-small_zero(FORMAT) * scale, 6),
        format::Q5_1 => (half(block, 2), 8),
        _ => (0.0, 2),
    };
    let mut quants = [0i8; BLOCK];
    if FORMAT == format::Q8_0 {
        for (quant, &byte) in quants.iter_mut().zip(&block[first..first + BLOCK]) {
            *quant = byte as i8;
        }
        return Small { quants, scale, offset };
    }
    let (low, high) = quants.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[first..first + BLOCK / 2]) {
        *low = (byte & 15) as i8;
        *high = (byte >> 4) as i8;
    }
    if matches!(FORMAT, format::Q5_0 | format::Q5_1) {
        let bits = word(block, first - 4);
        for (i, quant) in quants.iter_mut().enumerate() {
            *quant |= ((bits >> i & 1) << 4) as i8;
        }
    }
    if FORMAT == format::IQ4_NL {
        quants = quants.map(|quant| IQ4_NL_VALUES[usize::from(quant as u8 & 15)]);
    }
    Small { quants, scale, offset }
}

/// Scales and minima of a large block's groups as integers: 16, or the first 8 where groups are of 32. An element is
/// `d scale quant - dmin minimum`; where a format has no minima, they are the scales and dmin is `zero d`.
pub(crate) struct Codes {
    pub scales: [i8; LARGE / GROUP],
    pub minima: [i8; LARGE / GROUP],
}

#[inline(always)]
pub(crate) fn codes<const FORMAT: u8>(block: &[u8]) -> Codes {
    let at = layout(FORMAT).scales;
    let bytes = |words: [u32; 4]| {
        let [a, b, c, d] = words.map(u128::from);
        (a | b << 32 | c << 64 | d << 96).to_le_bytes().map(|byte| byte as i8)
    };
    let nibbles = |word: u32| word & 0x0f0f_0f0f;
    match FORMAT {
        format::Q2_K => {
            let words: [u32; 4] = std::array::from_fn(|i| word(block, at + 4 * i));
            Codes { scales: bytes(words.map(nibbles)), minima: bytes(words.map(|word| nibbles(word >> 4))) }
        }
        format::Q3_K => {
            let (a, b, tops) = (word(block, at), word(block, at + 4), word(block, at + 8));
            let top = |shift: u32| (tops >> shift & 0x0303_0303) << 4;
            let scales = bytes([
                nibbles(a) | top(0),
                nibbles(b) | top(2),
                nibbles(a >> 4) | top(4),
                nibbles(b >> 4) | top(6),
            ]);
            let scales = scales.map(|scale| scale - 32);
            Codes { scales, minima: scales }
        }
        format::Q4_K | format::Q5_K => {
            let (a, b, rest) = (word(block, at), word(block, at + 4), word(block, at + 8));
            let six = |word: u32| word & 0x3f3f_3f3f;
            let top = |word: u32| word >> 2 & 0x3030_3030;
            Codes {
                scales: bytes([six(a), nibbles(rest) | top(a), 0, 0]),
                minima: bytes([six(b), nibbles(rest >> 4) | top(b), 0, 0]),
            }
        }
        _ => {
            let scales = bytes(std::array::from_fn(|i| word(block, at + 4 * i)));
            Codes { scales, minima: scales }
        }
    }
}

/// A large block: an element is its group's scale * quant + offset.
pub(crate) struct Large {
    pub quants: [i8; LARGE],
    pub scales: [f32; LARGE / GROUP],
    pub offsets: [f32; LARGE / GROUP],
}

/// The quants of a large block, counted from its zero.
#[inline(always)]
pub(crate) fn large_quants<const FORMAT: u8>(block: &[u8]) -> [i8; LARGE] {
    let layout = layout(FORMAT);
    let mut quants = [0i8; LARGE];
    for (b, quants) in quants.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        // The bytes that have an element's lower and higher bits, and how far up.
        let (low, shift) = match FORMAT {
            format::Q2_K | format::Q3_K => (32 * (b / 4), 2 * (b % 4)),
            format::Q6_K => (64 * (b / 4) + 32 * (b % 2), 4 * (b % 4 / 2)),
            _ => (32 * (b / 2), 4 * (b % 2)),
        };
        let mask = if matches!(FORMAT, format::Q2_K | format::Q3_K) { 3 } else { 15 };
        for (quant, byte) in quants.iter_mut().zip(&block[layout.low + low..][..BLOCK]) {
            *quant = (byte >> shift & mask) as i8;
        }
        let (high, shift, mask, place) = match FORMAT {
            format::Q3_K => (0, b, 1, 2),
            format::Q5_K => (0, b, 1, 4),
            format::Q6_K => (32 * (b / 4), 2 * (b % 4), 3, 4),
            _ => continue,
        };
        for (quant, byte) in quants.iter_mut().zip(&block[layout.high + high..][..BLOCK]) {
            *quant |= ((byte >> shift & mask) << place) as i8;
        }
    }
    quants
}

/// What the integer scales and minima of a large block's groups are multiplied with.
#[inline(always)]
pub(crate) fn large_scales<const FORMAT: u8>(block: &[u8]) -> (f32, f32) {
    let layout = layout(FORMAT);
    let d = half(block, layout.scale);
    (d, if layout.zero > 0.0 { layout.zero * d } else { half(block, layout.scale + 2) })
}

#[inline(always)]
pub(crate) fn large<const FORMAT: u8>(block: &[u8]) -> Large {
    let codes = codes::<FORMAT>(block);
    let (d, dmin) = large_scales::<FORMAT>(block);
    let group = |g: usize| if wide_groups(FORMAT) { g / 2 } else { g };
    Large {
        quants: large_quants::<FORMAT>(block),
        scales: std::array::from_fn(|g| d * f32::from(codes.scales[group(g)])),
        offsets: std::array::from_fn(|g| -dmin * f32::from(codes.minima[group(g)])),
    }
}

/// The elements of whole blocks, each as `rounded` makes it.
#[inline(always)]
pub(crate) fn dequantise<T>(kind: WeightType, blocks: &[u8], out: &mut [T], rounded: impl Fn(f32) -> T) {
    match kind {
        WeightType::F32 => {
            for (out, &x) in out.iter_mut().zip(blocks.as_chunks::<4>().0) {
                *out = rounded(f32::from_le_bytes(x));
            }
        }
        WeightType::F16 => {
            for (out, x) in out.iter_mut().zip(blocks.as_chunks::<2>().0) {
                *out = rounded(half(x, 0));
            }
        }
        WeightType::Bf16 => {
            for (out, &x) in out.iter_mut().zip(blocks.as_chunks::<2>().0) {
                *out = rounded(half::bf16::from_le_bytes(x).to_f32());
            }
        }
        WeightType::Q8_0 => each_small::<{ format::Q8_0 }, T>(kind, blocks, out, rounded),
        WeightType::Q4_0 => each_small::<{ format::Q4_0 }, T>(kind, blocks, out, rounded),
        WeightType::Q4_1 => each_small::<{ format::Q4_1 }, T>(kind, blocks, out, rounded),
        WeightType::Q5_0 => each_small::<{ format::Q5_0 }, T>(kind, blocks, out, rounded),
        WeightType::Q5_1 => each_small::<{ format::Q5_1 }, T>(kind, blocks, out, rounded),
        WeightType::Iq4Nl => each_small::<{ format::IQ4_NL }, T>(kind, blocks, out, rounded),
        WeightType::Q2K => each_large::<{ format::Q2_K }, T>(kind, blocks, out, rounded),
        WeightType::Q3K => each_large::<{ format::Q3_K }, T>(kind, blocks, out, rounded),
        WeightType::Q4K => each_large::<{ format::Q4_K }, T>(kind, blocks, out, rounded),
        WeightType::Q5K => each_large::<{ format::Q5_K }, T>(kind, blocks, out, rounded),
        WeightType::Q6K => each_large::<{ format::Q6_K }, T>(kind, blocks, out, rounded),
    }
}

#[inline(always)]
fn each_small<const FORMAT: u8, T>(
    kind: WeightType,
    blocks: &[u8],
    out: &mut [T],
    rounded: impl Fn(f32) -> T,
) {
    for (out, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks.chunks_exact(kind.block().1)) {
        let Small { quants, scale, offset } = small::<FORMAT>(block);
        for (out, quant) in out.iter_mut().zip(quants) {
            *out = rounded(scale * f32::from(quant) + offset);
        }
    }
}

#[inline(always)]
fn each_large<const FORMAT: u8, T>(
    kind: WeightType,
    blocks: &[u8],
    out: &mut [T],
    rounded: impl Fn(f32) -> T,
) {
    for (out, block) in out.as_chunks_mut::<LARGE>().0.iter_mut().zip(blocks.chunks_exact(kind.block().1)) {
        let Large { quants, scales, offsets } = large::<FORMAT>(block);
        let groups = out.as_chunks_mut::<GROUP>().0.iter_mut().zip(quants.as_chunks::<GROUP>().0);
        for ((out, quants), (scale, offset)) in groups.zip(scales.into_iter().zip(offsets)) {
            for (out, &quant) in out.iter_mut().zip(quants) {
                *out = rounded(scale * f32::from(quant) + offset);
            }
        }
    }
}
