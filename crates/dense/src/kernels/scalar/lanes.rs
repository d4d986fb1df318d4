//! Lanes for any processor, four registers of 128 bits: NEON's on arm64 and SSE2's on x86-64 (`wide`).

use wide::{f32x4, i8x16, i16x8, i32x4, u8x16, u16x8, u32x4};

use crate::kernels::ROW_GROUP;
use crate::kernels::lanes::Lanes;

/// Vectors that every processor has.
pub(super) struct Portable;

/// The same of all registers.
macro_rules! all {
    (|$($name:ident),+| $body:expr) => {
        [
            { $(let $name = $name[0];)+ $body },
            { $(let $name = $name[1];)+ $body },
            { $(let $name = $name[2];)+ $body },
            { $(let $name = $name[3];)+ $body },
        ]
    };
}

impl Lanes for Portable {
    type Words = [u32x4; 4];
    type Numbers = [f32x4; 4];

    #[inline(always)]
    fn words(from: &[u8; 4 * ROW_GROUP]) -> Self::Words {
        let from = from.as_chunks::<16>().0;
        all!(|from| cast(from))
    }

    #[inline(always)]
    fn halves(from: &[u8; 2 * ROW_GROUP]) -> Self::Numbers {
        let from = from.as_chunks::<8>().0;
        all!(|from| {
            let [a, b, c, d] = cast::<[u16; 4]>(from).map(u32::from);
            number_of_half(u32x4::from([a, b, c, d]))
        })
    }

    #[inline(always)]
    fn both_halves(words: Self::Words) -> [Self::Numbers; 2] {
        [all!(|words| number_of_half(words)), all!(|words| number_of_half(words >> 16))]
    }

    #[inline(always)]
    fn splat(word: u32) -> Self::Words {
        [u32x4::splat(word); 4]
    }

    #[inline(always)]
    fn number(number: f32) -> Self::Numbers {
        [f32x4::splat(number); 4]
    }

    #[inline(always)]
    fn and(a: Self::Words, b: Self::Words) -> Self::Words {
        all!(|a, b| a & b)
    }

    #[inline(always)]
    fn or(a: Self::Words, b: Self::Words) -> Self::Words {
        all!(|a, b| a | b)
    }

    #[inline(always)]
    fn sub_bytes(a: Self::Words, b: Self::Words) -> Self::Words {
        all!(|a, b| cast(cast::<i8x16>(a) - cast::<i8x16>(b)))
    }

    #[inline(always)]
    fn shifted_right(words: Self::Words, by: u32) -> Self::Words {
        all!(|words| words >> by)
    }

    #[inline(always)]
    fn shifted_left(words: Self::Words, by: u32) -> Self::Words {
        all!(|words| words << by)
    }

    #[inline(always)]
    fn arithmetic_right(words: Self::Words, by: u32) -> Self::Words {
        all!(|words| cast(cast::<i32x4>(words) >> by))
    }

    #[inline(always)]
    fn pairs(bytes: Self::Words) -> [Self::Words; 2] {
        [all!(|bytes| bytes & u32x4::splat(0x00ff_00ff)), all!(|bytes| cast(cast::<u16x8>(bytes) >> 8))]
    }

    #[inline(always)]
    fn signed_pairs(bytes: Self::Words) -> [Self::Words; 2] {
        [all!(|bytes| cast((cast::<i16x8>(bytes) << 8) >> 8)), all!(|bytes| cast(cast::<i16x8>(bytes) >> 8))]
    }

    #[inline(always)]
    fn looked_up(values: &[i8; 16], bytes: Self::Words) -> Self::Words {
        let values = u8x16::from(values.map(|value| value as u8));
        all!(|bytes| cast(values.shuffle(cast(bytes))))
    }

    #[inline(always)]
    fn add_products(sums: Self::Words, weights: Self::Words, [a, b]: [i16; 2]) -> Self::Words {
        let x = i16x8::from([a, b, a, b, a, b, a, b]);
        all!(|sums, weights| cast(cast::<i32x4>(sums) + cast::<i16x8>(weights).dot(x)))
    }

    #[inline(always)]
    fn numbers(words: Self::Words) -> Self::Numbers {
        all!(|words| cast::<i32x4>(words).round_float())
    }

    #[inline(always)]
    fn times(a: Self::Numbers, b: Self::Numbers) -> Self::Numbers {
        all!(|a, b| a * b)
    }

    #[inline(always)]
    fn multiply_add(a: Self::Numbers, b: Self::Numbers, sum: Self::Numbers) -> Self::Numbers {
        all!(|a, b, sum| a.mul_add(b, sum))
    }

    #[inline(always)]
    fn stored(numbers: Self::Numbers) -> [f32; ROW_GROUP] {
        bytemuck::cast(numbers)
    }
}

/// Registers as others of the same size.
#[inline(always)]
fn cast<T: bytemuck::AnyBitPattern>(register: impl bytemuck::NoUninit) -> T {
    bytemuck::cast(register)
}

/// The f16 in the lower half of each lane.
#[inline(always)]
fn number_of_half(words: u32x4) -> f32x4 {
    // Where an f32 has exponent and fraction, but for the difference of the exponents' zeros, which a product makes up for: of those below
    // the normal ones too.
    let place = (words & u32x4::splat(0x7fff)) << 13;
    let number = cast::<f32x4>(place) * f32x4::splat(f32::from_bits((127 + 127 - 15) << 23));
    let infinite: u32x4 = cast(cast::<i32x4>(place).simd_gt(i32x4::splat((0x7c00 << 13) - 1)));
    let sign = (words & u32x4::splat(0x8000)) << 16;
    cast(cast::<u32x4>(number) | (infinite & u32x4::splat(0x7f80_0000)) | sign)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{Lanes, Portable, ROW_GROUP};

    #[test]
    fn every_half_is_its_number() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for bits in all.chunks_exact(ROW_GROUP) {
            let bytes: Vec<u8> = bits.iter().flat_map(|half| half.to_le_bytes()).collect();
            let got = Portable::stored(Portable::halves(bytes.as_slice().try_into().expect("sixteen")));
            for (got, &half) in got.into_iter().zip(bits) {
                let want = f16::from_bits(half).to_f32();
                assert!(
                    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                    "{half:x}: {got} {want}"
                );
            }
        }
    }
}
