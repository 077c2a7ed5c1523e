//! What crossed the untrusted side: a capture at both WAN ends, and the ESP and IKE in it.
//!
//! ```text
//!   gateway-a --- wan-a [ router ] wan-b --- gateway-b       every frame that the router receives
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::capture::{Capture, CaptureReport};
use culvert_netlab::classify::WanClass;
use culvert_netlab::packet_socket::Seen;

use crate::laboratory::Laboratory;

/// Opens every payload of a test: whoever sees it on the WAN sees an inner packet in the clear.
pub const MARKER: &[u8] = b"culvert-marked-payload";

/// `IKE_SA_INIT` (RFC 7296 section 3.1).
pub const IKE_SA_INIT: u8 = 34;
/// `CREATE_CHILD_SA`.
pub const CREATE_CHILD_SA: u8 = 36;
/// INFORMATIONAL: deletes, dead peer detection, MOBIKE.
pub const INFORMATIONAL: u8 = 37;

/// A capture that runs.
pub struct Wire {
    capture: Capture,
    path: PathBuf,
}

/// What it has seen.
pub struct Seized {
    /// Frames by class, and examples of those in the clear.
    pub report: CaptureReport,
    /// All of them.
    pub packets: Vec<Packet>,
}

/// One packet as the router received it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When the capture took it.
    pub time: SystemTime,
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// What it is.
    pub kind: Kind,
    /// It carries [`MARKER`] somewhere.
    pub marked: bool,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ESP, native or in UDP.
    Esp {
        /// Its SA.
        spi: u32,
        /// Low half of its number.
        sequence: u32,
        /// The IV of an AEAD suite.
        iv: [u8; 8],
        /// In UDP.
        udp: bool,
    },
    /// A message of IKEv2.
    Ike {
        /// [`CREATE_CHILD_SA`] and the like.
        exchange: u8,
        /// The response flag.
        response: bool,
        /// The number of the exchange.
        message: u32,
    },
    /// The box's own answer that nobody listens for IKE while charon is down: ICMP with the head of the message.
    NobodyListens,
    /// None of these.
    Other,
}

impl Wire {
    /// Begins to take every frame that the router receives.
    pub fn tap(laboratory: &Laboratory) -> anyhow::Result<Self> {
        let path = laboratory.folder().join("wan.pcap");
        let wan = laboratory.open(Place::Wan);
        let capture = Capture::start(&wan, Seen::Received, MARKER, Some(&path))?;
        Ok(Self { capture, path })
    }

    /// Ends it, and reads what was taken. Fails if a frame was lost to the capture.
    pub fn cut(self) -> anyhow::Result<Seized> {
        let report = self.capture.stop()?;
        ensure!(
            report.lost == 0,
            "the capture lost {} frames and proves nothing",
            report.lost
        );
        let packets = read(&self.path)?;
        ensure!(
            packets.len() as u64 == report.total(),
            "the file is not whole"
        );
        Ok(Seized { report, packets })
    }
}

impl Seized {
    /// Nothing but ARP, ND, IKE, ESP and keepalives crossed, and ESP did. What a box says of its own IKE port while
    /// charon is down is allowed; bytes from inside are not, wherever they are.
    pub fn assert_nothing_in_the_clear(&self) {
        let marked = self.packets.iter().filter(|packet| packet.marked).count();
        let own = self
            .packets
            .iter()
            .filter(|packet| packet.kind == Kind::NobodyListens);
        assert_eq!(
            (marked, self.report.count(WanClass::Cleartext)),
            (0, own.count() as u64),
            "in the clear: {:02x?}",
            self.report.examples
        );
        assert!(
            self.report.count(WanClass::Esp) > 0,
            "no ESP: {:?}",
            self.report.frames
        );
    }

    /// Packets that the gateway of this side put on the wire.
    pub fn of(&self, side: Side) -> impl Iterator<Item = &Packet> {
        let addresses = Family::BOTH.map(|family| side.addresses().gateway_wan(family).addr());
        self.packets
            .iter()
            .filter(move |packet| addresses.contains(&packet.source))
    }

    /// SPIs that this side has sent on, with the time of the first packet and how many there were.
    pub fn spis(&self, side: Side) -> BTreeMap<u32, (SystemTime, u64)> {
        let mut spis = BTreeMap::new();
        for packet in self.of(side) {
            if let Kind::Esp { spi, .. } = packet.kind {
                spis.entry(spi).or_insert((packet.time, 0)).1 += 1;
            }
        }
        spis
    }

