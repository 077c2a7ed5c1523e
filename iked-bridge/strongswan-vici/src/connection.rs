//! One Unix stream connection to charon, in whole packets.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroize;

use crate::error::ViciError;
use crate::packet::{Incoming, Outgoing};

/// Longest packet of VICI, in bytes, without the length before it.
pub const MAX_FRAME: usize = 512 * 1024;

const HEADER: usize = 4;

/// Room made for a read; most packets are smaller.
const READ_STEP: usize = 8 * 1024;

pub(crate) struct Connection {
    stream: UnixStream,
    /// What was read of a packet that is not whole yet. Kept here and not in a future, so that an abandoned
    /// [`Self::receive`] loses nothing.
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(path: &Path) -> Result<Self, ViciError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(ViciError::Connect)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Whether an idle connection is still good: open, and nothing unread on it.
    pub(crate) fn is_idle(&self) -> bool {
        // The kernel is asked, not the runtime, which may not have looked at the socket since charon died.
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit(); 1]);
        self.buffer.is_empty()
            && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes a packet. Not to be abandoned half-way: the rest of the packet would be missing.
    pub(crate) async fn send(&mut self, packet: &Outgoing<'_>) -> Result<(), ViciError> {
        let frame = packet.frame(MAX_FRAME)?;
        self.stream
            .write_all(&frame)
            .await
            .map_err(closed_or_failed)
    }

    /// The next packet. May be abandoned and called again.
    pub(crate) async fn receive(&mut self) -> Result<Incoming, ViciError> {
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(packet);
            }
            if self.buffer.capacity() - self.buffer.len() < READ_STEP {
                let mut larger =
                    Vec::with_capacity((self.buffer.capacity() * 2).max(2 * READ_STEP));
                larger.extend_from_slice(&self.buffer);
                self.buffer.zeroize();
                self.buffer = larger;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(ViciError::Closed),
                Ok(_) => {}
                Err(error) => return Err(closed_or_failed(error)),
            }
        }
    }

    fn take_packet(&mut self) -> Result<Option<Incoming>, ViciError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(ViciError::TooLong(length));
        }
        let end = HEADER + length;
        let Some(body) = self.buffer.get(HEADER..end) else {
            return Ok(None);
        };
        let packet = Incoming::decode(body);
        let left = self.buffer.len() - end;
        self.buffer.copy_within(end.., 0);
        self.buffer.truncate(left);
        Ok(Some(packet?))
    }
}

/// charon's death is seen as an end of the stream, or as a reset or broken pipe when it had not read all of ours.
fn closed_or_failed(error: io::Error) -> ViciError {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => ViciError::Closed,
        _ => ViciError::Io(error),
    }
}
