//! Sealing and opening as one: what kernels that work both ways are generic over.

use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::SaKey;

/// Which way a kernel works.
pub(super) trait Direction: Sized {
    /// Ciphertext comes in.
    const OPEN: bool;
    /// What a batch is made of.
    type Op<'o>;
    /// Why a packet is refused.
    type Error: Copy;
    /// The ICV is wrong.
    const FORGED: Self::Error;
    /// No packet of the suite is as long as this.
    const MALFORMED: Self::Error;

    /// The SA's keys.
    fn key<'j>(op: &'j Self::Op<'_>) -> &'j SaKey;
    /// Bytes of the packet.
    fn length(op: &Self::Op<'_>) -> usize;
    /// The operation without its type.
    fn parts<'j, 'o>(op: &'j mut Self::Op<'o>) -> Parts<'j, 'o, Self>;
    /// Leaves it to the portable engine.
    fn portable(op: &mut Self::Op<'_>);
}

/// See [`SealOp`] and [`OpenOp`].
pub(super) struct Parts<'j, 'o, D: Direction> {
    pub(super) key: &'o SaKey,
    pub(super) seq: u64,
    /// Where the operation has it: a kernel may take it away and put it back.
    #[allow(clippy::mut_mut)]
    pub(super) packet: &'j mut &'o mut [u8],
    pub(super) result: &'j mut Result<(), D::Error>,
}

/// Encryption.
pub(super) struct Seal;

/// Decryption.
pub(super) struct Open;

macro_rules! direction {
    ($name:ident, $op:ident, $error:ident, $method:ident, $open:literal, $forged:ident, $malformed:ident) => {
        impl Direction for $name {
            const OPEN: bool = $open;
            type Op<'o> = $op<'o>;
            type Error = $error;
            const FORGED: $error = $error::$forged;
            const MALFORMED: $error = $error::$malformed;

            #[inline]
            fn key<'j>(op: &'j $op<'_>) -> &'j SaKey {
                op.key
            }

            #[inline]
            fn length(op: &$op<'_>) -> usize {
                op.packet.len()
            }

            #[inline]
            fn parts<'j, 'o>(op: &'j mut Self::Op<'o>) -> Parts<'j, 'o, Self> {
                Parts {
                    key: op.key,
                    seq: op.seq,
                    packet: &mut op.packet,
                    result: &mut op.result,
                }
            }

            fn portable(op: &mut $op<'_>) {
                op.result = op.key.portable.$method(op);
            }
        }
    };
}

direction!(Seal, SealOp, SealError, seal, false, Cipher, Length);
direction!(Open, OpenOp, OpenError, open, true, BadIcv, Malformed);
