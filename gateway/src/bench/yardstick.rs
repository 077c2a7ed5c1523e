//! What the same cipher costs without a graph, over the same buffers in the same order.

use std::ops::Range;

use arrayvec::ArrayVec;
use culvert_crypto::{Cipher, Engine, KeyBits, OpenOp, Portable, SaKey, SealOp};
use culvert_dataplane::buffer::{BufferPool, HEADROOM, Packet};
use culvert_dataplane::clock;
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::graph::VECTOR;
use culvert_net::Protocol;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag,
    UnboundKey,
};

use super::scene::Protection;
use super::traffic;

/// Does its work on a vector of packets as the generator has written them; gives the clocks that it took, without
/// preparations that the graph would do elsewhere. `None`: it failed.
pub trait Yardstick {
    /// See the trait.
    fn run(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> Option<u64>;
    /// As in the table.
    fn name(&self) -> &'static str;
}

/// ring's own algorithm for a cipher, where it has one.
fn algorithm(cipher: Cipher) -> Option<&'static Algorithm> {
    match cipher {
        Cipher::AesGcm16(KeyBits::B128) => Some(&AES_128_GCM),
        Cipher::AesGcm16(KeyBits::B256) => Some(&AES_256_GCM),
        Cipher::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
        _ => None,
    }
}

fn ring_key(protection: &Protection) -> Option<(LessSafeKey, [u8; 4])> {
    let algorithm = algorithm(protection.suite.cipher())?;
    let (key, salt) = protection.encryption.split_last_chunk()?;
    Some((
        LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?),
        *salt,
    ))
}

/// The yardstick for encryption with this protection: ring's own seal, else the portable engine's. Of each packet
/// `length` bytes from `skip` on.
pub fn seal(protection: &Protection, skip: usize, length: usize) -> Option<Box<dyn Yardstick>> {
    if let Some((key, _)) = ring_key(protection) {
        return Some(Box::new(RingSeal {
            key,
            text: skip..skip + length,
            number: 0,
            tags: vec![[0; 16]; VECTOR],
        }));
    }
    Some(Box::new(PortableSeal {
        key: protection.key(&Portable, false).ok()?,
        length,
        number: 0,
    }))
}

/// The yardstick for decryption with this protection: ring's own open, else the portable engine's. Outer headers are
/// `skip` bytes.
pub fn open(protection: &Protection, esn: bool, skip: usize) -> Option<Box<dyn Yardstick>> {
    if let Some((key, salt)) = ring_key(protection) {
        return Some(Box::new(RingOpen {
            key,
            salt,
            skip,
            esn,
        }));
    }
    Some(Box::new(PortableOpen {
        key: protection.key(&Portable, esn).ok()?,
        skip,
    }))
}

/// The yardstick for forwarding: a step a packet along a chain through a table of `bytes` bytes, each step to another
/// cache line and each known only when the one before it is done.
pub fn chase(bytes: usize) -> Box<dyn Yardstick> {
    /// Words of a cache line.
    const LINE: usize = 16;
    let lines = (bytes / (LINE * 4)).max(1);
    // A random order of all lines, and each leads to the next one: no cycle is shorter (Sattolo's).
    let mut order: Vec<u32> = (0..lines as u32).collect();
    let mut random = Random::new(bytes as u64);
    for last in (1..lines).rev() {
        order.swap(last, random.below(last as u64) as usize);
    }
    let mut table = vec![0; lines * LINE];
    let firsts = table.iter_mut().step_by(LINE);
    for (to, next) in firsts.zip(order) {
        *to = next * LINE as u32;
    }
    Box::new(Chase { table, at: 0 })
}

/// See [`chase`].
struct Chase {
    table: Vec<u32>,
    at: u32,
}

impl Yardstick for Chase {
    fn run(&mut self, _: &BufferPool, packets: &mut [Packet]) -> Option<u64> {
        let before = clock::clocks();
        for _ in packets {
            self.at = *self.table.get(self.at as usize)?;
        }
        std::hint::black_box(self.at);
        Some(clock::clocks().wrapping_sub(before))
    }

    fn name(&self) -> &'static str {
        "pointer chase"
    }
}

/// ring's seal in place with a separate tag and eight bytes of associated data.
struct RingSeal {
    key: LessSafeKey,
    text: Range<usize>,
    number: u64,
    tags: Vec<[u8; 16]>,
}

