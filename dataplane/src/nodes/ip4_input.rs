//! IPv4 packets that nobody has looked at yet (RFC 791, RFC 1812 section 5.2.2, RFC 1122 section 3.2.1.3).
//!
//! ```text
//!   ethernet-input, esp-decrypt -> ip4-input -> [policy-input] -> [reverse-path] -> ip4-lookup
//! ```
//!
//! Behind this node a packet's version, lengths and header checksum hold, link padding is cut off, and its addresses
//! may be a sender's and a receiver's; where an interface bounds the MSS of what comes in by it, that is done. What becomes of the TTL is decided where a packet is forwarded.

use culvert_net::{Ipv4Error, Ipv4Header, Ipv4View, checksum};

use super::mss_clamp::clamp_arriving;
use super::together::{forward_rest, ready};
use crate::buffer::{BufferPool, Metadata, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip4Input,
    next: &[NodeId::Ip4Lookup, NodeId::PolicyInput, NodeId::ReversePath],
};

/// See the module.
#[derive(Default)]
pub struct Ip4Input;

impl Node for Ip4Input {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let next = if context.tables.policy_based.is_some() {
            NodeId::PolicyInput
        } else if context.tables.reverse_path {
            NodeId::ReversePath
        } else {
            NodeId::Ip4Lookup
        };
        let clamps = context.tables.mss_arriving;
        let mut arriving = None;
        let buffers = &*context.buffers;
        let done = if clamps {
            (0, None)
        } else {
            ready(buffers, vector, next, |packet| is_ordinary(buffers, packet))
        };
        let decide = |context: &mut Context<'_>, packet: &mut Packet| {
            check(context.buffers, packet)?;
            if clamps {
                clamp_arriving(
                    context.tables,
                    context.buffers,
                    packet,
                    false,
                    &mut arriving,
                )?;
            }
            Ok(next)
        };
        forward_rest(context, vector, done, decide, |context, packet, reason| {
            context.drop(packet, reason);
        });
    }
}

/// An octet that the address of a sender may begin with, 0.0.0.0 apart.
const SENDER: u8 = 1;
/// An octet that the address of a receiver may begin with, 255.255.255.255 apart.
const RECEIVER: u8 = 2;

/// What each first octet of an address is good for.
const OCTETS: [u8; 256] = {
    let mut octets = [0; 256];
    let mut octet = 1;
    while octet < 240 {
        octets[octet] = match octet {
            127 => 0,
            224.. => RECEIVER,
            _ => SENDER | RECEIVER,
        };
        octet += 1;
    }
    octets
};

#[inline(always)]
fn check(buffers: &BufferPool, packet: &mut Packet) -> Result<(), DropReason> {
    if is_ordinary(buffers, packet) {
        return Ok(());
    }
    let (meta, data) = buffers.parts_mut(packet);
    check_closely(meta, data)
}

/// Most headers have no options and ordinary addresses, and are right: a few comparisons say so of all of it. What is in
/// any way different is left to be looked at closely.
#[inline(always)]
fn is_ordinary(buffers: &BufferPool, packet: &mut Packet) -> bool {
    let (meta, data) = buffers.parts_mut(packet);
    let have = data.len();
    let Some(header) = data.first_chunk::<{ Ipv4Header::LEN }>() else {
        return false;
    };
    let [version, _, l0, l1, .., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let total = u16::from_be_bytes([l0, l1]);
    let lengths = version == 0x45 && (Ipv4Header::LEN..=have).contains(&usize::from(total));
    let addresses = OCTETS[usize::from(s0)] & SENDER != 0
        && OCTETS[usize::from(d0)] & RECEIVER != 0
        && [s0, s1, s2, s3] != [d0, d1, d2, d3];
    if !(lengths && addresses && checksum::ipv4_header_holds(header)) {
        return false;
    }
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + Ipv4Header::LEN) as u16;
    meta.truncate(total);
    true
}

