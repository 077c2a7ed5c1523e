//! HMAC of many packets at once: a packet a lane of AVX-512 registers, or some packets through SHA instructions.
//!
//! ```text
//!              whole blocks, where they lie             tail        outer
//!   packet 0  | block | block | block | block | block | rest+len | digest |
//!   packet 1  | block | block | block | block | block | rest+len | digest |   16 lanes (8 of SHA-384 and SHA-512)
//!     ...                                                                     go from left to right together
//!   packet 15 | block | block | block | rest+len |....:....:.....| digest |
//!                                                 lane is masked
//! ```
//!
//! Packets come sorted by length, so that lanes end at about the same time, and the digests of the inner hash, which are
//! in lanes already, are the message of the outer hash without being moved. When only some lanes are left, or there were
//! only some packets, the SHA instructions take over where the lanes stopped: a full set of lanes costs as much as eight
//! packets there.
//!
//! Clocks for each block of a packet (64 bytes, of SHA-512 128) on a Zen 5, 2.6 GHz TSC:
//!
//! | | one packet | two | three | four | lanes, full |
//! | --- | --- | --- | --- | --- | --- |
//! | SHA-1 | 77 | 43 | 34 | 30 | 14.6 |
//! | SHA-256 | 80 | 56 | 52 | 47 | 28 |
//! | SHA-512 (`sha2`, AVX2) | 390 | | | | 70 |

#![allow(unsafe_code)]
// Words, rounds and lanes are counted by constants, which the compiler sees.
#![allow(clippy::indexing_slicing)]

mod instructions;
mod lanes;
mod sha1;
mod sha256;
mod sha512;

use core::mem::MaybeUninit;

use super::Level;
use super::cpu::Bits512;
use lanes::{Lanes8, Lanes16};

/// Packets at once.
pub(super) const LANES: usize = 16;

/// Digests as far as an ICV needs them.
pub(super) type Digest = [u8; 32];

/// Packets whose blocks one call of `few` takes on.
const FEW: usize = 4;

/// A hash function of the SHA family, as HMAC uses it.
pub(super) trait Hash: Sized {
    /// Of the state.
    type Word: Copy + Default + 'static;
    /// States in lanes.
    type Lanes;
    /// Bytes of a block.
    const BLOCK: usize;
    /// Words of a digest.
    const WORDS: usize;
    /// How many lanes there are.
    const LANES: usize;
    /// From how many packets on lanes cost less than SHA instructions.
    const WORTH_LANES: usize;

    /// The states of the keys, inner and outer.
    fn keyed(cpu: Bits512, keys: &[&[Self::Word; 16]; LANES]) -> (Self::Lanes, Self::Lanes);

    /// Hashes blocks on; lanes out of `active` are read and stay as they are.
    ///
    /// # Safety
    /// `blocks` blocks can be read at each of the first [`LANES`](Self::LANES) of `from`.
    unsafe fn compress(
        cpu: Bits512,
        states: &mut Self::Lanes,
        from: &[*const u8; LANES],
        blocks: usize,
        active: u16,
    );

    /// The outer hash.
    fn finish(cpu: Bits512, inner: &Self::Lanes, outer: &mut Self::Lanes, digests: &mut [Digest]);

    /// One lane's state.
    fn lane(states: &Self::Lanes, lane: usize) -> [Self::Word; 8];

    /// Puts one lane's state back.
    fn set_lane(states: &mut Self::Lanes, lane: usize, state: [Self::Word; 8]);

    /// Hashes blocks of at most [`FEW`] messages on.
    ///
    /// # Safety
    /// `blocks` blocks can be read at each of `from` that has a state.
    unsafe fn few(states: &mut [[Self::Word; 8]], from: &[*const u8; FEW], blocks: usize);

    /// The words' bytes, the highest of each first.
    fn bytes(state: &[Self::Word; 8]) -> [u8; 64];
}

/// What an HMAC is made of.
#[derive(Clone, Copy)]
pub(super) struct Message<'a, W> {
    /// The data.
    pub(super) data: &'a [u8],
    /// What is authenticated behind it: the high half of the sequence number with ESN.
    pub(super) high: Option<[u8; 4]>,
    /// The states after the inner and the outer pad, each in eight words.
    pub(super) key: &'a [W; 16],
}

/// The blocks of a message: first those where it lies, then its end with padding and length.
#[derive(Clone, Copy)]
struct Blocks {
    data: *const u8,
    whole: usize,
    tail: *const u8,
    all: usize,
}

impl Blocks {
    /// Nothing.
    const NONE: Self = Self {
        data: core::ptr::null(),
        whole: 0,
        tail: core::ptr::null(),
        all: 0,
    };

