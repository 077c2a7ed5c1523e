//! The edges of ESP between our nodes and scapy: replay windows, padding, and what crosses between inner and outer
//! headers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use culvert_crypto::{Cipher, Integrity, KeyBits, Suite};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::sa::{DontFragment, FlowLabel, OuterRules};
use culvert_net::{Ipv4Header, Ipv4Mut, Ipv4View, Ipv6Header, Ipv6View, Protocol};
use culvert_tests::esp_nodes::{Association, Choices, EspNodes};
use culvert_tests::scapy::{Scapy, from_hex, to_hex};
use serde_json::{Value, json};

/// A kind of cipher each, and both blocks.
fn suites() -> [Suite; 4] {
    let hmac = |cipher, integrity| Suite::new(cipher, integrity).unwrap();
    [
        Suite::AES128GCM16,
        hmac(Cipher::AesCbc(KeyBits::B256), Integrity::HmacSha2_256_128),
        hmac(Cipher::AesCtr(KeyBits::B128), Integrity::HmacSha1_96),
        hmac(Cipher::Null, Integrity::HmacSha2_512_256),
    ]
}

fn inner4(length: usize, class: u8, dont_fragment: bool) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
    let header = Ipv4Header {
        traffic_class: class,
        total_len: length as u16,
        identification: 7,
        flags_fragment: if dont_fragment {
            Ipv4Header::DONT_FRAGMENT
        } else {
            0
        },
        ttl: 9,
        // An experiment's (RFC 3692): nobody looks inside.
        protocol: Protocol(253),
        source: [10, 1, 0, 10].into(),
        destination: [10, 2, 0, 10].into(),
    };
    header.write(packet.first_chunk_mut().unwrap());
    packet
}

fn inner6(length: usize, class: u8, flow_label: u32) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 5) as u8).collect();
    let header = Ipv6Header {
        traffic_class: class,
        flow_label,
        payload_len: (length - 40) as u16,
        next_header: Protocol(253),
        hop_limit: 9,
        source: "fd00:1::10".parse().unwrap(),
        destination: "fd00:2::10".parse().unwrap(),
    };
    header.write(packet.first_chunk_mut().unwrap());
    packet
}

/// A gateway is a hop.
fn one_hop_less(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
    } else {
        Ipv4Mut::new(&mut packet).unwrap().decrement_ttl();
    }
    packet
}

fn class_of(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 {
        Ipv6View::parse(packet).unwrap().traffic_class()
    } else {
        Ipv4View::verify(packet).unwrap().traffic_class()
    }
}

/// scapy's packet number `number` around `inner`; `more` is merged into the request.
fn sealed(
    scapy: &mut Scapy,
    association: &Association,
    inner: &[u8],
    number: u64,
    more: &Value,
) -> Vec<u8> {
    let high = if association.esn { number >> 32 } else { 0 };
    let mut request = json!({"do": "seal", "sa": association.told(), "inner": to_hex(inner),
        "sequence": number as u32, "high": high});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    from_hex(&scapy.ask(&request).unwrap()["packet"]).unwrap()
}

/// What scapy reads in packet number `number` of ours.
fn opened(scapy: &mut Scapy, association: &Association, packet: &[u8], number: u64) -> Value {
    let high = if association.esn { number >> 32 } else { 0 };
    let request =
        json!({"do": "open", "sa": association.told(), "packet": to_hex(packet), "high": high});
    scapy
        .ask(&request)
        .unwrap_or_else(|error| panic!("{association:?}: {error:#}"))
}

/// The numbers of no packet.
const NOTHING: [u64; 0] = [];

/// A receiver, and what it should have counted.
struct Receiver<'s> {
    scapy: &'s mut Scapy,
    association: Association,
    nodes: EspNodes,
    name: String,
}

