//! The few instructions that have no safe name: prefetch and the cycle counter.
#![allow(unsafe_code)] // Intrinsics that have no memory effect.

/// Ask for the cache line at an address; any address is allowed.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn prefetch(address: *const i8) {
    // SAFETY: a prefetch is a hint; it never faults and changes no memory.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) }
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