    /// Those of a message; its end is written to `tail`.
    #[inline]
    fn new<H: Hash>(level: Level, message: &Message<'_, H::Word>, tail: &mut Tail) -> Self {
        let block = H::BLOCK;
        let whole = message.data.len() / block;
        let rest = &message.data[whole * block..];
        // What follows the data: the high half with ESN, then a one bit.
        let (suffix, more) = match message.high {
            Some([a, b, c, d]) => (u64::from_ne_bytes([a, b, c, d, 0x80, 0, 0, 0]), 4),
            None => (0x80_u64.to_le(), 0),
        };
        // The length takes the last eighth of the last block.
        let blocks = (rest.len() + more + 1 + block / 8).div_ceil(block);
        let bits = (block + message.data.len() + more) as u64 * 8;
        let (length, to) = (blocks * block, tail.0.as_mut_ptr().cast::<u8>());
        // SAFETY: what is written are the `length` bytes of at most two blocks, of which there is room, and at most eight
        // behind the rest, which is shorter than a block. The level is a proof that the CPU has the instructions.
        unsafe {
            match level {
                Level::Bits512(_) => lanes::copy_padded(rest, to, length),
                Level::Bits256(_) => {
                    to.write_bytes(0, length);
                    to.copy_from_nonoverlapping(rest.as_ptr(), rest.len());
                }
            }
            to.add(rest.len()).cast::<u64>().write_unaligned(suffix);
            to.add(length - 8)
                .cast::<u64>()
                .write_unaligned(bits.to_be());
        }
        Self {
            data: message.data.as_ptr(),
            whole,
            tail: to,
            all: whole + blocks,
        }
    }

    /// Where block `at` is, and how many are there from it on.
    #[inline]
    fn at<H: Hash>(&self, at: usize) -> (*const u8, usize) {
        if at < self.whole {
            (self.data.wrapping_add(at * H::BLOCK), self.whole - at)
        } else {
            (
                self.tail.wrapping_add((at - self.whole) * H::BLOCK),
                self.all - at,
            )
        }
    }
}