impl<'s> Receiver<'s> {
    fn new(scapy: &'s mut Scapy, window: u32, esn: bool) -> Self {
        let association = Association::example(Suite::AES128GCM16, false, true, esn);
        let choices = Choices {
            replay_window: window,
            ..Choices::default()
        };
        Self {
            scapy,
            nodes: EspNodes::with(&association, &choices).unwrap(),
            association,
            name: format!("window {window}, ESN {esn}"),
        }
    }

    /// Packets with these numbers come in one vector, each with its number inside: the numbers that pass.
    fn passed(&mut self, numbers: &[u64]) -> Vec<u64> {
        let packets: Vec<_> = numbers
            .iter()
            .map(|number| {
                let mut inner = inner4(64, 0, true);
                inner[40..48].copy_from_slice(&number.to_be_bytes());
                sealed(self.scapy, &self.association, &inner, *number, &json!({}))
            })
            .collect();
        let opened = self.nodes.open(&packets).unwrap();
        opened
            .iter()
            .map(|inner| u64::from_be_bytes(inner[40..48].try_into().unwrap()))
            .collect()
    }

    /// Good, replayed, late and lost.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let usage = self.nodes.received().unwrap();
        (usage.packets, usage.replayed, usage.late, usage.lost)
    }
}

#[test]
fn replay_windows_end_where_they_should() {
    let mut scapy = Scapy::start().unwrap();
    for window in [32, 64, 1024, 4096] {
        let size = u64::from(window);
        let mut it = Receiver::new(&mut scapy, window, false);
        let name = it.name.clone();
        let top = 20_000;
        let bottom = top - size + 1;
        assert_eq!(it.passed(&[1]), [1], "{name}");
        // The newest, the oldest that is in, one below it, and copies of the first two, in one vector.
        assert_eq!(
            it.passed(&[top, bottom, bottom - 1, top, bottom]),
            [top, bottom],
            "{name}: the window moves only behind the vector's first look"
        );
        assert_eq!(it.counts(), (3, 2, 1, bottom - 2), "{name}");
        assert_eq!(it.passed(&[bottom, top, bottom - 1]), NOTHING, "{name}");
        assert_eq!(it.passed(&[top - 1, bottom + 1]), [top - 1, bottom + 1]);
        assert_eq!(it.counts(), (5, 4, 2, bottom - 2), "{name}");
        // One ahead: the bottom leaves, seen; another: the second leaves, seen; a third: one leaves that never came.
        assert_eq!(it.passed(&[top + 1]), [top + 1]);
        assert_eq!(it.passed(&[bottom]), NOTHING);
        assert_eq!(it.passed(&[top + 2]), [top + 2]);
        assert_eq!(it.counts(), (7, 4, 3, bottom - 2), "{name}");
        assert_eq!(it.passed(&[top + 3]), [top + 3]);
        assert_eq!(it.counts(), (8, 4, 3, bottom - 1), "{name}");
        // Far ahead: nothing of before is in.
        let far = 0xf000_0000;
        assert_eq!(it.passed(&[far, top + 4]), [far], "{name}");
        assert_eq!(it.passed(&[far - size, far - size + 1]), [far - size + 1]);
        let last = u64::from(u32::MAX);
        assert_eq!(it.passed(&[last, last - 1, last]), [last, last - 1]);
        assert_eq!(it.nodes.drops(DropReason::EspReplayed), 5, "{name}");
    }
}

