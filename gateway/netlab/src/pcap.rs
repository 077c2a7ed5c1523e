//! Frames written to a pcap file, which every analyser reads.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

/// Nanosecond resolution, host byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
/// `LINKTYPE_ETHERNET`
const ETHERNET: u32 = 1;
/// No frame is cut below this.
const SNAP_LENGTH: u32 = 262_144;

/// Writes Ethernet frames with their times.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC.to_ne_bytes())?;
        out.write_all(&2_u16.to_ne_bytes())?;
        out.write_all(&4_u16.to_ne_bytes())?;
        // Time zone and accuracy: always zero.
        out.write_all(&[0; 8])?;
        out.write_all(&SNAP_LENGTH.to_ne_bytes())?;
        out.write_all(&ETHERNET.to_ne_bytes())?;
        Ok(Self { out })
    }

    /// Adds a frame of `wire_length` bytes of which `stored` were kept.
    pub fn write(&mut self, time: SystemTime, stored: &[u8], wire_length: usize) -> io::Result<()> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.out
            .write_all(&(since.as_secs() as u32).to_ne_bytes())?;
        self.out.write_all(&since.subsec_nanos().to_ne_bytes())?;
        self.out.write_all(&(stored.len() as u32).to_ne_bytes())?;
        self.out.write_all(&(wire_length as u32).to_ne_bytes())?;
        self.out.write_all(stored)
    }

    /// Puts everything into the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn header_and_record_are_laid_out_as_the_format_says() {
        let mut bytes = Vec::new();
        let mut writer = PcapWriter::new(&mut bytes).unwrap();
        writer
            .write(UNIX_EPOCH + Duration::new(5, 7), b"abc", 60)
            .unwrap();
        writer.flush().unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 3);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(16), word(20)), (MAGIC, SNAP_LENGTH, 1));
        assert_eq!((word(24), word(28), word(32), word(36)), (5, 7, 3, 60));
        assert_eq!(&bytes[40..], b"abc");
    }
}
