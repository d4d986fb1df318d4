//! A register of f32 lanes, as an instruction set has it: what kernels over floats are written with, once for all.

/// Intrinsics in a [`Vector`]'s functions.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($body:expr) => {{
        // SAFETY: callers have the features (`Vector`), and memory that is read or written is their promise.
        unsafe { $body }
    }};
}
#[cfg(target_arch = "x86_64")]
pub(super) use instructions;

/// What an instruction set does with a register of f32 lanes.
///
/// Its functions are for callers alone that have the instruction set's features, and are inlined into them.
pub(super) trait Vector: Copy {
    /// Lanes, a divisor of 16.
    const WIDTH: usize;

    fn splat(x: f32) -> Self;
    /// # Safety
    /// - `from` is valid for reads of a number for each lane.
    unsafe fn load(from: *const f32) -> Self;
    /// Numbers in bf16, widened.
    ///
    /// # Safety
    /// - `from` is valid for reads of a number for each lane.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// The lower numbers in bf16 of pairs, and the upper ones, widened.
    ///
    /// # Safety
    /// - `from` is valid for reads of a pair for each lane.
    unsafe fn load_pairs(from: *const u32) -> [Self; 2];
    /// # Safety
    /// - `to` is valid for writes of a number for each lane.
    unsafe fn store(self, to: *mut f32);

    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// a b + sum, rounded once or twice.
    fn multiply_add(a: Self, b: Self, sum: Self) -> Self;
    fn least(self, other: Self) -> Self;
    fn greatest(self, other: Self) -> Self;
    /// To the nearest whole numbers, of those below 2^22 in size.
    fn rounded(self) -> Self;
    /// 2^x of whole numbers from -126 to 127.
    fn power_of_two(self) -> Self;

    /// The sum of the lanes.
    fn sum(self) -> f32;
    /// The sums of several registers' lanes.
    #[inline(always)]
    fn sums<const R: usize>(registers: [Self; R]) -> [f32; R] {
        let mut sums = [0.0; R];
        for (sum, register) in sums.iter_mut().zip(registers) {
            *sum = register.sum();
        }
        sums
    }
    /// The greatest of the lanes.
    fn top(self) -> f32;
}
