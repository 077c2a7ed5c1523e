//! Framing: a `u32` length in network order, then a protobuf message.
//!
//! [`read_frame`] and [`write_frame`] are for a blocking socket (the plugin), [`encode`] and [`FrameDecoder`] for an
//! asynchronous one (the bridge). Every buffer that may hold a key is wiped.

use std::io::{self, Read, Write};

use prost::Message;
use zeroize::{Zeroize, Zeroizing};

/// Longest message, in bytes, without its length. An SA with 255 selectors each way, which is what one IKE payload can
/// carry (RFC 7296 section 3.13), takes about 25 KiB.
pub const MAX_FRAME: usize = 64 * 1024;

/// Bytes of the length before a message.
pub const HEADER: usize = 4;

/// What goes wrong on the socket.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other end closed the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The socket failed, or closed inside a message.
    #[error("the socket failed")]
    Io(#[from] io::Error),
    /// A message announces or has more than [`MAX_FRAME`] bytes.
    #[error("a message of {0} bytes, more than {MAX_FRAME}")]
    TooLong(usize),
    /// The bytes are not the message they should be.
    #[error("a message that does not decode")]
    Decode(#[from] prost::DecodeError),
}

/// Encodes one message with its length before it.
pub fn encode<M: Message>(message: &M) -> Result<Zeroizing<Vec<u8>>, WireError> {
    let length = message.encoded_len();
    let header = u32::try_from(length).map_err(|_| WireError::TooLong(length))?;
    if length > MAX_FRAME {
        return Err(WireError::TooLong(length));
    }
    // Allocated once at its full size: a growing buffer would leave copies of keys behind.
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER + length));
    frame.extend_from_slice(&header.to_be_bytes());
    message.encode_raw(&mut *frame);
    Ok(frame)
}

/// How many bytes follow this header.
pub fn body_length(header: [u8; HEADER]) -> Result<usize, WireError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(WireError::TooLong(length));
    }
    Ok(length)
}

/// Decodes the bytes that followed a header.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, WireError> {
    Ok(M::decode(body)?)
}

/// Reads one message from a blocking stream; [`WireError::Closed`] when it ended between two messages.
pub fn read_frame<M: Message + Default>(stream: &mut impl Read) -> Result<M, WireError> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Err(WireError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut body = Zeroizing::new(vec![0; body_length(header)?]);
    stream.read_exact(&mut body)?;
    decode(&body)
}

/// Writes one message to a blocking stream and wipes the encoded bytes.
pub fn write_frame<M: Message>(stream: &mut impl Write, message: &M) -> Result<(), WireError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Cuts a stream of bytes, as it arrives, into messages.
///
/// After an error the stream has lost its framing: drop the connection.
#[derive(Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
}

impl FrameDecoder {
    /// Takes what arrived. Never holds more than was pushed and not yet taken out by [`Self::next_message`].
    pub fn push(&mut self, bytes: &[u8]) {
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            let mut larger = Vec::with_capacity(needed.next_power_of_two());
            larger.extend_from_slice(&self.buffer);
            self.buffer.zeroize();
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes arrive.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, WireError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let end = HEADER + body_length(*header)?;
        let Some(body) = self.buffer.get(HEADER..end) else {
            return Ok(None);
        };
        let message = decode(body);
        let left = self.buffer.len() - end;
        self.buffer.copy_within(end.., 0);
        if let Some(stale) = self.buffer.get_mut(left..) {
            stale.zeroize();
        }
        self.buffer.truncate(left);
        message.map(Some)
    }
}

impl Drop for FrameDecoder {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::{AddSa, Answer, Call, Host, SaId, SaKeys, Selector, Spi, ToBridge, ToPlugin};

