//! Places of counts that are 2 or more.

use core::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn take_repeated(counts: &mut [u8], out: &mut Vec<u16>) {
    if is_x86_feature_detected!("avx512vbmi2") {
        // SAFETY: the processor has what it takes.
        unsafe { take_repeated_compressed(counts, out) }
    } else {
        take_repeated_singly(counts, out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn take_repeated_singly(counts: &mut [u8], out: &mut Vec<u16>) {
    for (chunk, counts) in counts.chunks_exact_mut(64).enumerate() {
        let mut repeated = take_repeated_of(counts);
        while repeated != 0 {
            out.push((64 * chunk) as u16 + repeated.trailing_zeros() as u16);
            repeated &= repeated - 1;
        }
    }
}

/// The same without a branch for each place: whether one is repeated is a coin's toss to the processor.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2")]
fn take_repeated_compressed(counts: &mut [u8], out: &mut Vec<u16>) {
    const HALF: usize = 32;
    let numbers: [u8; 64] = std::array::from_fn(|number| number as u8);
    // SAFETY: there are 64.
    let numbers = unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) };
    // Stores are of whole registers, of which only what counts is kept.
    out.reserve(counts.len() + 2 * HALF);
    let from = out.as_mut_ptr().wrapping_add(out.len());
    let mut to = from;
    for (chunk, counts) in counts.chunks_exact_mut(64).enumerate() {
        let repeated = take_repeated_of(counts);
        let places = _mm512_maskz_compress_epi8(repeated, numbers);
        let first = _mm512_set1_epi16((64 * chunk) as i16);
        // SAFETY: no more places came before than counts, so that there is room for two registers.
        unsafe {
            let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(places));
            _mm512_storeu_si512(to.cast(), _mm512_add_epi16(first, low));
            if repeated.count_ones() as usize > HALF {
                let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(places));
                _mm512_storeu_si512(to.add(HALF).cast(), _mm512_add_epi16(first, high));
            }
            to = to.add(repeated.count_ones() as usize);
        }
    }
    // SAFETY: so many places were written from the end on.
    unsafe { out.set_len(out.len() + to.offset_from(from) as usize) };
}

/// Which of 64 counts are 2 or more; sets them to 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn take_repeated_of(counts: &mut [u8]) -> u64 {
    assert_eq!(counts.len(), 64);
    // SAFETY: there are 64 bytes.
    unsafe {
        let values = _mm512_loadu_si512(counts.as_ptr().cast());
        _mm512_storeu_si512(counts.as_mut_ptr().cast(), _mm512_setzero_si512());
        _mm512_cmpgt_epu8_mask(values, _mm512_set1_epi8(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::mix::mix64;

    #[test]
    fn repeated_places_are_the_same_with_and_without_compression_if_the_processor_has_it() {
        if !Isa::Avx512.is_available() || !is_x86_feature_detected!("avx512vbmi2") {
            println!("needs AVX-512 with VBMI2: nothing was compared");
            return;
        }
        // From no place repeated to all of them, so that a chunk has more than half a register's too.
        for most in [1, 2, 3, 4, 9] {
            let random = |place: u64| (mix64(place) % most) as u8;
            let counts: Vec<u8> = (0..32_768).map(|place| random(place) + u8::from(most == 9)).collect();
            let [mut one, mut other] = [counts.clone(), counts.clone()];
            let (mut singly, mut compressed) = (vec![7], vec![7]);
            // SAFETY: the processor has what both take.
            unsafe {
                take_repeated_singly(&mut one, &mut singly);
                take_repeated_compressed(&mut other, &mut compressed);
            }
            let expected = (0..).zip(&counts).filter(|(_, count)| **count > 1).map(|(place, _)| place);
            assert!(singly.iter().copied().eq([7].into_iter().chain(expected)));
            assert_eq!(singly, compressed);
            assert!(one.iter().chain(&other).all(|&count| count == 0));
        }
    }
}
