//! Rounding to nearest, ties to even, in code that the compiler can make vectors of. What the library has is a call for every
//! element where the platform's floor has no such instruction.

/// Added to a float below 2^22 in size, it leaves the float's rounding in the lowest bits.
pub(crate) const ROUNDING: f32 = 12_582_912.0;

/// x rounded to an integer, for |x| below 2^22.
#[inline(always)]
pub fn round(x: f32) -> i32 {
    (x + ROUNDING).to_bits() as i32 - ROUNDING.to_bits() as i32
}

/// The bits of x as bf16, for numbers that are not NaN.
#[inline(always)]
pub fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    // Half of what is cut off, less one unless the last bit that stays is odd.
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
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
