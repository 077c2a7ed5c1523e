//! The MSS of TCP SYNs on every way through the box, in both directions and for both families.

use culvert_crypto::Suite;
use culvert_net::{Ipv4Header, Protocol, checksum};

use super::encapsulation_tests::{self, GRE, MODES, mirrored};
use super::esp_tests::{self, payloads, spec};
use super::workbench::{
    FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, LAN, TO_ROUTER, TO_ROUTER6, TUNNEL, WAN, Workbench,
    packet4_with, packet6,
};
use crate::buffer::flags;
use crate::graph::NodeId;
use crate::tables::{Fragmentation, InterfaceKind, MssClamp};

/// What is sent, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    /// SYN and ACK, behind IPv4 options or extension headers.
    BehindOptions,
    /// Of a SYN with data.
    FirstFragment,
    /// What looks like a SYN is the middle of something.
    LaterFragment,
    /// Not a SYN.
    Ack,
    /// AH covers it.
    Authenticated,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Syn,
        Self::BehindOptions,
        Self::FirstFragment,
        Self::LaterFragment,
        Self::Ack,
        Self::Authenticated,
    ];

    fn is_clamped(self) -> bool {
        matches!(self, Self::Syn | Self::BehindOptions | Self::FirstFragment)
    }
}

/// A packet whose TCP header announces this MSS and whose checksum, over all of its fragments, is right.
fn packet(kind: Kind, v6: bool, mss: u16) -> Vec<u8> {
    let tcp_flags = match kind {
        Kind::BehindOptions => 0x12,
        Kind::Ack => 0x10,
        _ => 0x02,
    };
    let mut segment = vec![
        0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, tcp_flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4,
    ];
    segment.extend(mss.to_be_bytes());
    segment.extend([0x5a; 40]);
    let pseudo = if v6 {
        checksum::pseudo_v6(HOST_IP6, FAR_IP6, Protocol::TCP, 64)
    } else {
        checksum::pseudo_v4(HOST_IP, FAR_IP, Protocol::TCP, 64)
    };
    let sum = pseudo.add_bytes(&segment).finish();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let fragment = match kind {
        Kind::FirstFragment => {
            segment.truncate(32);
            Some((0u16, true))
        }
        Kind::LaterFragment => Some((64, false)),
        _ => None,
    };
    let authentication = [
        6, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
    ];
    if v6 {
        let (next, rest) = match (kind, fragment) {
            (Kind::BehindOptions, _) => {
                let options = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
                (0, [&options[..], &segment].concat())
            }
            (Kind::Authenticated, _) => (51, [&authentication[..], &segment].concat()),
            (_, Some((offset, more))) => {
                let [high, low] = (offset | u16::from(more)).to_be_bytes();
                let header = [6, 0, high, low, 0, 0, 0, 7];
                (44, [&header[..], &segment].concat())
            }
            _ => (6, segment),
        };
        return packet6(HOST_IP6, FAR_IP6, next, 64, &rest);
    }
    let (protocol, rest) = if kind == Kind::Authenticated {
        (51, [&authentication[..], &segment].concat())
    } else {
        (6, segment)
    };
    let mut bytes = packet4_with(HOST_IP, FAR_IP, protocol, &rest, |header| {
        if let Some((offset, more)) = fragment {
            header.flags_fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        }
    });
    if kind == Kind::BehindOptions {
        bytes.splice(20..20, [1; 4]);
        bytes[0] = 0x46;
        bytes[3] += 4;
        bytes[10..12].fill(0);
        let sum = checksum::Sum::of(&bytes[..24]).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// A packet without its own header, which has lost a hop on the way.
fn content(packet: &[u8]) -> &[u8] {
    let header = if packet[0] >> 4 == 6 {
        40
    } else {
        usize::from(packet[0] & 0x0f) * 4
    };
    &packet[header..]
}

/// Sends every kind along a way which bounds the MSS to `max`, and looks at every byte that comes out.
fn see(v6: bool, max: u16, what: &str, mut way: impl FnMut(&[u8]) -> Vec<u8>) {
    for kind in Kind::ALL {
        for mss in [max - 1, max, max + 1, 65_535] {
            let out = way(&packet(kind, v6, mss));
            let announced = if kind.is_clamped() { mss.min(max) } else { mss };
            let expected = packet(kind, v6, announced);
            assert_eq!(
                content(&out),
                content(&expected),
                "{what}, v6 {v6}, {kind:?}, {mss} to {max}"
            );
        }
    }
}

const fn headers(v6: bool) -> u16 {
    if v6 { 60 } else { 40 }
}

/// What a clamp of each kind makes of this MTU.
fn clamps(mtu: u16, v6: bool) -> [(MssClamp, u16); 3] {
    [
        (MssClamp::FromMtu, mtu - headers(v6)),
        (MssClamp::Fixed(900), 900),
        // Nothing is larger.
        (MssClamp::Off, 65_535),
    ]
}

/// The same without what `see` cannot count up to.
fn see_clamps(v6: bool, mtu: u16, what: &str, mut way: impl FnMut(MssClamp, &[u8]) -> Vec<u8>) {
    for (clamp, max) in clamps(mtu, v6) {
        if clamp == MssClamp::Off {
            for kind in Kind::ALL {
                let bytes = packet(kind, v6, 65_535);
                assert_eq!(content(&way(clamp, &bytes)), content(&bytes), "{what}");
            }
        } else {
            see(v6, max, what, |bytes| way(clamp, bytes));
        }
    }
}

#[test]
fn out_of_an_interface() {
    for v6 in [false, true] {
        see_clamps(v6, 1400, "rewrite", |clamp, bytes| {
            let (mut bench, node, adjacency) = if v6 {
                let node = Box::<super::ip6_rewrite::Ip6Rewrite>::default();
                (Workbench::only(node), NodeId::Ip6Rewrite, TO_ROUTER6)
            } else {
                let node = Box::<super::ip4_rewrite::Ip4Rewrite>::default();
                (Workbench::only(node), NodeId::Ip4Rewrite, TO_ROUTER)
            };
            bench.change_interface(WAN, |interface| interface.mss_clamp = clamp);
            let mut way = bench
                .tables
                .adjacencies
                .get(adjacency)
                .unwrap()
                .as_ref()
                .clone();
            way.mtu = 1400;
            bench.set_adjacency(adjacency, way);
            bench.put(node, LAN, bytes, |meta| meta.adjacency = adjacency);
            bench.run();
            bench.arrived().remove(0).bytes.split_off(14)
        });
    }
}

/// What comes in by `interface` while WAN clamps; the MTU of both is 1400.
fn arrive(bytes: &[u8], interface: u32, clamp: MssClamp, partial: Option<u16>) -> Vec<u8> {
    let v6 = bytes[0] >> 4 == 6;
    let (mut bench, node) = if v6 {
        let node = Box::<super::ip6_input::Ip6Input>::default();
        (Workbench::only(node), NodeId::Ip6Input)
    } else {
        let node = Box::<super::ip4_input::Ip4Input>::default();
        (Workbench::only(node), NodeId::Ip4Input)
    };
    for interface in [LAN, WAN] {
        bench.change_interface(interface, |interface| interface.mtu = 1400);
    }
    bench.change_interface(WAN, |interface| interface.mss_clamp = clamp);
    bench.tables.mss_arriving = clamp != MssClamp::Off;
    // One that comes by another interface before it.
    bench.put(node, LAN + WAN - interface, bytes, |_| {});
    bench.put(node, interface, bytes, |meta| {
        if let Some(start) = partial {
            meta.flags |= flags::CHECKSUM_PARTIAL;
            (meta.checksum_start, meta.checksum_offset) = (start, 16);
        }
    });
    bench.run();
    bench.arrived().remove(1).bytes
}

#[test]
fn in_by_an_interface() {
    for v6 in [false, true] {
        see_clamps(v6, 1400, "input", |clamp, bytes| {
            arrive(bytes, WAN, clamp, None)
        });
        for kind in Kind::ALL {
            let bytes = packet(kind, v6, 1500);
            let by_lan = arrive(&bytes, LAN, MssClamp::FromMtu, None);
            assert_eq!(by_lan, bytes, "LAN does not clamp");
        }
        // A checksum that was left to us is completed first.
        let mut bytes = packet(Kind::Syn, v6, 1500);
        let start = if v6 { 40 } else { 20 };
        let pseudo = if v6 {
            checksum::pseudo_v6(HOST_IP6, FAR_IP6, Protocol::TCP, 64)
        } else {
            checksum::pseudo_v4(HOST_IP, FAR_IP, Protocol::TCP, 64)
        };
        bytes[start + 16..start + 18].copy_from_slice(&pseudo.folded().to_be_bytes());
        assert_eq!(
            arrive(&bytes, WAN, MssClamp::FromMtu, Some(start as u16)),
            packet(Kind::Syn, v6, 1400 - headers(v6))
        );
    }
}

#[test]
fn into_and_out_of_a_tunnel_of_esp() {
    for v6 in [false, true] {
        for (outer_v6, udp) in [(false, true), (true, false)] {
            for after in [false, true] {
                let out = spec(Suite::AES128GCM16, outer_v6, udp, true, 0xc000_0001);
                let mut tunnel = esp_tests::Tunnel::looped(out);
                tunnel.bench.change_interface(TUNNEL, |interface| {
                    interface.mtu = 1500;
                    if let InterfaceKind::Tunnel { fragmentation, .. } = &mut interface.kind
                        && after
                    {
                        *fragmentation = Fragmentation::After;
                    }
                });
                let sas = &tunnel.bench.tables.sas;
                let sa = tunnel.manager.get(sas, tunnel.out.id).unwrap();
                // What the path to the peer takes in one piece, wherever the rest would be cut.
                let fitting = sa.inner_mtu(1500);
                assert!((1380..1470).contains(&fitting), "{fitting}");
                for inwards in [false, true] {
                    let what = format!("ESP, inwards {inwards}, after {after}");
                    see_clamps(v6, fitting, &what, |clamp, bytes| {
                        let set = |tunnel: &mut esp_tests::Tunnel, clamp| {
                            tunnel
                                .bench
                                .change_interface(TUNNEL, |one| one.mss_clamp = clamp);
                        };
                        let (there, here) = if inwards {
                            (MssClamp::Off, clamp)
                        } else {
                            (clamp, MssClamp::Off)
                        };
                        set(&mut tunnel, there);
                        let sealed = payloads(&tunnel.send(&[bytes.to_vec()]));
                        set(&mut tunnel, here);
                        payloads(&tunnel.receive(&sealed)).remove(0)
                    });
                }
                // A tunnel whose own MTU is smaller says so.
                tunnel.bench.change_interface(TUNNEL, |one| {
                    (one.mtu, one.mss_clamp) = (1300, MssClamp::FromMtu);
                });
                see(v6, 1300 - headers(v6), "smaller", |bytes| {
                    let sealed = payloads(&tunnel.send(&[bytes.to_vec()]));
                    payloads(&tunnel.receive(&sealed)).remove(0)
                });
            }
        }
    }
}

#[test]
fn into_and_out_of_a_tunnel_of_gre_and_ipip() {
    for mode in MODES {
        for (v6, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut tunnel = encapsulation_tests::Tunnel::new(mode, outer_v6, None);
            tunnel.bench.change_interface(GRE, |one| one.mtu = 1500);
            let fitting = 1500 - if outer_v6 { 40 } else { Ipv4Header::LEN } - mode.len();
            for inwards in [false, true] {
                let what = format!("{mode:?}, inwards {inwards}");
                see_clamps(v6, fitting as u16, &what, |clamp, bytes| {
                    let set = |tunnel: &mut encapsulation_tests::Tunnel, clamp| {
                        tunnel
                            .bench
                            .change_interface(GRE, |one| one.mss_clamp = clamp);
                    };
                    let (there, here) = if inwards {
                        (MssClamp::Off, clamp)
                    } else {
                        (clamp, MssClamp::Off)
                    };
                    set(&mut tunnel, there);
                    let outer = mirrored(&tunnel.send(&[bytes.to_vec()]).remove(0).2);
                    set(&mut tunnel, here);
                    tunnel.receive(&[outer]).remove(0).2
                });
            }
        }
    }
}
