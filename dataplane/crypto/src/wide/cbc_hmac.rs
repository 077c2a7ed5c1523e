//! Suites of a cipher and an HMAC: AES-CBC, AES-CTR or no encryption, and any of the four HMACs.
//!
//! ```text
//!   batch, any order  -> sorted by steps and length -> groups of 32
//!
//!   seal a group:  IVs  ->  CBC of 16 and 16, a packet a lane  ->  HMAC, a packet a lane  ->  ICVs
//!   open a group:  HMAC, a packet a lane  ->  ICVs compared  ->  CBC, a packet's blocks at once, of what is genuine
//! ```
//!
//! The packets of a group are in the first cache together, and are neighbours in length. Packets of a group may have
//! different keys: the hash takes its states from each packet's key anyway, the cipher then has a table of round keys.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cbc::{self, Blocks, Keys, LANES, OwnKeys, RoundKeys, Text};
use super::direction::{Direction, Parts};
use super::sha::{self, Digest, GROUP, Message, Sha1, Sha256, Sha512};
use super::{BATCH, Level, WideKey};
use crate::key::KeyMaterial;
use crate::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, Mac as _, same_icv};
use crate::portable::{self, Keystream};
use crate::suite::{Cipher, ESP_HEADER_LEN, ESP_TRAILER_LEN, Integrity};

/// Bytes of a block, and of the IV.
const BLOCK: usize = 16;

/// Bytes of the IV of AES-CTR (RFC 3686 section 2.1).
const COUNTER_IV: usize = 8;

/// What the kernels need of an SA's keys; wiped on drop.
pub(crate) struct Key {
    cipher: KeyCipher,
    mac: KeyMac,
    icv: usize,
    esn: bool,
    /// Equal where the same steps are.
    class: u8,
}

// It is always within a box.
#[allow(clippy::large_enum_variant)]
enum KeyCipher {
    Cbc(CbcKeys),
    /// The portable engine's: counters do not wait for each other, and its `aes` has the widest registers, too.
    Ctr(Box<dyn Keystream>),
    /// Nothing is encrypted.
    Clear,
}

/// Those of AES-CBC.
struct CbcKeys {
    text: RoundKeys,
    iv: RoundKeys,
}

/// States after the inner and the outer pad.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) enum KeyMac {
    Sha1([u32; 16]),
    Sha256([u32; 16]),
    Sha384([u64; 16]),
    Sha512([u64; 16]),
}

impl Key {
    /// `None`: these kernels have nothing for the suite.
    pub(super) fn new(
        level: Level,
        material: &KeyMaterial<'_>,
        iv_key: Option<&[u8; 16]>,
    ) -> Option<Self> {
        let (mac, hash) = match material.suite.integrity() {
            Integrity::HmacSha1_96 => {
                (KeyMac::Sha1(HmacSha1::new(material.integrity)?.states()), 0)
            }
            Integrity::HmacSha2_256_128 => (
                KeyMac::Sha256(HmacSha256::new(material.integrity)?.states()),
                1,
            ),
            Integrity::HmacSha2_384_192 => (
                KeyMac::Sha384(HmacSha384::new(material.integrity)?.states()),
                2,
            ),
            Integrity::HmacSha2_512_256 => (
                KeyMac::Sha512(HmacSha512::new(material.integrity)?.states()),
                3,
            ),
            Integrity::Aead => return None,
        };
        let (cipher, steps) = match (material.suite.cipher(), iv_key) {
            (Cipher::AesCbc(_), Some(iv_key)) => {
                let text = RoundKeys::expand(level, material.encryption)?;
                let iv = RoundKeys::expand(level, iv_key)?;
                let rounds = text.rounds() as u8;
                (KeyCipher::Cbc(CbcKeys { text, iv }), rounds)
            }
            (Cipher::AesCtr(_), _) => (KeyCipher::Ctr(portable::keystream(material)?), 1),
            (Cipher::Null, _) => (KeyCipher::Clear, 0),
            _ => return None,
        };
        Some(Self {
            cipher,
            mac,
            icv: material.suite.icv_len(),
            esn: material.esn,
            class: steps << 2 | hash,
        })
    }

