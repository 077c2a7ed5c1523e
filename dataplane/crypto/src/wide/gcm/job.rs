//! One packet for a kernel, its lengths checked.

use super::super::direction::{Direction, Parts};
use super::key::GcmKey;
use super::tables::COUNTERS;
use crate::suite::{ESP_HEADER_LEN, ESP_TRAILER_LEN};

/// Bytes of ESP header and IV.
const HEADER: usize = ESP_HEADER_LEN + 8;

/// Bytes of the longest text that a kernel takes, but for its trailer: more than a buffer of the dataplane holds, and no
/// more counters than the table has.
const LONGEST: usize = 10_200;
const _: () = assert!(LONGEST / 16 + 2 <= 4 * COUNTERS.len());

/// The key for the kernels, and the bytes of the packet.
#[inline]
pub(super) fn look<'j, D: Direction>(op: &'j D::Op<'_>) -> (Option<&'j GcmKey>, usize) {
    (D::key(op).wide.gcm(), D::length(op))
}

/// The job of an operation that a kernel takes. What none takes is done when this returns.
#[inline]
pub(super) fn admit<'j, 'o: 'j, D: Direction>(op: &'j mut D::Op<'o>) -> Option<Job<'j, D>> {
    if let (Some(key), length) = look::<D>(op)
        && text(key, length).is_some()
    {
        return Job::of(op);
    }
    D::portable(op);
    None
}

/// Bytes of the text of a packet that a kernel takes.
#[inline]
fn text(key: &GcmKey, packet: usize) -> Option<usize> {
    let text = packet.wrapping_sub(HEADER + usize::from(key.icv));
    (text.wrapping_sub(ESP_TRAILER_LEN) <= LONGEST).then_some(text)
}

/// Hashed blocks: associated data, text, lengths.
#[inline]
const fn blocks(text: usize) -> usize {
    2 + text.div_ceil(16)
}

/// See the module. Its packet is at least as long as header, trailer and ICV, and not too long for the counters.
pub(super) struct Job<'a, D: Direction> {
    pub(super) key: &'a GcmKey,
    packet: &'a mut [u8],
    seq: u64,
    text: usize,
    result: &'a mut Result<(), D::Error>,
}

impl<'a, D: Direction> Job<'a, D> {
    /// `None` for what was not admitted.
    #[inline]
    pub(super) fn of<'o: 'a>(op: &'a mut D::Op<'o>) -> Option<Self> {
        let Parts {
            key,
            seq,
            packet,
            result,
        } = D::parts(op);
        let key = key.wide.gcm()?;
        let text = text(key, packet.len())?;
        Some(Self {
            key,
            packet: &mut **packet,
            seq,
            text,
            result,
        })
    }

    /// Bytes of the text.
    #[inline]
    pub(super) const fn text(&self) -> usize {
        self.text
    }

    /// Bytes before the ICV.
    #[inline]
    pub(super) const fn covered(&self) -> usize {
        HEADER + self.text
    }

    /// Blocks that are hashed.
    #[inline]
    pub(super) const fn blocks(&self) -> usize {
        blocks(self.text)
    }

    /// Registers of four blocks that they take.
    #[inline]
    pub(super) const fn registers(&self) -> usize {
        self.blocks().div_ceil(4)
    }

    #[inline]
    pub(super) const fn start(&self) -> *const u8 {
        self.packet.as_ptr()
    }

    #[inline]
    pub(super) const fn start_mut(&mut self) -> *mut u8 {
        self.packet.as_mut_ptr()
    }

    /// What the packet ends with.
    #[inline]
    pub(super) fn icv_mut(&mut self) -> &mut [u8] {
        let covered = self.covered();
        self.packet.get_mut(covered..).unwrap_or_default()
    }

    /// The packet's number as its caller has it.
    #[inline]
    pub(super) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Says how it went. Of a packet whose ICV is wrong nothing decrypted stays.
    #[inline]
    pub(super) fn done(&mut self, good: bool) {
        if good {
            *self.result = Ok(());
        } else {
            self.forged();
        }
    }

    #[cold]
    fn forged(&mut self) {
        let covered = self.covered();
        if let Some(text) = self.packet.get_mut(HEADER..covered) {
            text.fill(0);
        }
        *self.result = Err(D::FORGED);
    }
}