impl Yardstick for RingSeal {
    fn run(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> Option<u64> {
        let before = clock::clocks();
        for (packet, to) in packets.iter_mut().zip(&mut self.tags) {
            self.number += 1;
            let mut nonce = [0; 12];
            *nonce.last_chunk_mut()? = self.number.to_be_bytes();
            let associated = Aad::from(self.number.to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let text = buffers.data_mut(packet).get_mut(self.text.clone())?;
            match &self.key.seal_in_place_separate_tag(nonce, associated, text) {
                Ok(tag) => to.copy_from_slice(tag.as_ref()),
                Err(_) => return None,
            }
        }
        Some(clock::clocks().wrapping_sub(before))
    }

    fn name(&self) -> &'static str {
        "ring seal"
    }
}

/// ring's open in place of ESP packets: the bytes between IV and ICV.
struct RingOpen {
    key: LessSafeKey,
    salt: [u8; 4],
    skip: usize,
    esn: bool,
}

impl Yardstick for RingOpen {
    fn run(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> Option<u64> {
        let before = clock::clocks();
        for packet in packets {
            let esp = buffers.data_mut(packet).get_mut(self.skip..)?;
            let (header, rest) = esp.split_first_chunk_mut::<8>()?;
            let (iv, rest) = rest.split_first_chunk_mut::<8>()?;
            let (text, tag) = rest.split_last_chunk_mut::<16>()?;
            let mut nonce = [0; 12];
            *nonce.first_chunk_mut()? = self.salt;
            *nonce.last_chunk_mut()? = *iv;
            let (nonce, tag) = (Nonce::assume_unique_for_key(nonce), Tag::from(*tag));
            let key = &self.key;
            if self.esn {
                // The high half of the sequence number, which is zero, stands in the middle.
                let mut associated = [0; 12];
                *associated.first_chunk_mut()? = *header.first_chunk::<4>()?;
                *associated.last_chunk_mut()? = *header.last_chunk::<4>()?;
                let associated = Aad::from(associated);
                key.open_in_place_separate_tag(nonce, associated, tag, text, 0..)
                    .ok()?;
            } else {
                key.open_in_place_separate_tag(nonce, Aad::from(*header), tag, text, 0..)
                    .ok()?;
            }
        }
        Some(clock::clocks().wrapping_sub(before))
    }

    fn name(&self) -> &'static str {
        "ring open"
    }
}

/// The portable engine's batch.
struct PortableSeal {
    key: SaKey,
    length: usize,
    number: u64,
}

impl Yardstick for PortableSeal {
    fn run(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> Option<u64> {
        let suite = self.key.suite();
        let mut ops = ArrayVec::<SealOp<'_>, VECTOR>::new();
        for packet in packets.iter_mut().take(VECTOR) {
            self.number += 1;
            let (_, area) = buffers.area_mut(packet);
            let start = HEADROOM - suite.header_len();
            let esp = area.get_mut(start..start + suite.sealed_len(self.length))?;
            traffic::lay_out(&self.key, 1 << 20, Protocol::IPV4, self.length, esp, |_| {})?;
            ops.push(SealOp::new(&self.key, self.number, esp));
        }
        let before = clock::clocks();
        Portable.seal_batch(&mut ops);
        let clocks = clock::clocks().wrapping_sub(before);
        ops.iter().all(|op| op.result.is_ok()).then_some(clocks)
    }

    fn name(&self) -> &'static str {
        "portable seal"
    }
}

/// The portable engine's batch.
struct PortableOpen {
    key: SaKey,
    skip: usize,
}

impl Yardstick for PortableOpen {
    fn run(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> Option<u64> {
        let mut ops = ArrayVec::<OpenOp<'_>, VECTOR>::new();
        for packet in packets.iter_mut().take(VECTOR) {
            let esp = buffers.data_mut(packet).get_mut(self.skip..)?;
            ops.push(OpenOp::new(&self.key, 0, esp));
        }
        let before = clock::clocks();
        Portable.open_batch(&mut ops);
        let clocks = clock::clocks().wrapping_sub(before);
        ops.iter().all(|op| op.result.is_ok()).then_some(clocks)
    }

    fn name(&self) -> &'static str {
        "portable open"
    }
}