#[test]
fn extended_windows_end_where_they_should() {
    let mut scapy = Scapy::start().unwrap();
    for window in [32, 64, 1024, 4096] {
        let size = u64::from(window);
        let mut it = Receiver::new(&mut scapy, window, true);
        let name = it.name.clone();
        // Up to the end of the first half, in steps that leave no doubt about the high half.
        for number in [0x7000_0000, 0xe000_0000, 0xffff_fffe] {
            assert_eq!(it.passed(&[number]), [number], "{name}");
        }
        // 2^32 falls inside a vector, and what comes late comes from both sides of it.
        let over = 1 << 32;
        assert_eq!(
            it.passed(&[over - 1, over + 1, over, over - 3, over + 1, over - 1]),
            [over - 1, over + 1, over, over - 3],
            "{name}"
        );
        // RFC 4303 appendix A2, case B: the window lies in both halves.
        let bottom = over + 1 - size + 1;
        assert_eq!(it.passed(&[bottom]), [bottom], "{name}");
        // One lower is taken for a number of the next half: its ICV is wrong, and the window stays.
        assert_eq!(it.passed(&[bottom - 1]), NOTHING, "{name}");
        assert_eq!(it.nodes.drops(DropReason::EspBadIcv), 1, "{name}");
        assert_eq!(it.passed(&[over + 2]), [over + 2], "{name}");
        assert_eq!(it.counts().1, 2, "{name}");
        // Case A again, and far ahead.
        let far = over + 0xf000_0000;
        assert_eq!(it.passed(&[far]), [far], "{name}");
        assert_eq!(
            it.passed(&[far - size + 1, far]),
            [far - size + 1],
            "{name}"
        );
    }
}

#[test]
fn without_a_window_copies_pass() {
    let mut scapy = Scapy::start().unwrap();
    for esn in [false, true] {
        let mut it = Receiver::new(&mut scapy, 0, esn);
        assert_eq!(it.passed(&[9, 9, 1, 70_000]), [9, 9, 1, 70_000]);
        assert_eq!(it.passed(&[9, 70_000, 1]), [9, 70_000, 1]);
        assert_eq!(it.counts(), (7, 0, 0, 0));
    }
}

#[test]
fn every_length_of_scapys_padding_is_taken_away() {
    let mut scapy = Scapy::start().unwrap();
    for suite in suites() {
        let association = Association::example(suite, false, false, false);
        let choices = Choices {
            replay_window: 4096,
            ..Choices::default()
        };
        let mut nodes = EspNodes::with(&association, &choices).unwrap();
        let mut number = 0;
        let mut check = |inner: &[u8], padding: usize, tfc: usize| {
            number += 1;
            let trailer = json!({"trailer": {"padding": padding, "tfc": tfc, "next": null}});
            let packet = sealed(&mut scapy, &association, inner, number, &trailer);
            let opened = nodes.open(std::slice::from_ref(&packet)).unwrap();
            assert!(opened == [inner], "{suite}: padding {padding}, TFC {tfc}");
        };
        for padding in 0..=255 {
            // With the trailer's two bytes a whole number of blocks.
            let length = 48 + (16 - (padding + 2) % 16) % 16;
            check(&inner4(length, 0, true), padding, 0);
        }
        for tfc in [1, 2, 3, 4, 15, 16, 17, 100, 255, 256, 1000] {
            let padding = (16 - (60 + tfc + 2) % 16) % 16;
            check(&inner4(60, 0, true), padding, tfc);
            check(&inner6(60, 0, 1), padding, tfc);
        }
        // Dummy packets: dropped in silence, and counted.
        for tfc in [0, 16, 1200] {
            number += 1;
            let padding = (16 - (60 + tfc + 2) % 16) % 16;
            let trailer = json!({"trailer": {"padding": padding, "tfc": tfc, "next": 59}});
            let inner = inner4(60, 0, true);
            let packet = sealed(&mut scapy, &association, &inner, number, &trailer);
            assert!(nodes.open(&[packet]).unwrap().is_empty());
        }
        assert_eq!(nodes.drops(DropReason::EspDummy), 3);
        assert_eq!(nodes.received().unwrap().packets, number);
    }
}

