//! Asks the processor for memory ahead of its use.
//!
//! Of thousands of tunnels each packet may need another one, and what they need lies behind several pointers. The nodes of
//! IPsec know which SAs a vector is going to use, so they walk these pointers for later packets while they work on
//! earlier ones: the misses of a vector overlap instead of adding up.
#![allow(unsafe_code)]

/// Bytes that come at once.
const LINE: usize = 64;

/// Asks for the first line of what `value` refers to.
#[inline(always)]
pub fn line<T: ?Sized>(value: &T) {
    line_at(std::ptr::from_ref(value).cast());
}

/// Asks for all lines of what `value` refers to.
#[inline(always)]
pub fn whole<T: ?Sized>(value: &T) {
    let first: *const u8 = std::ptr::from_ref(value).cast();
    for offset in (0..size_of_val(value)).step_by(LINE) {
        line_at(first.wrapping_add(offset));
    }
}

/// Asks for the line of an address, whatever is there.
#[inline(always)]
pub fn line_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches nothing that the program can see, and no address makes it fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
