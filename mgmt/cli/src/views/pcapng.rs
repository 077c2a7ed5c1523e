//! Packets as a pcapng file (draft-ietf-opsawg-pcapng): what Wireshark, tcpdump and scapy read.
//!
//! ```text
//!   section | interface 0 | packet | interface 1 | packet | packet ... | statistics 0 | statistics 1
//! ```
//!
//! An interface is written down when its first packet comes; one that has packets with and without a link header is
//! written twice, for an interface has one link type. Times are in nanoseconds. Numbers are little-endian, which every
//! reader takes.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Tells the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;

/// Options of a block.
mod option {
    pub const COMMENT: u16 = 1;
    pub const PROGRAM: u16 = 4;
    pub const INTERFACE_NAME: u16 = 2;
    pub const RESOLUTION: u16 = 9;
    pub const FILTER: u16 = 11;
    pub const PACKET_FLAGS: u16 = 2;
    pub const RECEIVED: u16 = 4;
    pub const DROPPED: u16 = 5;
}

/// With what a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// That of IPv4 or IPv6.
    Raw,
}

impl LinkType {
    /// Of packets with an Ethernet header, or without.
    pub const fn of(ethernet: bool) -> Self {
        if ethernet { Self::Ethernet } else { Self::Raw }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Ethernet => 1,
            Self::Raw => 101,
        }
    }
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'p> {
    /// That it came in by, or is to leave by.
    pub interface: &'p str,
    /// With what it begins.
    pub link: LinkType,
    /// Since 1970.
    pub time_ns: u64,
    /// It leaves.
    pub outbound: bool,
    /// Of the whole packet.
    pub length: u32,
    /// The first of them.
    pub bytes: &'p [u8],
    /// Beside it.
    pub comment: Option<&'p str>,
}

struct Interface {
    name: String,
    link: LinkType,
    packets: u64,
    last: u64,
}

/// What stands beside a packet: why it was dropped, or where it was.
pub fn comment(drop: &str, node: &str, worker: u32, nodes: bool) -> Option<String> {
    if !drop.is_empty() {
        Some(format!("dropped: {drop} at {node}"))
    } else if nodes {
        Some(format!("node {node}, worker {worker}"))
    } else {
        None
    }
}

/// A file that is being written.
pub struct Writer<W> {
    to: W,
    filter: String,
    snaplen: u32,
    interfaces: Vec<Interface>,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file of packets that `filter` took.
    pub fn begin(to: W, filter: &str, snaplen: u32) -> io::Result<Self> {
        let mut this = Self {
            to,
            filter: filter.to_owned(),
            snaplen,
            interfaces: Vec::new(),
            block: Vec::new(),
        };
        this.block.extend(MAGIC.to_le_bytes());
        this.block.extend(1u16.to_le_bytes());
        this.block.extend(0u16.to_le_bytes());
        // The length of the section is not known.
        this.block.extend(u64::MAX.to_le_bytes());
        let program = concat!("culvert ", env!("CARGO_PKG_VERSION"));
        this.option(option::PROGRAM, program.as_bytes());
        this.end(SECTION)?;
        Ok(this)
    }

