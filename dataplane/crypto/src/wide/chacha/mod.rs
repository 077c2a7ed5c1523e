//! ChaCha20-Poly1305 for ESP (RFC 7634), in 512-bit registers.
//!
//! ```text
//!   batch, any order  ->  sorted by length  ->  groups of 16: a packet a lane
//!
//!   blocks of key stream   |  0: Poly1305's key  |  1  |  2   |  3   | ...
//!   hashed meanwhile       |                     | SPI | text | text | ...  text, lengths
//! ```
//!
//! ChaCha20 works on words of 32 bits: a register has one word of sixteen packets. Its first block is Poly1305's key, which
//! so lies in lanes already and never leaves the registers. While the next 64 bytes of key stream are made, those before
//! are hashed: one kind of work waits for additions, the other for products.
//!
//! A packet takes 0.21, 0.39 and 0.43 of the clocks of ring's seal at 64, 512 and 1400 bytes (112, 348 and 781 against 526,
//! 889 and 1824). Those too few to fill the lanes go to the portable engine. So does everything in 256-bit registers:
//! there are half as many, and no multiplication of 52 bits, while ring's own code has them full with one packet.

mod bits512;
mod poly1305;

use zeroize::Zeroize;

use super::direction::{Direction, Parts};
use super::{Level, WideKey, cpu};
use crate::key::{KeyMaterial, Salt};
use crate::mac::same_icv;
use crate::suite::{ESP_HEADER_LEN, ESP_TRAILER_LEN};

/// Packets at once.
const LANES: usize = 16;

/// Bytes of ESP header and IV.
const HEADER: usize = ESP_HEADER_LEN + 8;

/// Bytes of the ICV.
const ICV: usize = 16;

/// What the kernel needs of an SA's keys. Wiped on drop.
#[repr(C, align(64))]
pub(crate) struct ChaChaKey {
    /// The first state of a packet but for its IV (RFC 8439 section 2.3): constants, key, counter, salt, room for the IV.
    state: [u32; 16],
    esn: bool,
    /// Proof that the kernel may run.
    cpu: cpu::Bits512,
}

impl ChaChaKey {
    /// `None` if there is no kernel for this level, or the key has another length.
    pub(super) fn new(level: Level, material: &KeyMaterial<'_>) -> Option<Box<Self>> {
        let Level::Bits512(cpu) = level else {
            return None;
        };
        let (key, salt) = Salt::split(material.encryption)?;
        let mut this = Box::new(Self {
            state: [
                0x6170_7865,
                0x3320_646e,
                0x7962_2d32,
                0x6b20_6574,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                salt.in_memory(),
                0,
                0,
            ],
            esn: material.esn,
            cpu,
        });
        let (words, []) = key.as_chunks::<4>() else {
            return None;
        };
        let to = this.state.get_mut(4..12)?;
        if words.len() != to.len() {
            return None;
        }
        for (to, word) in to.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*word);
        }
        Some(this)
    }
}

impl Drop for ChaChaKey {
    fn drop(&mut self) {
        self.state.zeroize();
    }
}

impl zeroize::ZeroizeOnDrop for ChaChaKey {}

/// A packet of a group, as long as header, trailer and ICV at least.
struct Job<'a> {
    key: &'a ChaChaKey,
    packet: &'a mut [u8],
    /// The IV as it stands in memory.
    iv: u64,
    /// The associated data as Poly1305 takes it, and its bytes.
    associated: [u64; 2],
    associated_bytes: u64,
    /// Bytes of the text.
    text: usize,
}

