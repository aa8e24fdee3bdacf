//! The few instructions that have no safe name: prefetch, comparing several words at once, and the cycle
//! counter.
#![allow(unsafe_code)] // Intrinsics that write no memory.

/// Ask the processor for the cache line at `value`.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: a prefetch is a hint; it never faults and changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Which of the words are `value`, as bits.
#[inline(always)]
pub fn equal(words: &[u32; 8], value: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32,
            _mm_set1_epi32,
        };
        let ([low, high], []) = words.as_chunks::<4>() else { return 0 };
        // SAFETY: both loads read the 16 bytes of a whole array, wherever it lies; x86-64 always has SSE2.
        unsafe {
            let value = _mm_set1_epi32(value as i32);
            let low = _mm_cmpeq_epi32(_mm_loadu_si128(low.as_ptr().cast()), value);
            let high = _mm_cmpeq_epi32(_mm_loadu_si128(high.as_ptr().cast()), value);
            let both = _mm_packs_epi32(low, high);
            _mm_movemask_epi8(_mm_packs_epi16(both, both)) as u32 & 0xff
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    words.iter().enumerate().fold(0, |map, (i, w)| map | u32::from(*w == value) << i)
}

/// Cycles of the processor's constant-rate counter.
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter; x86-64 always has it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::time::Instant;
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn all_words_are_compared() {
        let words = [7, 0, u32::MAX, 7, 1 << 31, 0x7fff_ffff, 9, 7];
        assert_eq!(equal(&words, 7), 0b1000_1001);
        assert_eq!(equal(&words, u32::MAX), 0b100);
        assert_eq!(equal(&words, 1 << 31), 0b1_0000);
        assert_eq!(equal(&words, 0x7fff_ffff), 0b10_0000);
        assert_eq!(equal(&words, 9), 0b100_0000);
        assert_eq!(equal(&words, 8), 0);
    }
}