/// Computes the HMAC of each message. Sorted by length they cost the least.
///
/// There are at most [`LANES`] messages.
pub(super) fn hmac<H: Hash>(
    level: Level,
    messages: &[Message<'_, H::Word>],
    digests: &mut [Digest; LANES],
) {
    let mut tails = [const { Tail(MaybeUninit::uninit()) }; LANES];
    let mut blocks = [Blocks::NONE; LANES];
    for ((blocks, message), tail) in blocks.iter_mut().zip(messages).zip(&mut tails) {
        *blocks = Blocks::new::<H>(level, message, tail);
    }
    let blocks = &blocks[..messages.len().min(LANES)];
    match level {
        Level::Bits512(cpu) if messages.len() >= H::WORTH_LANES => {
            for ((messages, blocks), digests) in messages
                .chunks(H::LANES)
                .zip(blocks.chunks(H::LANES))
                .zip(digests.chunks_mut(H::LANES))
            {
                in_lanes::<H>(cpu, messages, blocks, digests);
            }
        }
        _ => {
            for ((messages, blocks), digests) in messages
                .chunks(FEW)
                .zip(blocks.chunks(FEW))
                .zip(digests.chunks_mut(FEW))
            {
                in_few::<H>(messages, blocks, digests);
            }
        }
    }
}

/// Room for the end of a message: up to two blocks.
#[repr(C, align(64))]
struct Tail(MaybeUninit<[u8; 256]>);

/// Messages in the lanes of registers.
fn in_lanes<H: Hash>(
    cpu: Bits512,
    messages: &[Message<'_, H::Word>],
    blocks: &[Blocks],
    digests: &mut [Digest],
) {
    let Some(first) = messages.first() else {
        return;
    };
    let mut keys = [first.key; LANES];
    for (key, message) in keys.iter_mut().zip(messages) {
        *key = message.key;
    }
    let (mut inner, mut outer) = H::keyed(cpu, &keys);
    let mut done = 0;
    let mut from = [core::ptr::null(); LANES];
    loop {
        let (mut active, mut run, mut any) = (0u16, usize::MAX, core::ptr::null());
        for ((lane, blocks), from) in blocks.iter().enumerate().zip(&mut from) {
            if done < blocks.all {
                let (at, there) = blocks.at::<H>(done);
                (*from, any) = (at, at);
                run = run.min(there);
                active |= 1 << lane;
            }
        }
        let left = active.count_ones() as usize;
        if left == 0 {
            break;
        }
        if left < H::WORTH_LANES && run > 2 {
            out_of_lanes::<H>(&mut inner, blocks, active, done);
            break;
        }
        // Lanes that have ended, or never began, read along with one that is active.
        for (lane, from) in from.iter_mut().enumerate() {
            if active & 1 << lane == 0 {
                *from = any;
            }
        }
        // SAFETY: each active lane has `run` blocks where it is, within its message or its tail.
        unsafe { H::compress(cpu, &mut inner, &from, run, active) };
        done += run;
    }
    H::finish(cpu, &inner, &mut outer, digests);
}

/// Finishes the inner hashes of some lanes by the SHA instructions.
fn out_of_lanes<H: Hash>(inner: &mut H::Lanes, blocks: &[Blocks], active: u16, done: usize) {
    let mut left = active;
    while left != 0 {
        let (mut states, mut some) = ([[H::Word::default(); 8]; FEW], [Blocks::NONE; FEW]);
        let mut lanes = [0; FEW];
        let mut count = 0;
        while left != 0 && count < FEW {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            (lanes[count], some[count]) = (lane, blocks[lane]);
            states[count] = H::lane(inner, lane);
            count += 1;
        }
        few_blocks::<H>(&mut states[..count], &some[..count], done);
        for (lane, state) in lanes.iter().zip(states).take(count) {
            H::set_lane(inner, *lane, state);
        }
    }
}

/// At most [`FEW`] messages.
fn in_few<H: Hash>(messages: &[Message<'_, H::Word>], blocks: &[Blocks], digests: &mut [Digest]) {
    let (mut inner, mut outer) = (
        [[H::Word::default(); 8]; FEW],
        [[H::Word::default(); 8]; FEW],
    );
    for ((message, inner), outer) in messages.iter().zip(&mut inner).zip(&mut outer) {
        if let ([first, second], _) = message.key.as_chunks::<8>() {
            (*inner, *outer) = (*first, *second);
        }
    }
    let count = messages.len().min(FEW);
    few_blocks::<H>(&mut inner[..count], blocks, 0);
    let mut last = [[0; 128]; FEW];
    let digest = H::WORDS * size_of::<H::Word>();
    for (last, inner) in last.iter_mut().zip(&inner) {
        last[..digest].copy_from_slice(&H::bytes(inner)[..digest]);
        last[digest] = 0x80;
        let bits = (H::BLOCK + digest) as u64 * 8;
        last[H::BLOCK - 8..H::BLOCK].copy_from_slice(&bits.to_be_bytes());
    }
    let from = last.each_ref().map(|last| last.as_ptr());
    // SAFETY: a block is at most 128 bytes long.
    unsafe { H::few(&mut outer[..count], &from, 1) };
    for (digest, outer) in digests.iter_mut().zip(&outer) {
        digest.copy_from_slice(&H::bytes(outer)[..32]);
    }
}

/// Hashes at most [`FEW`] messages on from block `done` to their ends.
fn few_blocks<H: Hash>(states: &mut [[H::Word; 8]], blocks: &[Blocks], mut done: usize) {
    let mut order = [0, 1, 2, 3];
    let mut packed = [[H::Word::default(); 8]; FEW];
    packed[..states.len()].copy_from_slice(states);
    let mut active = states.len();
    loop {
        // Messages that have ended go behind the others.
        let mut at = 0;
        while at < active {
            if blocks[order[at]].all > done {
                at += 1;
            } else {
                active -= 1;
                order.swap(at, active);
                packed.swap(at, active);
            }
        }
        if active == 0 {
            break;
        }
        let mut from = [core::ptr::null(); FEW];
        let mut run = usize::MAX;
        for (from, order) in from.iter_mut().zip(&order[..active]) {
            let there;
            (*from, there) = blocks[*order].at::<H>(done);
            run = run.min(there);
        }
        // SAFETY: each active message has `run` blocks where it is, within its data or its tail.
        unsafe { H::few(&mut packed[..active], &from, run) };
        done += run;
    }
    for (order, packed) in order.iter().zip(packed).take(states.len()) {
        states[*order] = packed;
    }
}

macro_rules! hash_32 {
    ($(#[$doc:meta])* $name:ident, $words:literal, $worth:literal, $lanes:ident, $few:ident, $portable:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Hash for $name {
            type Word = u32;
            type Lanes = Lanes16;
            const BLOCK: usize = 64;
            const WORDS: usize = $words;
            const LANES: usize = 16;
            const WORTH_LANES: usize = $worth;

            #[inline]
            fn keyed(_: Bits512, keys: &[&[u32; 16]; LANES]) -> (Lanes16, Lanes16) {
                // SAFETY: there is a proof that the CPU has the instructions.
                unsafe { Lanes16::of_keys(keys) }
            }

            #[inline]
            unsafe fn compress(_: Bits512, states: &mut Lanes16, from: &[*const u8; LANES], blocks: usize, active: u16) {
                // SAFETY: there is a proof that the CPU has the instructions; pointers as the caller promises.
                unsafe { $lanes::compress(states, from, blocks, active) };
            }

            #[inline]
            fn finish(_: Bits512, inner: &Lanes16, outer: &mut Lanes16, digests: &mut [Digest]) {
                // SAFETY: there is a proof that the CPU has the instructions.
                unsafe {
                    $lanes::finish(inner, outer);
                    outer.digests(digests);
                }
            }

            fn lane(states: &Lanes16, lane: usize) -> [u32; 8] {
                states.0.map(|word| word[lane])
            }

            fn set_lane(states: &mut Lanes16, lane: usize, state: [u32; 8]) {
                for (words, word) in states.0.iter_mut().zip(state) {
                    words[lane] = word;
                }
            }

            #[inline]
            unsafe fn few(states: &mut [[u32; 8]], from: &[*const u8; FEW], blocks: usize) {
                if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
                    let [one, two, three, four] = *from;
                    // SAFETY: the CPU has the instructions; pointers as the caller promises.
                    unsafe {
                        match states {
                            [a] => instructions::$few([a], [one], blocks),
                            [a, b] => instructions::$few([a, b], [one, two], blocks),
                            [a, b, c] => instructions::$few([a, b, c], [one, two, three], blocks),
                            [a, b, c, d] => instructions::$few([a, b, c, d], [one, two, three, four], blocks),
                            _ => {}
                        }
                    }
                } else {
                    for (state, from) in states.iter_mut().zip(from) {
                        // SAFETY: as the caller promises; bytes have no alignment.
                        let blocks = unsafe { core::slice::from_raw_parts(from.cast::<[u8; 64]>(), blocks) };
                        $portable(state, blocks);
                    }
                }
            }

            #[inline]
            fn bytes(state: &[u32; 8]) -> [u8; 64] {
                let mut bytes = [0; 64];
                for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
                    *to = word.to_be_bytes();
                }
                bytes
            }
        }
    };
}

hash_32!(
    /// SHA-1.
    Sha1,
    5,
    8,
    sha1,
    sha1,
    |state: &mut [u32; 8], blocks: &[[u8; 64]]| {
        if let Some(state) = state.first_chunk_mut() {
            ::sha1::block_api::compress(state, blocks);
        }
    }
);
hash_32!(
    /// SHA-256.
    Sha256,
    8,
    9,
    sha256,
    sha256,
    ::sha2::block_api::compress256
);

/// SHA-384 (`WORDS` is 6) and SHA-512 (8).
pub(super) struct Sha512<const WORDS: usize>;

impl<const WORDS: usize> Hash for Sha512<WORDS> {
    type Word = u64;
    type Lanes = Lanes8;
    const BLOCK: usize = 128;
    const WORDS: usize = WORDS;
    const LANES: usize = 8;
    const WORTH_LANES: usize = 2;

    #[inline]
    fn keyed(_: Bits512, keys: &[&[u64; 16]; LANES]) -> (Lanes8, Lanes8) {
        let [a, b, c, d, e, f, g, h, ..] = *keys;
        // SAFETY: there is a proof that the CPU has the instructions.
        unsafe { Lanes8::of_keys(&[a, b, c, d, e, f, g, h]) }
    }

    #[inline]
    unsafe fn compress(
        _: Bits512,
        states: &mut Lanes8,
        from: &[*const u8; LANES],
        blocks: usize,
        active: u16,
    ) {
        if let Some(from) = from.first_chunk() {
            // SAFETY: there is a proof that the CPU has the instructions; pointers as the caller promises.
            unsafe { sha512::compress(states, from, blocks, active as u8) };
        }
    }

    #[inline]
    fn finish(_: Bits512, inner: &Lanes8, outer: &mut Lanes8, digests: &mut [Digest]) {
        // SAFETY: there is a proof that the CPU has the instructions.
        unsafe {
            sha512::finish::<WORDS>(inner, outer);
            outer.digests(digests);
        }
    }

    fn lane(states: &Lanes8, lane: usize) -> [u64; 8] {
        states.0.map(|word| word[lane])
    }

    fn set_lane(states: &mut Lanes8, lane: usize, state: [u64; 8]) {
        for (words, word) in states.0.iter_mut().zip(state) {
            words[lane] = word;
        }
    }

    unsafe fn few(states: &mut [[u64; 8]], from: &[*const u8; FEW], blocks: usize) {
        for (state, from) in states.iter_mut().zip(from) {
            // SAFETY: as the caller promises; bytes have no alignment.
            let blocks = unsafe { core::slice::from_raw_parts(from.cast::<[u8; 128]>(), blocks) };
            ::sha2::block_api::compress512(state, blocks);
        }
    }

    fn bytes(state: &[u64; 8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
            *to = word.to_be_bytes();
        }
        bytes
    }
}
