//! AES-CBC: encryption of many packets at once, decryption of one packet's blocks at once.
//!
//! A block of CBC needs the ciphertext of the block before it, so one packet alone uses a small part of the AES unit: one
//! block of four that fit a register, and one instruction where several could be under way. Packets do not wait for each
//! other: each has a lane of 128 bits, four share a register of 512 bits, and four registers are under way at once.
//!
//! ```text
//!            64 bytes of each packet          transposed: one block of four packets a register
//!   packet 0 | a0 | a1 | a2 | a3 |            | a0 | b0 | c0 | d0 |  --xor--> AES --+--> out
//!   packet 1 | b0 | b1 | b2 | b3 |    --->    | a1 | b1 | c1 | d1 |  --xor----------'
//!   packet 2 | c0 | c1 | c2 | c3 |            | a2 | b2 | c2 | d2 |     ...
//!   packet 3 | d0 | d1 | d2 | d3 |            | a3 | b3 | c3 | d3 |
//! ```
//!
//! Packets come in by whole loads and leave by whole stores; only the end of each is masked. Lanes are filled with packets
//! of about the same length, the longest first, so that the lanes that have ended are the last ones: whole registers of
//! them are left out, and in the register between, they are masked. That does what filling up lanes with the next packet
//! would do, without a branch for each packet and block: a vector of 256 packets has sixteen groups of neighbours in
//! length.
//!
//! Round keys are one for all lanes when packets share a key, else a table in which each lane has its own.

#![allow(unsafe_code)]
// Rounds, registers and lanes are counted by constants, which the compiler sees.
#![allow(clippy::indexing_slicing)]

mod bits256;
mod bits512;
mod round_keys;
#[cfg(test)]
mod vectors;

use core::mem::MaybeUninit;

use super::Level;
use round_keys::MOST;
pub(super) use round_keys::RoundKeys;

/// Packets at once.
pub(super) const LANES: usize = 16;

/// A block of each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Blocks(pub(super) [[u8; 16]; LANES]);

impl Blocks {
    /// All zero.
    pub(super) const ZERO: Self = Self([[0; 16]; LANES]);
}

/// The blocks of a packet, and before them its IV.
#[derive(Clone, Copy)]
pub(super) struct Text {
    /// The first block; the IV is right before it.
    pub(super) first: *mut u8,
    /// How many there are.
    pub(super) blocks: usize,
}

/// What the kernels encrypt in one go.
///
/// Promises: behind `keys` is a [`Blocks`] for each round (keys of each lane's own) or a block for each (shared), for
/// `rounds + 1` rounds. At each of `lanes` that the kernel's registers hold, `chunks` chunks of blocks can be read and
/// written and overlap with no other lane's; when masked, only `left` blocks of each chunk, at most `steps`.
struct Run<'a> {
    keys: *const u8,
    rounds: usize,
    lanes: &'a [*mut u8; LANES],
    chunks: usize,
    left: &'a [u8; LANES],
    steps: usize,
}

/// Round keys of each lane's own; wiped on drop.
#[repr(C, align(64))]
pub(super) struct OwnKeys {
    /// Those of `rounds` rounds and one more are set, for the first `lanes` lanes.
    table: [MaybeUninit<Blocks>; MOST],
    rounds: usize,
    lanes: usize,
}

impl OwnKeys {
    /// The keys of at most sixteen lanes, which all have as many rounds.
    pub(super) fn new(keys: &[&RoundKeys]) -> Self {
        // As many as the registers have that the kernels take for them.
        let lanes = match keys.len() {
            0..=4 => 4,
            5..=8 => 8,
            _ => LANES,
        };
        let mut own = Self {
            table: [const { MaybeUninit::uninit() }; MOST],
            rounds: keys.first().map_or(0, |keys| keys.rounds()),
            lanes,
        };
        for (at, round) in own.table.iter_mut().enumerate().take(own.rounds + 1) {
            let to = round.as_mut_ptr().cast::<[u8; 16]>();
            for lane in 0..lanes {
                // Lanes without a packet are computed with the others: any key will do.
                let from = keys
                    .get(lane)
                    .map_or(&[0; 16], |keys| &keys.encrypting()[at]);
                // SAFETY: one of the sixteen blocks of this round.
                unsafe { to.add(lane).write(*from) };
            }
        }
        own
    }
}