    /// Writes a packet, and before its first one its interface.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let known = self
            .interfaces
            .iter()
            .position(|known| known.name == packet.interface && known.link == packet.link);
        let id = match known {
            Some(id) => id,
            None => self.interface(packet.interface, packet.link)?,
        };
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.packets += 1;
            interface.last = packet.time_ns;
        }
        self.stamp(id, packet.time_ns);
        let kept = packet.bytes.len() as u32;
        self.block.extend(kept.to_le_bytes());
        self.block.extend(packet.length.max(kept).to_le_bytes());
        self.block.extend(packet.bytes);
        self.pad();
        let direction: u32 = if packet.outbound { 2 } else { 1 };
        self.option(option::PACKET_FLAGS, &direction.to_le_bytes());
        if let Some(comment) = packet.comment {
            self.option(option::COMMENT, comment.as_bytes());
        }
        self.end(PACKET)
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    /// Hands on what is written so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Ends the file with statistics: how many packets passed, and of how many there was no room.
    pub fn finish(mut self, mut missed: u64) -> io::Result<W> {
        for id in 0..self.interfaces.len() {
            let Some((packets, last)) = self
                .interfaces
                .get(id)
                .map(|interface| (interface.packets, interface.last))
            else {
                continue;
            };
            self.stamp(id, last);
            self.option(option::RECEIVED, &(packets + missed).to_le_bytes());
            self.option(option::DROPPED, &missed.to_le_bytes());
            self.end(STATISTICS)?;
            // By which of several interfaces they came was not written down: they are said once.
            missed = 0;
        }
        self.to.flush()?;
        Ok(self.to)
    }

    fn interface(&mut self, name: &str, link: LinkType) -> io::Result<usize> {
        self.block.extend(link.number().to_le_bytes());
        self.block.extend([0; 2]);
        self.block.extend(self.snaplen.to_le_bytes());
        self.option(option::INTERFACE_NAME, name.as_bytes());
        // Ten to the power of minus nine.
        self.option(option::RESOLUTION, &[9]);
        if !self.filter.is_empty() {
            // A text follows the zero.
            let filter = [&[0], self.filter.as_bytes()].concat();
            self.option(option::FILTER, &filter);
        }
        self.end(INTERFACE)?;
        self.interfaces.push(Interface {
            name: name.to_owned(),
            link,
            packets: 0,
            last: 0,
        });
        Ok(self.interfaces.len() - 1)
    }

    /// Number of the interface and time, the high half first.
    fn stamp(&mut self, id: usize, time_ns: u64) {
        self.block.extend((id as u32).to_le_bytes());
        self.block.extend(((time_ns >> 32) as u32).to_le_bytes());
        self.block.extend((time_ns as u32).to_le_bytes());
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.block.extend(code.to_le_bytes());
        self.block.extend((value.len() as u16).to_le_bytes());
        self.block.extend(value);
        self.pad();
    }

    /// Everything in a block begins at a multiple of four bytes.
    fn pad(&mut self) {
        let length = self.block.len().next_multiple_of(4);
        self.block.resize(length, 0);
    }

    /// Writes the block: type, length, content, end of options, length again.
    fn end(&mut self, kind: u32) -> io::Result<()> {
        self.block.extend([0; 4]);
        let length = (self.block.len() as u32 + 12).to_le_bytes();
        self.to.write_all(&kind.to_le_bytes())?;
        self.to.write_all(&length)?;
        self.to.write_all(&self.block)?;
        self.to.write_all(&length)?;
        self.block.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Blocks of a file: type and content.
    fn blocks(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let mut at = 0;
        let mut blocks = Vec::new();
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert!(length.is_multiple_of(4) && length >= 12);
            assert_eq!(word(at + length - 4) as usize, length);
            blocks.push((word(at), file[at + 8..at + length - 4].to_vec()));
            at += length;
        }
        blocks
    }

    fn options(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let code = u16::from_le_bytes([rest[0], rest[1]]);
            let length = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
            if code == 0 {
                assert_eq!((length, rest.len()), (0, 4));
                return options;
            }
            options.push((code, rest[4..4 + length].to_vec()));
            rest = &rest[4 + length.next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_file_has_its_interfaces_before_their_packets_and_statistics_at_the_end() {
        let mut file = Vec::new();
        let mut writer = Writer::begin(&mut file, "icmp", 96).unwrap();
        let packet = Packet {
            interface: "lan",
            link: LinkType::Ethernet,
            time_ns: 0x0123_4567_89ab_cdef,
            outbound: false,
            length: 1500,
            bytes: &[1, 2, 3, 4, 5],
            comment: Some("no-route at ip4-lookup"),
        };
        writer.packet(&packet).unwrap();
        let raw = Packet {
            link: LinkType::Raw,
            outbound: true,
            comment: None,
            ..packet
        };
        writer.packet(&raw).unwrap();
        writer.packet(&packet).unwrap();
        writer.finish(7).unwrap();

        let blocks = blocks(&file);
        let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [
                SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET, STATISTICS, STATISTICS
            ]
        );
        assert_eq!(blocks[0].1[..4], MAGIC.to_le_bytes());
        for (at, link) in [(1, 1), (3, 101)] {
            let interface = &blocks[at].1;
            assert_eq!(interface[..8], [link, 0, 0, 0, 96, 0, 0, 0]);
            let options = options(&interface[8..]);
            assert_eq!(options[0], (2, b"lan".to_vec()));
            assert_eq!(options[1], (9, vec![9]));
            assert_eq!(options[2], (11, b"\0icmp".to_vec()));
        }
        let first = &blocks[2].1;
        assert_eq!(
            first[..28],
            [
                0, 0, 0, 0, 0x67, 0x45, 0x23, 1, 0xef, 0xcd, 0xab, 0x89, 5, 0, 0, 0, 0xdc, 5, 0, 0,
                1, 2, 3, 4, 5, 0, 0, 0
            ]
        );
        assert_eq!(
            options(&first[28..]),
            [
                (2, vec![1, 0, 0, 0]),
                (1, b"no-route at ip4-lookup".to_vec())
            ]
        );
        assert_eq!(blocks[4].1[0], 1, "of the second interface");
        assert_eq!(options(&blocks[4].1[28..]), [(2, vec![2, 0, 0, 0])]);
        let counts = |block: &[u8]| {
            options(&block[12..])
                .into_iter()
                .map(|(_, value)| u64::from_le_bytes(value.try_into().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&blocks[6].1), [9, 7]);
        assert_eq!(counts(&blocks[7].1), [1, 0]);
    }
}