impl<'a> Job<'a> {
    /// Writes the header of a packet to seal. `None` if it is too short.
    #[inline]
    fn new<const OPEN: bool>(key: &'a ChaChaKey, seq: u64, packet: &'a mut [u8]) -> Option<Self> {
        let text = text(packet.len())?;
        let header: &mut [u8; HEADER] = packet.first_chunk_mut()?;
        if !OPEN {
            // The IV is the sequence number, as in the portable engine.
            let [spi @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *header;
            let number = u128::from(u32::from_be_bytes(spi)) << 96
                | u128::from(seq as u32) << 64
                | u128::from(seq);
            *header = number.to_be_bytes();
        }
        let number = u128::from_le_bytes(*header);
        let (first, iv) = (number as u64, (number >> 64) as u64);
        let (associated, associated_bytes) = if key.esn {
            // SPI, high half, low half.
            let high = u64::from(((seq >> 32) as u32).swap_bytes());
            ([first & 0xffff_ffff | high << 32, first >> 32], 12)
        } else {
            ([first, 0], 8)
        };
        Some(Self {
            key,
            packet,
            iv,
            associated,
            associated_bytes,
            text,
        })
    }
}

/// Bytes of the text of a packet; `None` if it is too short.
#[inline]
fn text(packet: usize) -> Option<usize> {
    packet
        .checked_sub(HEADER + ICV)
        .filter(|text| *text >= ESP_TRAILER_LEN)
}

/// Works through a run of packets and sets all results.
pub(super) fn run<D: Direction>(ops: &mut [&mut D::Op<'_>]) {
    let longest_first = |op: &&mut D::Op<'_>| std::cmp::Reverse(D::length(op));
    if !ops.is_sorted_by_key(longest_first) {
        ops.sort_unstable_by_key(longest_first);
    }
    for ops in ops.chunks_mut(LANES) {
        if worth_it::<D>(ops) {
            group::<D>(ops);
        } else {
            for op in ops {
                D::portable(op);
            }
        }
    }
}

/// Whether the kernel takes less time for a group than the portable engine, and can take it.
///
/// Measured, in what ring takes for 64 bytes more: a packet costs ring 5 and its blocks, a group costs 11 and 8 for each
/// block of its longest packet, however many it has. So four packets of 64 bytes are worth it, and seven of 1400.
#[inline]
fn worth_it<D: Direction>(ops: &[&mut D::Op<'_>]) -> bool {
    let blocks = |op: &D::Op<'_>| D::length(op) / 64;
    let longest = ops.first().map_or(0, |op| blocks(op));
    // The shortest is the last.
    let shortest = ops.last().map_or(0, |op| D::length(op));
    text(shortest).is_some()
        && ops.iter().map(|op| 5 + blocks(op)).sum::<usize>() > 11 + 8 * longest
}

/// Up to as many packets as there are lanes.
#[inline]
fn group<D: Direction>(ops: &mut [&mut D::Op<'_>]) {
    let mut jobs: arrayvec::ArrayVec<Job<'_>, LANES> = arrayvec::ArrayVec::new();
    let mut results: arrayvec::ArrayVec<&mut Result<(), D::Error>, LANES> =
        arrayvec::ArrayVec::new();
    for op in ops {
        let Parts {
            key,
            seq,
            packet,
            result,
        } = D::parts(op);
        let job = match &key.wide {
            WideKey::ChaCha(key) if D::OPEN => Job::new::<true>(key, seq, packet),
            WideKey::ChaCha(key) => Job::new::<false>(key, seq, packet),
            _ => None,
        };
        if let Some(job) = job {
            jobs.push(job);
            results.push(result);
        } else {
            *result = Err(D::MALFORMED);
        }
    }
    let Some(cpu) = jobs.first().map(|job| job.key.cpu) else {
        return;
    };
    let tags = if D::OPEN {
        bits512::run::<true>(cpu, &mut jobs)
    } else {
        bits512::run::<false>(cpu, &mut jobs)
    };
    for ((job, tag), result) in jobs.iter_mut().zip(&tags).zip(results) {
        let Some((front, icv)) = job.packet.split_last_chunk_mut::<ICV>() else {
            continue;
        };
        *result = Ok(());
        if !D::OPEN {
            *icv = *tag;
        } else if !same_icv(icv, tag) {
            // Of a packet whose ICV is wrong nothing decrypted stays.
            front.get_mut(HEADER..).unwrap_or_default().fill(0);
            *result = Err(D::FORGED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_wiped_on_drop() {
        const fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<ChaChaKey>();
    }

    #[test]
    fn states_are_aligned_as_the_kernel_loads_them() {
        assert_eq!(std::mem::offset_of!(ChaChaKey, state), 0);
        assert_eq!(align_of::<ChaChaKey>(), 64);
    }
}