    fn add_sa(key: &[u8], selectors: usize) -> ToBridge {
        let host = |text: &str| Host::from(text.parse::<SocketAddr>().unwrap());
        let selector = Selector::addresses("::".parse().unwrap(), "ffff::".parse().unwrap());
        ToBridge {
            id: 7,
            call: Some(Call::AddSa(AddSa {
                id: Some(SaId {
                    src: Some(host("[2001:db8::1]:4500")),
                    dst: Some(host("192.0.2.1:500")),
                    spi: 0xc000_0001,
                    protocol: 50,
                    ..SaId::default()
                }),
                keys: Some(SaKeys {
                    encryption: key.to_vec(),
                    integrity: key.to_vec(),
                }),
                src_ts: vec![selector.clone(); selectors],
                dst_ts: vec![selector; selectors],
                ..AddSa::default()
            })),
        }
    }

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        let sent = add_sa(&[0xa5; 36], 255);
        let mut wire = Vec::new();
        write_frame(&mut wire, &sent).unwrap();
        let mut stream = wire.as_slice();
        assert_eq!(read_frame::<ToBridge>(&mut stream).unwrap(), sent);
        assert!(matches!(
            read_frame::<ToBridge>(&mut stream),
            Err(WireError::Closed)
        ));
    }

    #[test]
    fn formatting_a_message_shows_no_key() {
        let shown = format!("{:?}", add_sa(&[0xa5; 20], 1));
        assert!(
            !shown.contains("165") && !shown.to_lowercase().contains("a5"),
            "{shown}"
        );
        assert!(shown.contains("SaKeys(20 + 20 bytes)"), "{shown}");
    }

    #[test]
    fn a_message_over_the_bound_is_refused_by_both_ends() {
        assert!(matches!(
            encode(&add_sa(&[0; 20], 2000)),
            Err(WireError::TooLong(_))
        ));
        let mut stream = u32::MAX.to_be_bytes().to_vec();
        stream.extend([0; 64]);
        assert!(matches!(
            read_frame::<ToPlugin>(&mut stream.as_slice()),
            Err(WireError::TooLong(_))
        ));
        let mut decoder = FrameDecoder::default();
        decoder.push(&stream);
        assert!(matches!(
            decoder.next_message::<ToPlugin>(),
            Err(WireError::TooLong(_))
        ));
    }

    #[test]
    fn an_end_inside_a_message_is_not_a_clean_close() {
        let frame = encode(&add_sa(&[1; 20], 1)).unwrap();
        for end in 1..frame.len() {
            assert!(
                matches!(
                    read_frame::<ToBridge>(&mut &frame[..end]),
                    Err(WireError::Io(_))
                ),
                "{end}"
            );
        }
    }

    proptest! {
        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<ToBridge>(&junk);
            let _ = decode::<ToPlugin>(&junk);
            let _ = read_frame::<ToBridge>(&mut junk.as_slice());
            let mut decoder = FrameDecoder::default();
            decoder.push(&junk);
            while let Ok(Some(_)) = decoder.next_message::<ToPlugin>() {}
        }

        #[test]
        fn mutated_messages_never_panic(at in 0_usize..300, with in any::<u8>()) {
            let mut frame = encode(&add_sa(&[7; 36], 2)).unwrap().to_vec();
            if let Some(byte) = frame.get_mut(at) {
                *byte = with;
            }
            let _ = read_frame::<ToBridge>(&mut frame.as_slice());
        }

        #[test]
        fn messages_arrive_whole_however_the_stream_is_cut(
            spis in proptest::collection::vec(any::<u32>(), 1..20),
            cuts in proptest::collection::vec(1_usize..40, 1..200),
        ) {
            let mut wire = Vec::new();
            for (id, spi) in (1..).zip(&spis) {
                write_frame(&mut wire, &ToPlugin::answer(id, Answer::Spi(Spi { spi: *spi }))).unwrap();
            }
            let mut decoder = FrameDecoder::default();
            let mut got = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                decoder.push(now);
                while let Some(message) = decoder.next_message::<ToPlugin>().unwrap() {
                    got.push(message);
                }
            }
            let expected: Vec<_> = (1..).zip(&spis).map(|(id, spi)| ToPlugin::answer(id, Answer::Spi(Spi { spi: *spi }))).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
