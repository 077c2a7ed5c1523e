//! Constants of the kernels.

/// Blocks of GCM counters, in place: the first block of a packet has counter 1 (NIST SP 800-38D section 7.1), whatever
/// its nonce.
pub(super) static COUNTERS: [Counters; 160] = counters();

/// Four blocks that are zero but for their counters.
#[repr(C, align(64))]
pub(super) struct Counters([[u32; 4]; 4]);

const fn counters() -> [Counters; 160] {
    let mut all = [const { Counters([[0; 4]; 4]) }; 160];
    let mut at = 0;
    while at < 4 * all.len() {
        all[at / 4].0[at % 4][3] = (at as u32 + 1).to_be();
        at += 1;
    }
    all
}
