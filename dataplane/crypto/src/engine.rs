//! The trait that every cipher engine implements, and the operations it takes.

use crate::key::{KeyError, KeyMaterial, SaKey};

/// Seals and opens ESP packets in place, many at a time.
///
/// A batch may mix SAs and suites. Engines work fastest when neighbours share a key, next best
/// when they share a suite: a vector of packets of one tunnel is one run.
pub trait Engine: Send + Sync {
    /// As in `--engine` and in `show`.
    fn name(&self) -> &'static str;

    /// Expands the keys of an SA. A key made by one engine works with every engine, and gives
    /// the same bytes, but may be slow with another.
    fn key(&self, material: &KeyMaterial<'_>) -> Result<SaKey, KeyError>;

    /// Writes sequence number, IV and ICV of every packet, encrypts what is between, and sets
    /// every operation's `result`.
    fn seal_batch(&self, ops: &mut [SealOp<'_>]);

    /// Verifies and decrypts every packet, and sets every operation's `result`.
    fn open_batch(&self, ops: &mut [OpenOp<'_>]);
}

/// One packet to seal.
pub struct SealOp<'a> {
    /// The SA's keys.
    pub key: &'a SaKey,
    /// The packet's number: never the same twice for a key. Its low half goes on the wire, its
    /// high half is authenticated only, and only with ESN.
    pub seq: u64,
    /// From the ESP header to the end of the room for the ICV, exactly. In place are the SPI, the
    /// payload, its padding and its trailer; the rest is overwritten.
    pub packet: &'a mut [u8],
    /// Set by the engine.
    pub result: Result<(), SealError>,
}

impl<'a> SealOp<'a> {
    /// An operation that is still to be done.
    #[inline]
    pub const fn new(key: &'a SaKey, seq: u64, packet: &'a mut [u8]) -> Self {
        Self {
            key,
            seq,
            packet,
            result: Ok(()),
        }
    }
}

/// Why a packet was not sealed. Nothing of it may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The slice has no room for header, trailer and ICV, or its ciphertext is not made of
    /// whole blocks.
    #[error("packet length does not fit the suite")]
    Length,
    /// The cipher refused (longer than it can encrypt under one nonce).
    #[error("the cipher refused the packet")]
    Cipher,
}

/// One packet to open.
pub struct OpenOp<'a> {
    /// The SA's keys.
    pub key: &'a SaKey,
    /// The packet's number with the high half as the replay window infers it; used with ESN only.
    pub seq: u64,
    /// From the ESP header to the end of the ICV, exactly. On success what
    /// [`Suite::ciphertext`](crate::Suite::ciphertext) says is plaintext and the rest is as it
    /// was. After an error of an AEAD suite its content is unspecified: the ciphertext may be
    /// gone. A CBC suite verifies first and touches nothing unless the ICV holds.
    pub packet: &'a mut [u8],
    /// Set by the engine.
    pub result: Result<(), OpenError>,
}

impl<'a> OpenOp<'a> {
    /// An operation that is still to be done.
    #[inline]
    pub const fn new(key: &'a SaKey, seq: u64, packet: &'a mut [u8]) -> Self {
        Self {
            key,
            seq,
            packet,
            result: Ok(()),
        }
    }
}

/// Why a packet was not opened. It is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The ICV is not the packet's: forged, damaged, or of another key or sequence number.
    #[error("ICV does not match")]
    BadIcv,
    /// Too short for header, IV, trailer and ICV, or not made of whole blocks.
    #[error("packet length does not fit the suite")]
    Malformed,
}