    /// Requests of this exchange from this side that came between two times.
    pub fn requests(
        &self,
        side: Side,
        wanted: u8,
        between: std::ops::Range<SystemTime>,
    ) -> Vec<Packet> {
        let is_request = |packet: &&Packet| {
            matches!(packet.kind, Kind::Ike { exchange, response: false, .. } if exchange == wanted)
                && between.contains(&packet.time)
        };
        self.of(side).filter(is_request).cloned().collect()
    }
}

/// Reads a file that [`Capture`] wrote: nanoseconds, this machine's byte order.
fn read(path: &Path) -> anyhow::Result<Vec<Packet>> {
    let bytes = std::fs::read(path)?;
    let mut rest = bytes.get(24..).context("no header")?;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let word = |at: usize| -> anyhow::Result<u32> {
            let word = rest.get(at..at + 4).context("half a header")?;
            Ok(u32::from_ne_bytes(word.try_into()?))
        };
        let time = SystemTime::UNIX_EPOCH + Duration::new(word(0)?.into(), word(4)?);
        let end = 16 + word(8)? as usize;
        let frame = rest.get(16..end).context("half a frame")?;
        packets.push(dissect(time, frame));
        rest = &rest[end..];
    }
    Ok(packets)
}

fn dissect(time: SystemTime, frame: &[u8]) -> Packet {
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut packet = Packet {
        time,
        source: unknown,
        destination: unknown,
        kind: Kind::Other,
        marked: frame.windows(MARKER.len()).any(|bytes| bytes == MARKER),
    };
    let parsed = (|| {
        let ip = frame.get(14..)?;
        let (source, destination, protocol, header): (IpAddr, IpAddr, u8, usize) =
            match frame.get(12..14)? {
                [0x08, 0x00] => (
                    Ipv4Addr::from(*ip.get(12..)?.first_chunk::<4>()?).into(),
                    Ipv4Addr::from(*ip.get(16..)?.first_chunk::<4>()?).into(),
                    *ip.get(9)?,
                    usize::from(ip.first()? & 15) * 4,
                ),
                [0x86, 0xdd] => (
                    Ipv6Addr::from(*ip.get(8..)?.first_chunk::<16>()?).into(),
                    Ipv6Addr::from(*ip.get(24..)?.first_chunk::<16>()?).into(),
                    *ip.get(6)?,
                    40,
                ),
                _ => return None,
            };
        Some((source, destination, transport(protocol, ip.get(header..)?)))
    })();
    if let Some((source, destination, kind)) = parsed {
        packet.source = source;
        packet.destination = destination;
        packet.kind = kind.unwrap_or(Kind::Other);
    }
    packet
}

fn transport(protocol: u8, payload: &[u8]) -> Option<Kind> {
    match protocol {
        // Type 3, code 3, then the IP header without options and the UDP header of the message.
        1 if payload.get(..2)? == [3, 3] => {
            let (quoted, port) = (payload.get(8..)?, payload.get(30..32)?);
            let ike = quoted.first()? == &0x45
                && quoted.get(9)? == &17
                && [500_u16, 4500].iter().any(|own| port == own.to_be_bytes());
            ike.then_some(Kind::NobodyListens)
        }
        50 => esp(payload, false),
        17 => {
            let ports = [payload.get(..2)?, payload.get(2..4)?]
                .map(|port| port.iter().fold(0, |all, byte| all << 8 | u16::from(*byte)));
            let data = payload.get(8..)?;
            match data.get(..4)? {
                [0, 0, 0, 0] if ports.contains(&4500) => ike(data.get(4..)?),
                _ if ports.contains(&4500) => esp(data, true),
                _ if ports.contains(&500) => ike(data),
                _ => None,
            }
        }
        _ => None,
    }
}

fn esp(data: &[u8], udp: bool) -> Option<Kind> {
    Some(Kind::Esp {
        spi: u32::from_be_bytes(*data.first_chunk()?),
        sequence: u32::from_be_bytes(*data.get(4..)?.first_chunk()?),
        iv: *data.get(8..)?.first_chunk()?,
        udp,
    })
}

fn ike(data: &[u8]) -> Option<Kind> {
    Some(Kind::Ike {
        exchange: *data.get(18)?,
        response: data.get(19)? & 0x20 != 0,
        message: u32::from_be_bytes(*data.get(20..)?.first_chunk()?),
    })
}
