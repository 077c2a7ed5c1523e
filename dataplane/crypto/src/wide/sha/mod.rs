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
//! A vector instruction has its result after two clocks, and each round waits for the one before: one set of lanes leaves
//! a third of the CPU idle. So full groups have two sets, 32 packets (16 of SHA-384 and SHA-512), and every step is done
//! for one set and the other in turn:
//!
//! ```text
//!   set 0   rotate . xor3 . add . rotate . xor3 . add        one message block of 16 packets
//!   set 1     rotate . xor3 . add . rotate . xor3 . add      of 16 more, in between
//! ```
//!
//! Core clocks for each block of a packet (64 bytes, of SHA-512 128) on a Zen 5:
//!
//! | | one packet | two | three | four | a set of lanes | two sets |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | SHA-1 | 124 | 67 | 52 | 48 | 25 | 20 |
//! | SHA-256 | 130 | 88 | 83 | 76 | 42 | 37 |
//! | SHA-512 (one packet: `sha2`, AVX2) | 620 | | | | 108 | 86 |

#![allow(unsafe_code)]
// Words, rounds and lanes are counted by constants, which the compiler sees.
#![allow(clippy::indexing_slicing)]

mod functions;
mod instructions;
mod lanes;
mod sha1;
mod sha256;
mod sha512;
#[cfg(test)]
mod vectors;
mod words;

use core::mem::MaybeUninit;

use super::Level;
use super::cpu::Bits512;
pub(super) use functions::{Sha1, Sha256, Sha512};

/// Lanes of a set at most.
const LANES: usize = 16;

