//! A register of 128 bits: NEON's on arm64 and SSE2's on x86-64 (`wide`).

use bytemuck::cast;
use wide::{f32x4, i32x4, u16x8, u32x4, u32x8};

use crate::kernels::vector::Vector;
use crate::rounding::ROUNDING;

impl Vector for f32x4 {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        f32x4::splat(x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        f32x4::from(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<u64>().read_unaligned() };
        let [low, _]: [u32x4; 2] = cast(u32x8::from(cast::<[u64; 2], u16x8>([bits, 0])));
        cast(low << 16)
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> [Self; 2] {
        // SAFETY: the caller's promise.
        let pairs = u32x4::from(unsafe { from.cast::<[u32; 4]>().read_unaligned() });
        [cast(pairs << 16), cast(pairs & u32x4::splat(!0xffff))]
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.to_array()) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        a.mul_add(b, sum)
    }

    #[inline(always)]
    fn least(self, other: Self) -> Self {
        self.fast_min(other)
    }

    #[inline(always)]
    fn greatest(self, other: Self) -> Self {
        self.fast_max(other)
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        (self + f32x4::splat(ROUNDING)) - f32x4::splat(ROUNDING)
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        cast((self.fast_round_int() + i32x4::splat(127)) << 23)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.reduce_add()
    }

    #[inline(always)]
    fn top(self) -> f32 {
        let [a, b, c, d] = self.to_array();
        a.max(b).max(c.max(d))
    }
}
