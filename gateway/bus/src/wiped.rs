//! Received bytes on their way into typed messages.

use bytes::Bytes;
use nng::Message;
use prost::DecodeError;
use zeroize::Zeroize;

/// Bytes that are overwritten when they are dropped, if they may hold a secret.
///
/// prost copies a field of bytes out of a slice twice, and frees the first copy as it is; out of `Bytes` it copies
/// once, into the message.
pub(crate) struct Wiped {
    bytes: Bytes,
    wipe: bool,
}

impl Wiped {
    pub(crate) fn new(bytes: Vec<u8>, wipe: bool) -> Self {
        Self {
            bytes: bytes.into(),
            wipe,
        }
    }

    /// Takes over what a message holds; of the message itself nothing is left.
    pub(crate) fn from_message(mut message: Message, wipe: bool) -> Self {
        let bytes = message.as_slice().to_vec();
        if wipe {
            message.as_mut_slice().zeroize();
        }
        Self::new(bytes, wipe)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn decode<M: prost::Message + Default>(&self) -> Result<M, DecodeError> {
        M::decode(self.bytes.clone())
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if self.wipe {
            // No message of the bus keeps a part of them: they are shared with nobody.
            if let Ok(mut bytes) = std::mem::take(&mut self.bytes).try_into_mut() {
                bytes.as_mut().zeroize();
            }
        }
    }
}