/// Packets at once: two sets of lanes.
pub(super) const GROUP: usize = 2 * LANES;

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

    /// Hashes blocks of `N` sets on; lanes out of `active` are read and stay as they are.
    ///
    /// # Safety
    /// `blocks` blocks can be read at each of the first [`LANES`](Self::LANES) of each of `from`.
    unsafe fn compress<const N: usize>(
        cpu: Bits512,
        states: [&mut Self::Lanes; N],
        from: &[[*const u8; LANES]; N],
        blocks: usize,
        active: [u16; N],
    );

    /// The outer hash of `N` sets, each of inner and outer states.
    fn finish<const N: usize>(cpu: Bits512, sets: [&mut (Self::Lanes, Self::Lanes); N]);

    /// The fronts of all lanes' digests.
    fn digests(cpu: Bits512, outer: &Self::Lanes, digests: &mut [Digest]);

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
/// There are at most [`GROUP`] messages.
pub(super) fn hmac<H: Hash>(
    level: Level,
    messages: &[Message<'_, H::Word>],
    digests: &mut [Digest; GROUP],
) {
    let mut tails = [const { Tail(MaybeUninit::uninit()) }; GROUP];
    let mut blocks = [Blocks::NONE; GROUP];
    for ((blocks, message), tail) in blocks.iter_mut().zip(messages).zip(&mut tails) {
        *blocks = Blocks::new::<H>(level, message, tail);
    }
    let mut done = 0;
    while let Some(messages) = messages.get(done..).filter(|messages| !messages.is_empty()) {
        let (blocks, digests) = (&blocks[done..], &mut digests[done..]);
        // Whole sets, and the last one if it is worth it.
        let last = messages.len() % H::LANES;
        let sets = messages.len() / H::LANES + usize::from(last >= H::WORTH_LANES);
        let count = match level {
            Level::Bits512(cpu) if sets > 0 => {
                let count = messages.len().min(sets.min(2) * H::LANES);
                let (messages, blocks) = (&messages[..count], &blocks[..count]);
                if count > H::LANES {
                    in_lanes::<H, 2>(cpu, messages, blocks, digests);
                } else {
                    in_lanes::<H, 1>(cpu, messages, blocks, digests);
                }
                count
            }
            _ => {
                let count = messages.len().min(FEW);
                in_few::<H>(&messages[..count], &blocks[..count], digests);
                count
            }
        };
        done += count;
    }
}

/// Room for the end of a message: up to two blocks.
#[repr(C, align(64))]
struct Tail(MaybeUninit<[u8; 256]>);

/// Messages in the lanes of `N` sets.
fn in_lanes<H: Hash, const N: usize>(
    cpu: Bits512,
    messages: &[Message<'_, H::Word>],
    blocks: &[Blocks],
    digests: &mut [Digest],
) {
    let Some(first) = messages.first() else {
        return;
    };
    let mut sets: [(H::Lanes, H::Lanes); N] = core::array::from_fn(|n| {
        let mut keys = [first.key; LANES];
        for (key, message) in keys.iter_mut().zip(messages.iter().skip(n * H::LANES)) {
            *key = message.key;
        }
        H::keyed(cpu, &keys)
    });
    let lengths = |blocks: &Blocks| (blocks.whole, blocks.all);
    match blocks {
        [first, others @ ..] if others.iter().all(|other| lengths(other) == lengths(first)) => {
            together::<H, N>(cpu, &mut sets, blocks, first);
        }
        _ => side_by_side::<H, N>(cpu, &mut sets, blocks),
    }
    H::finish(cpu, sets.each_mut());
    for (set, digests) in sets.iter().zip(digests.chunks_mut(H::LANES)) {
        H::digests(cpu, &set.1, digests);
    }
}

/// The inner hashes of messages of one length. Lanes without a message compute that of the first.
fn together<H: Hash, const N: usize>(
    cpu: Bits512,
    sets: &mut [(H::Lanes, H::Lanes); N],
    blocks: &[Blocks],
    first: &Blocks,
) {
    let mut from = [[first.data; LANES]; N];
    let mut tails = [[first.tail; LANES]; N];
    for ((from, tails), blocks) in from.iter_mut().zip(&mut tails).zip(blocks.chunks(H::LANES)) {
        for ((from, tail), blocks) in from.iter_mut().zip(tails).zip(blocks) {
            (*from, *tail) = (blocks.data, blocks.tail);
        }
    }
    let all = [u16::MAX; N];
    // SAFETY: each message has `whole` blocks where it lies, and the others in its tail.
    unsafe {
        let inner = sets.each_mut().map(|set| &mut set.0);
        H::compress(cpu, inner, &from, first.whole, all);
        let inner = sets.each_mut().map(|set| &mut set.0);
        H::compress(cpu, inner, &tails, first.all - first.whole, all);
    }
}

/// The inner hashes of messages of any lengths.
fn side_by_side<H: Hash, const N: usize>(
    cpu: Bits512,
    sets: &mut [(H::Lanes, H::Lanes); N],
    blocks: &[Blocks],
) {
    let mut done = 0;
    // Lanes that have not ended, and have not been taken out.
    let mut live = [u16::MAX; N];
    let mut from = [[core::ptr::null(); LANES]; N];
    loop {
        let (mut run, mut any) = (usize::MAX, core::ptr::null());
        for (n, blocks) in blocks.chunks(H::LANES).enumerate() {
            let (mut active, mut most) = (0, 0);
            for (lane, blocks) in blocks.iter().enumerate() {
                if done < blocks.all {
                    let there;
                    (from[n][lane], there) = blocks.at::<H>(done);
                    run = run.min(there);
                    most = most.max(blocks.all - done);
                    any = from[n][lane];
                    active |= 1 << lane;
                }
            }
            live[n] &= active;
            if most > 2 && (live[n].count_ones() as usize) < H::WORTH_LANES {
                out_of_lanes::<H>(&mut sets[n].0, blocks, live[n], done);
                live[n] = 0;
            }
        }
        let Some(last) = live.iter().rposition(|live| *live != 0) else {
            return;
        };
        // Lanes that have ended, or never began, read along with one that is active.
        for (from, live) in from.iter_mut().zip(live) {
            for (lane, from) in from.iter_mut().enumerate() {
                if live & 1 << lane == 0 {
                    *from = any;
                }
            }
        }
        // SAFETY: each live lane has `run` blocks where it is, within its message or its tail, and so has `any`.
        unsafe {
            match (last, sets.first_mut(), from.first()) {
                (0, Some((inner, _)), Some(from)) => {
                    H::compress(cpu, [inner], std::array::from_ref(from), run, [live[0]]);
                }
                _ => H::compress(cpu, sets.each_mut().map(|set| &mut set.0), &from, run, live),
            }
        }
        done += run;
    }
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
