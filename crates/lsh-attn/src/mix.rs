//! A counter-based generator: the n-th number of a stream is a pure function of (seed, n), so results do not
//! depend on threads or on the order of work.

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014), a bijection of 64 bits.
#[inline]
pub fn mix64(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seed for a part of the work, named by `index`, independent of its siblings.
#[inline]
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    mix64(mix64(seed) ^ index.wrapping_mul(0xD605_1C5C_9A1B_6F4D))
}

/// `count` numbers, roughly normal (the sum of four uniforms), by `seed`.
pub fn normals(seed: u64, count: usize) -> Vec<f32> {
    let normal = |index: usize| {
        let bits = mix64(derive_seed(seed, index as u64));
        let sum: f32 = (0..4).map(|part| ((bits >> (16 * part)) & 0xFFFF) as f32 / 65_536.0 - 0.5).sum();
        sum * 1.732
    };
    (0..count).map(normal).collect()
}