#[test]
fn our_padding_is_what_scapy_takes_for_padding() {
    let mut scapy = Scapy::start().unwrap();
    for suite in suites() {
        for v6 in [false, true] {
            let association = Association::example(suite, v6, !v6, true);
            for (tfc_padding, underlay_mtu) in [(600, 1500), (u32::MAX, 1000), (5000, 1300)] {
                let choices = Choices {
                    tfc_padding,
                    underlay_mtu,
                    ..Choices::default()
                };
                let mut nodes = EspNodes::with(&association, &choices).unwrap();
                let packets = [
                    inner4(28, 0, true),
                    inner4(500, 0, true),
                    inner4(599, 0, true),
                    inner6(40, 0, 1),
                ];
                let sent = nodes.seal(&packets).unwrap();
                let longest = sent.iter().map(Vec::len).max().unwrap();
                assert!(longest <= usize::from(underlay_mtu));
                for ((number, packet), inner) in (1..).zip(&sent).zip(&packets) {
                    assert_eq!(packet.len(), longest, "{suite}: one length for all");
                    let told = opened(&mut scapy, &association, packet, number);
                    let whole = from_hex(&told["inner"]).unwrap();
                    let (packet, padding) = whole.split_at(inner.len());
                    assert_eq!(packet, one_hop_less(inner), "{suite}");
                    assert!(padding.iter().all(|byte| *byte == 0), "{suite}");
                    if tfc_padding == 600 {
                        assert_eq!(whole.len(), 600);
                    }
                }
            }
        }
    }
}

/// Rules, and what scapy should find: DSCP for an inner one, ECN likewise, DF, hop limit.
type Case = (OuterRules, fn(u8) -> u8, fn(u8) -> u8, fn(bool) -> bool, u8);

fn outward_cases() -> Vec<Case> {
    let plain = OuterRules::default();
    let same = |value: u8| value;
    let none = |_: u8| 0;
    let kept = |value: bool| value;
    vec![
        (plain, same, same, kept, 64),
        (plain.ecn(false), same, none, kept, 64),
        (plain.dscp(Some(0)), none, same, kept, 64),
        (plain.dscp(Some(46)), |_| 46, same, kept, 64),
        (plain.dscp(Some(63)).ecn(false), |_| 63, none, kept, 64),
        (
            OuterRules {
                dont_fragment: DontFragment::Set,
                hop_limit: 255,
                ..plain
            },
            same,
            same,
            |_| true,
            255,
        ),
        (
            OuterRules {
                dont_fragment: DontFragment::Clear,
                hop_limit: 1,
                ..plain
            },
            same,
            same,
            |_| false,
            1,
        ),
    ]
}

#[test]
fn scapy_reads_what_the_rules_put_into_outer_headers() {
    let mut scapy = Scapy::start().unwrap();
    let classes = [0, 1, 2, 3, 46 << 2, 46 << 2 | 2, 10 << 2 | 1, 0xff];
    for v6 in [false, true] {
        let association = Association::example(Suite::AES128GCM16, v6, v6, true);
        for (rules, dscp, ecn, df, hops) in outward_cases() {
            let choices = Choices {
                outer: Some(rules),
                ..Choices::default()
            };
            let mut nodes = EspNodes::with(&association, &choices).unwrap();
            // IPv6 packets never ask for a path on which none is cut, unless they are long.
            let packets: Vec<_> = classes
                .iter()
                .flat_map(|class| [false, true].map(|df| (inner4(64, *class, df), *class, df)))
                .chain(
                    classes
                        .iter()
                        .map(|class| (inner6(64, *class, 9), *class, false)),
                )
                .collect();
            let inner: Vec<_> = packets.iter().map(|(inner, ..)| inner.clone()).collect();
            let sent = nodes.seal(&inner).unwrap();
            assert_eq!(sent.len(), packets.len());
            for ((number, packet), (inner, class, inner_df)) in (1..).zip(&sent).zip(&packets) {
                let told = opened(&mut scapy, &association, packet, number);
                let outer = &told["outer"];
                let what = format!("{rules:?}: class {class:#x}, inner {}", inner[0] >> 4);
                assert_eq!(from_hex(&told["inner"]).unwrap(), one_hop_less(inner));
                assert_eq!(
                    outer["class"],
                    dscp(class >> 2) << 2 | ecn(class & 3),
                    "{what}"
                );
                assert_eq!(outer["hops"], hops, "{what}");
                if v6 {
                    assert_eq!(outer["label"], 0, "{what}");
                } else {
                    assert_eq!(outer["df"], df(*inner_df), "{what}");
                    assert_eq!(outer["checksum"], outer["right_checksum"], "{what}");
                }
            }
        }
    }
}