impl Drop for OwnKeys {
    fn drop(&mut self) {
        /// What four lanes of a round take.
        #[derive(Clone, Copy)]
        #[repr(C, align(64))]
        struct Quarter([u8; 64]);
        for round in self.table.iter_mut().take(self.rounds + 1) {
            let round = round.as_mut_ptr().cast::<Quarter>();
            for quarter in 0..self.lanes / 4 {
                // SAFETY: a quarter of a round, aligned as all of it; volatile, so that it is not left out.
                unsafe { round.add(quarter).write_volatile(Quarter([0; 64])) };
            }
        }
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// Round keys of a group of lanes.
#[derive(Clone, Copy)]
pub(super) enum Keys<'a> {
    /// All lanes have the same.
    Shared(&'a RoundKeys),
    /// Each lane has its own.
    Own(&'a OwnKeys),
}

impl Keys<'_> {
    const fn parts(self) -> (*const u8, usize, bool) {
        match self {
            Self::Shared(keys) => (keys.encrypting().as_ptr().cast(), keys.rounds(), false),
            Self::Own(keys) => (keys.table.as_ptr().cast(), keys.rounds, true),
        }
    }
}

/// Encrypts a block of each of the first `lanes` lanes under a shared key.
pub(super) fn encrypt_each(level: Level, keys: &RoundKeys, lanes: usize, blocks: &mut Blocks) {
    let (rounds, keys) = (keys.rounds(), keys.encrypting().as_ptr().cast());
    // SAFETY: the level is a proof that the CPU has the instructions; there is a block for each round.
    unsafe {
        match (level, lanes <= 4) {
            (Level::Bits512(_), true) => bits512::encrypt_each::<1>(keys, rounds, blocks),
            (Level::Bits512(_), false) => bits512::encrypt_each::<4>(keys, rounds, blocks),
            (Level::Bits256(_), true) => bits256::encrypt_each::<2>(keys, rounds, blocks),
            (Level::Bits256(_), false) => bits256::encrypt_each::<8>(keys, rounds, blocks),
        }
    }
}

/// Encrypts each text under the IV that `chain` has for its lane; the longest comes first, all have a block at least.
///
/// # Safety
/// There are at most sixteen; each one's blocks can be read and written and overlap with no other's.
pub(super) unsafe fn encrypt(level: Level, keys: Keys<'_>, texts: &[Text], chain: &mut Blocks) {
    let (Some(longest), Some(shortest)) = (texts.first(), texts.last()) else {
        return;
    };
    let (keys, rounds, own) = keys.parts();
    let chunk = match level {
        Level::Bits512(_) => bits512::CHUNK,
        Level::Bits256(_) => bits256::CHUNK,
    };
    let mut lanes = [longest.first; LANES];
    let mut left = [0; LANES];
    let (mut done, mut active, mut shortest) = (0, texts.len(), shortest.blocks);
    loop {
        // Whole chunks of all that are active, then one in which some end.
        let whole = (shortest - done) / chunk;
        let chunks = whole.max(1);
        let mut steps = 0;
        for ((lane, left), text) in lanes.iter_mut().zip(&mut left).zip(&texts[..active]) {
            let blocks = (text.blocks - done).min(chunk);
            *lane = text.first.wrapping_add(16 * done);
            *left = blocks as u8;
            steps = steps.max(blocks);
        }
        let run = Run {
            keys,
            rounds,
            lanes: &lanes,
            chunks,
            left: &left,
            steps,
        };
        // SAFETY: the level is a proof that the CPU has the instructions. For active lanes the texts are as the caller
        // promises; of others nothing is left.
        unsafe { encrypt_run(level, own, active, whole > 0, &run, chain) };
        done += chunks * chunk;
        while active > 0 && texts[active - 1].blocks <= done {
            active -= 1;
            lanes[active] = longest.first;
            left[active] = 0;
        }
        match active.checked_sub(1) {
            Some(last) => shortest = texts[last].blocks,
            None => return,
        }
    }
}

/// Picks the kernel for `active` lanes, all of whose chunks may be `whole`.
///
/// # Safety
/// As the kernels ask.
unsafe fn encrypt_run(
    level: Level,
    own: bool,
    active: usize,
    whole: bool,
    run: &Run<'_>,
    chain: &mut Blocks,
) {
    macro_rules! kernel {
        ($bits:ident, $registers:literal, $lanes:literal) => {
            match (own, whole && active == $lanes) {
                (false, true) => $bits::encrypt::<$registers, false, false>(run, chain),
                (false, false) => $bits::encrypt::<$registers, false, true>(run, chain),
                (true, true) => $bits::encrypt::<$registers, true, false>(run, chain),
                (true, false) => $bits::encrypt::<$registers, true, true>(run, chain),
            }
        };
    }
    // SAFETY: as the caller promises.
    unsafe {
        match (level, active) {
            (Level::Bits512(_), 0..=4) => kernel!(bits512, 1, 4),
            (Level::Bits512(_), 5..=8) => kernel!(bits512, 2, 8),
            (Level::Bits512(_), 9..=12) => kernel!(bits512, 3, 12),
            (Level::Bits512(_), _) => kernel!(bits512, 4, 16),
            (Level::Bits256(_), 0..=2) => kernel!(bits256, 1, 2),
            (Level::Bits256(_), 3..=4) => kernel!(bits256, 2, 4),
            (Level::Bits256(_), 5..=8) => kernel!(bits256, 4, 8),
            (Level::Bits256(_), _) => kernel!(bits256, 8, 16),
        }
    }
}

/// Decrypts texts of one key.
///
/// # Safety
/// Each one's blocks and the IV before them can be read and written and overlap with no other's.
pub(super) unsafe fn decrypt(level: Level, keys: &RoundKeys, texts: &[Text]) {
    // SAFETY: the level is a proof that the CPU has the instructions; texts as the caller promises.
    unsafe {
        match level {
            Level::Bits512(_) => bits512::decrypt(keys, texts),
            Level::Bits256(_) => bits256::decrypt(keys, texts),
        }
    }
}