    /// What the ICV covers of a packet of `length` bytes; `None` when it is too short or not made of blocks.
    #[inline]
    fn covered(&self, length: usize) -> Option<usize> {
        let covered = length.checked_sub(self.icv)?;
        let fits = match self.cipher {
            KeyCipher::Cbc(_) => {
                covered > ESP_HEADER_LEN + BLOCK && (covered - ESP_HEADER_LEN).is_multiple_of(BLOCK)
            }
            KeyCipher::Ctr(_) => covered >= ESP_HEADER_LEN + COUNTER_IV + ESP_TRAILER_LEN,
            KeyCipher::Clear => covered >= ESP_HEADER_LEN + ESP_TRAILER_LEN,
        };
        fits.then_some(covered)
    }

    /// Those of AES-CBC.
    #[inline]
    const fn cbc(&self) -> Option<&CbcKeys> {
        match &self.cipher {
            KeyCipher::Cbc(keys) => Some(keys),
            _ => None,
        }
    }
}

/// A packet of a group. Its slice is borrowed for as long as the batch is.
struct Job<'a> {
    key: &'a Key,
    packet: &'a mut [u8],
    covered: usize,
    seq: u64,
    /// Which of the operations.
    op: usize,
}

impl<'a> Job<'a> {
    /// The packet is borrowed out of its operation until the group is done.
    #[inline]
    fn new(key: &'a Key, packet: &'a mut [u8], seq: u64, op: usize) -> Self {
        Self {
            key,
            covered: packet.len().saturating_sub(key.icv),
            packet,
            seq,
            op,
        }
    }

    /// The blocks behind the IV.
    #[inline]
    fn text(&mut self) -> Text {
        Text {
            first: self
                .packet
                .as_mut_ptr()
                .wrapping_add(ESP_HEADER_LEN + BLOCK),
            blocks: self.covered.saturating_sub(ESP_HEADER_LEN + BLOCK) / BLOCK,
        }
    }

    /// The IV of AES-CTR.
    #[inline]
    fn counter_iv(&mut self) -> Option<&mut [u8; COUNTER_IV]> {
        self.packet
            .get_mut(ESP_HEADER_LEN..)
            .and_then(<[u8]>::first_chunk_mut)
    }

    /// Encrypts or decrypts by the IV that is in the packet.
    #[inline]
    fn apply_keystream(&mut self) {
        let iv = self.counter_iv().map_or(0, |iv| u64::from_be_bytes(*iv));
        if let (KeyCipher::Ctr(stream), Some(text)) = (
            &self.key.cipher,
            self.packet
                .get_mut(ESP_HEADER_LEN + COUNTER_IV..self.covered),
        ) {
            stream.apply(iv, text);
        }
    }

    #[inline]
    fn message<'m, W>(&'m self, key: &'m [W; 16]) -> Message<'m, W> {
        let [high @ .., _, _, _, _] = self.seq.to_be_bytes();
        Message {
            data: self.packet.get(..self.covered).unwrap_or_default(),
            high: self.key.esn.then_some(high),
            key,
        }
    }
}

/// Places of the operations: sorted by class, the longest first.
///
/// An entry is class, length the other way round, and place, so that numbers sort as they should.
struct Order(ArrayVec<u64, BATCH>);

impl Order {
    fn new() -> Self {
        Self(ArrayVec::new())
    }

    #[inline]
    fn push(&mut self, class: u8, covered: usize, op: usize) {
        let entry = u64::from(class) << 56 | (!(covered as u64) & 0xffff_ffff) << 16 | op as u64;
        // There is room for as many as a batch has operations.
        let _ = self.0.try_push(entry);
    }

    /// Packets of one length and class are sorted already.
    #[inline]
    fn sort(&mut self) {
        if !self.0.is_sorted() {
            self.0.sort_unstable();
        }
    }

    /// Up to [`GROUP`] of the same steps each.
    fn groups(&self) -> impl Iterator<Item = &[u64]> {
        self.0
            .chunk_by(|left, right| left >> 56 == right >> 56)
            .flat_map(|run| run.chunks(GROUP))
    }

    const fn op(entry: u64) -> usize {
        entry as usize & 0xffff
    }
}