#[test]
fn flow_labels_are_copied_or_tell_flows_apart() {
    let mut scapy = Scapy::start().unwrap();
    let association = Association::example(Suite::AES128GCM16, true, false, false);
    let mut other = inner4(64, 0, true);
    Ipv4Mut::new(&mut other)
        .unwrap()
        .set_source([10, 1, 0, 11].into());
    let packets = [
        inner4(64, 0, true),
        inner4(200, 0xb8, false),
        other,
        inner6(64, 3, 0xa_bcde),
    ];
    let mut labels = |flow_label| {
        let choices = Choices {
            outer: Some(OuterRules {
                flow_label,
                ..OuterRules::default()
            }),
            ..Choices::default()
        };
        let mut nodes = EspNodes::with(&association, &choices).unwrap();
        let sent = nodes.seal(&packets).unwrap();
        (1..)
            .zip(&sent)
            .map(|(number, packet)| {
                let told = opened(&mut scapy, &association, packet, number);
                told["outer"]["label"].as_u64().unwrap()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(labels(FlowLabel::Copy), [0, 0, 0, 0xa_bcde]);
    let hashed = labels(FlowLabel::Hash);
    assert_eq!(hashed[0], hashed[1], "one flow");
    assert!(hashed[0] != hashed[2] && hashed[2] != hashed[3]);
    assert!(hashed.iter().all(|label| (1..1 << 20).contains(label)));
}

/// RFC 6040 figure 4, by inner and outer field; `None`: dropped.
const CONGESTION: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn what_scapys_outer_headers_have_met_comes_inside() {
    let mut scapy = Scapy::start().unwrap();
    for v6 in [false, true] {
        let association = Association::example(Suite::AES128GCM16, v6, false, false);
        for dscp_inward in [false, true] {
            let choices = Choices {
                outer: Some(OuterRules {
                    dscp_inward,
                    ..OuterRules::default()
                }),
                ..Choices::default()
            };
            let mut nodes = EspNodes::with(&association, &choices).unwrap();
            let (mut number, mut dropped) = (0, 0);
            for (inner_ecn, row) in (0u8..).zip(CONGESTION) {
                for (outer_ecn, expected) in (0u8..).zip(row) {
                    for (inner_dscp, outer_dscp) in [(0, 0), (46, 8), (10, 63)] {
                        for inner in [
                            inner4(64, inner_dscp << 2 | inner_ecn, true),
                            inner6(64, inner_dscp << 2 | inner_ecn, 9),
                        ] {
                            number += 1;
                            let field = if v6 { "tc" } else { "tos" };
                            let header = json!({"header": {field: outer_dscp << 2 | outer_ecn}});
                            let packet = sealed(&mut scapy, &association, &inner, number, &header);
                            let opened = nodes.open(&[packet]).unwrap();
                            let Some(ecn) = expected else {
                                dropped += 1;
                                assert!(opened.is_empty());
                                continue;
                            };
                            let dscp = if dscp_inward { outer_dscp } else { inner_dscp };
                            assert_eq!(class_of(&opened[0]), dscp << 2 | ecn);
                            // Nothing else has changed: with the old class it is the packet that scapy had.
                            let mut back = opened[0].clone();
                            if back[0] >> 4 == 6 {
                                back[..2].copy_from_slice(&inner[..2]);
                            } else {
                                Ipv4Mut::new(&mut back).unwrap().set_traffic_class(inner[1]);
                            }
                            assert_eq!(back, inner);
                        }
                    }
                }
            }
            assert_eq!(nodes.drops(DropReason::EspCongestion), dropped);
            assert_eq!(dropped, 6);
        }
    }
}