#[cold]
#[inline(never)]
fn check_closely(meta: &mut Metadata, data: &[u8]) -> Result<(), DropReason> {
    let view = Ipv4View::verify(data).map_err(|error| match error {
        Ipv4Error::Checksum => DropReason::Ip4BadChecksum,
        _ => DropReason::Ip4Malformed,
    })?;
    let (source, destination) = (view.source().to_bits(), view.destination().to_bits());
    // 255.255.255.255 is the one address above the multicast ones that means something.
    match (source >> 24, destination >> 24) {
        (1..=126 | 128..=223, 1..=126 | 128..=239) if source != destination => {}
        (1..=126 | 128..=223, _) if destination == u32::MAX => {}
        // A host without an address yet asks for one (RFC 2131).
        (0, _) if source == 0 && destination == u32::MAX => {}
        (1..=126 | 128..=223, 0 | 127 | 240..) => return Err(DropReason::IpBadDestination),
        _ => return Err(DropReason::IpBadSource),
    }
    let (total, header) = (usize::from(view.total_len()), view.header_len());
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + header) as u16;
    meta.set_len(total).map_err(|_| DropReason::Ip4Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::nodes::workbench::{FAR_IP, HOST_IP, LAN, Workbench, packet4, packet4_with};

    fn put(bench: &mut Workbench, bytes: &[u8]) {
        bench.put(NodeId::Ip4Input, LAN, bytes, |_| {});
    }

    #[test]
    fn a_good_packet_goes_on_without_its_padding() {
        let mut bench = Workbench::only(Box::new(Ip4Input));
        let packet = packet4(HOST_IP, FAR_IP, 17, b"data");
        let mut padded = packet.clone();
        padded.resize(46, 0xaa);
        put(&mut bench, &padded);
        bench.run();
        let arrived = bench.arrived();
        assert_eq!(arrived[0].node, NodeId::Ip4Lookup);
        assert_eq!(arrived[0].bytes, packet);
        assert_eq!(arrived[0].meta.l4_offset - arrived[0].meta.l3_offset, 20);
        bench.finish();
    }

    #[test]
    fn every_kind_of_bad_header_is_counted() {
        let mut bench = Workbench::only(Box::new(Ip4Input));
        let good = packet4(HOST_IP, FAR_IP, 17, b"data");
        for length in 0..good.len() {
            put(&mut bench, &good[..length]);
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x47)] {
            let mut bad = good.clone();
            bad[at] = value;
            put(&mut bench, &bad);
        }
        bench.run();
        let malformed = bench.drops(DropReason::Ip4Malformed);
        assert_eq!(malformed + bench.drops(DropReason::Ip4BadChecksum), 27);
        assert!(malformed >= 26);
        for at in 0..20 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            put(&mut bench, &bad);
        }
        bench.run();
        assert!(
            bench.arrived().is_empty(),
            "a flipped bit anywhere in the header is noticed"
        );
        bench.finish();
    }

    /// What a few comparisons let through is what the close look lets through, with the same view of it.
    #[test]
    fn both_looks_agree() {
        let mut pool = BufferPool::new(8).unwrap();
        let mut twins = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        let mut random = crate::driver::generator::Random::new(4);
        let (mut good, mut bad) = (0, 0);
        for number in 0..200_000u32 {
            let [source, destination] = [0, 1].map(|_| {
                let first = [0, 1, 10, 126, 127, 128, 198, 223, 224, 239, 240, 255]
                    [random.below(12) as usize];
                let rest = [0, 0x00ff_ffff, number & 0x00ff_ffff][random.below(3) as usize];
                Ipv4Addr::from_bits(first << 24 | rest)
            });
            let mut bytes = packet4(source, destination, 17, b"data");
            let at = random.below(20) as usize;
            match number % 4 {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => {
                    bytes[at] = random.below(256) as u8;
                    bytes[10..12].fill(0);
                    let right = checksum::ipv4_header(bytes.first_chunk().unwrap());
                    bytes[10..12].copy_from_slice(&right.to_be_bytes());
                }
                2 => bytes.resize(random.below(64) as usize, 7),
                _ => {}
            }
            for packet in &mut twins {
                pool.renew(packet);
                pool.meta_mut(packet).set_len(bytes.len()).unwrap();
                pool.data_mut(packet).copy_from_slice(&bytes);
            }
            let [one, other] = &mut twins;
            let quick = check(&pool, one);
            let (meta, data) = pool.parts_mut(other);
            assert_eq!(quick, check_closely(meta, data), "{bytes:x?}");
            if quick.is_ok() {
                good += 1;
                assert_eq!(format!("{:?}", pool.meta(one)), format!("{meta:?}"));
                assert_eq!(pool.data(one), pool.data(other));
            } else {
                bad += 1;
            }
        }
        assert!(good > 20_000 && bad > 20_000, "{good} {bad}");
        pool.free_all(twins);
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        let mut bench = Workbench::only(Box::new(Ip4Input));
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.5",
            "240.0.0.1",
            "255.255.255.255",
            "198.51.100.9",
        ] {
            put(&mut bench, &packet4(address(source), FAR_IP, 17, &[]));
        }
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadSource), 7);
        for destination in ["0.0.0.0", "127.0.0.1", "240.0.0.1", "255.255.255.254"] {
            put(&mut bench, &packet4(HOST_IP, address(destination), 17, &[]));
        }
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadDestination), 4);
        assert!(bench.arrived().is_empty());
        for (source, destination) in [("0.0.0.0", "255.255.255.255"), ("10.1.0.2", "224.0.0.1")] {
            put(
                &mut bench,
                &packet4_with(address(source), address(destination), 17, &[], |_| {}),
            );
        }
        bench.run();
        assert_eq!(bench.arrived().len(), 2);
        bench.finish();
    }
}