/// Works through packets of these suites; there are at most [`BATCH`].
pub(super) fn run<D: Direction>(level: Level, ops: &mut [&mut D::Op<'_>]) {
    if let [op] = ops {
        // Nothing to share registers with: the least that is around the cipher counts.
        D::portable(op);
        return;
    }
    let mut order = Order::new();
    for (at, op) in ops.iter_mut().enumerate() {
        let Parts {
            key,
            packet,
            result,
            ..
        } = D::parts(op);
        let WideKey::Hmac(key) = &key.wide else {
            continue;
        };
        *result = match key.covered(packet.len()) {
            Some(covered) => {
                order.push(key.class, covered, at);
                Ok(())
            }
            None => Err(D::MALFORMED),
        };
    }
    order.sort();
    for group in order.groups() {
        let mut jobs: ArrayVec<Job<'_>, GROUP> = ArrayVec::new();
        for at in group.iter().copied().map(Order::op) {
            let Some(op) = ops.get_mut(at) else { continue };
            let Parts {
                key, seq, packet, ..
            } = D::parts(op);
            if let WideKey::Hmac(key) = &key.wide {
                jobs.push(Job::new(key, std::mem::take(packet), seq, at));
            }
        }
        let genuine = if D::OPEN {
            open_group(level, &mut jobs)
        } else {
            seal_group(level, &mut jobs);
            u32::MAX
        };
        for (lane, job) in jobs.into_iter().enumerate() {
            let Some(op) = ops.get_mut(job.op) else {
                continue;
            };
            let Parts { packet, result, .. } = D::parts(op);
            *packet = job.packet;
            if genuine & 1 << lane == 0 {
                *result = Err(D::FORGED);
            }
        }
    }
}

fn seal_group(level: Level, jobs: &mut [Job<'_>]) {
    for job in &mut *jobs {
        if let Some((header, _)) = job.packet.split_first_chunk_mut::<ESP_HEADER_LEN>()
            && let Some(to) = header.last_chunk_mut::<4>()
        {
            *to = (job.seq as u32).to_be_bytes();
        }
    }
    match jobs.first().map(|job| &job.key.cipher) {
        Some(KeyCipher::Cbc(_)) => {
            for jobs in jobs.chunks_mut(LANES) {
                encrypt_group(level, jobs);
            }
        }
        Some(KeyCipher::Ctr(_)) => {
            for job in &mut *jobs {
                // The IV is the sequence number, as in the portable engine.
                let iv = job.seq.to_be_bytes();
                if let Some(to) = job.counter_iv() {
                    *to = iv;
                }
                job.apply_keystream();
            }
        }
        Some(KeyCipher::Clear) | None => {}
    }
    let mut digests = [[0; 32]; GROUP];
    digest_group(level, jobs, &mut digests);
    match jobs.first().map_or(0, |job| job.key.icv) {
        12 => write_icvs::<12>(jobs, &digests),
        16 => write_icvs::<16>(jobs, &digests),
        24 => write_icvs::<24>(jobs, &digests),
        _ => write_icvs::<32>(jobs, &digests),
    }
}

/// Which of the packets, by lane, are genuine: only those are decrypted.
fn open_group(level: Level, jobs: &mut [Job<'_>]) -> u32 {
    let mut digests = [[0; 32]; GROUP];
    digest_group(level, jobs, &mut digests);
    let genuine = match jobs.first().map_or(0, |job| job.key.icv) {
        12 => genuine::<12>(jobs, &digests),
        16 => genuine::<16>(jobs, &digests),
        24 => genuine::<24>(jobs, &digests),
        _ => genuine::<32>(jobs, &digests),
    };
    let is_genuine = |lane: usize| genuine & 1 << lane != 0;
    match jobs.first().map(|job| &job.key.cipher) {
        Some(KeyCipher::Cbc(_)) => {
            let mut texts: ArrayVec<Text, GROUP> = ArrayVec::new();
            let mut lane = 0;
            for run in jobs.chunk_by_mut(|left, right| std::ptr::eq(left.key, right.key)) {
                let keys = run.first().and_then(|job| job.key.cbc());
                texts.clear();
                for job in run {
                    if is_genuine(lane) {
                        texts.push(job.text());
                    }
                    lane += 1;
                }
                if let Some(keys) = keys {
                    // SAFETY: each text is the part behind the IV of a packet of its own.
                    unsafe { cbc::decrypt(level, &keys.text, &texts) };
                }
            }
        }
        Some(KeyCipher::Ctr(_)) => {
            for (lane, job) in jobs.iter_mut().enumerate() {
                if is_genuine(lane) {
                    job.apply_keystream();
                }
            }
        }
        Some(KeyCipher::Clear) | None => {}
    }
    genuine
}

/// Writes ICVs of a length that the compiler sees.
fn write_icvs<const ICV: usize>(jobs: &mut [Job<'_>], digests: &[Digest; GROUP]) {
    for (job, digest) in jobs.iter_mut().zip(digests) {
        if let (Some(icv), Some(digest)) = (
            job.packet.last_chunk_mut::<ICV>(),
            digest.first_chunk::<ICV>(),
        ) {
            *icv = *digest;
        }
    }
}

/// Whose ICVs of a length that the compiler sees are right, by lane.
fn genuine<const ICV: usize>(jobs: &[Job<'_>], digests: &[Digest; GROUP]) -> u32 {
    let mut genuine = 0;
    for (lane, (job, digest)) in jobs.iter().zip(digests).enumerate() {
        if let (Some(icv), Some(digest)) =
            (job.packet.last_chunk::<ICV>(), digest.first_chunk::<ICV>())
        {
            genuine |= u32::from(same_icv(icv, digest)) << lane;
        }
    }
    genuine
}

/// Writes IVs and encrypts, where the suite does.
fn encrypt_group(level: Level, jobs: &mut [Job<'_>]) {
    let Some(first) = jobs.first() else { return };
    let Some(keys) = first.key.cbc() else { return };
    // The IV is the sequence number encrypted under a key of its own, as in the portable engine.
    let mut chain = Blocks::ZERO;
    for (block, job) in chain.0.iter_mut().zip(&*jobs) {
        *block = u128::from(job.seq).to_be_bytes();
    }
    let own;
    let keys = if jobs.iter().all(|job| std::ptr::eq(job.key, first.key)) {
        cbc::encrypt_each(level, &keys.iv, jobs.len(), &mut chain);
        Keys::Shared(&keys.text)
    } else {
        let mut texts: ArrayVec<&RoundKeys, LANES> = ArrayVec::new();
        for (block, job) in chain.0.iter_mut().zip(&*jobs) {
            if let Some(keys) = job.key.cbc() {
                keys.iv.encrypt_block(level, block);
                texts.push(&keys.text);
            }
        }
        own = OwnKeys::new(&texts);
        Keys::Own(&own)
    };
    let mut texts: ArrayVec<Text, LANES> = ArrayVec::new();
    for (job, iv) in jobs.iter_mut().zip(&chain.0) {
        if let Some(to) = job.packet.get_mut(ESP_HEADER_LEN..ESP_HEADER_LEN + BLOCK) {
            to.copy_from_slice(iv);
        }
        texts.push(job.text());
    }
    // SAFETY: each text is the part behind the IV of a packet of its own; there are as many as lanes at most, and none is
    // empty.
    unsafe { cbc::encrypt(level, keys, &texts, &mut chain) };
}

/// Computes what the ICVs are the front of.
fn digest_group(level: Level, jobs: &[Job<'_>], digests: &mut [Digest; GROUP]) {
    macro_rules! digest {
        ($mac:ident, $hash:ty) => {{
            let mut messages: ArrayVec<Message<'_, _>, GROUP> = ArrayVec::new();
            for job in jobs {
                if let KeyMac::$mac(key) = &job.key.mac {
                    messages.push(job.message(key));
                }
            }
            sha::hmac::<$hash>(level, &messages, digests);
        }};
    }
    match jobs.first().map(|job| &job.key.mac) {
        Some(KeyMac::Sha1(_)) => digest!(Sha1, Sha1),
        Some(KeyMac::Sha256(_)) => digest!(Sha256, Sha256),
        Some(KeyMac::Sha384(_)) => digest!(Sha384, Sha512<6>),
        Some(KeyMac::Sha512(_)) => digest!(Sha512, Sha512<8>),
        None => {}
    }
}
