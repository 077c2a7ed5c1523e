//! ESP packets both ways between our nodes and scapy, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;

use culvert_crypto::{Cipher, Suite};
use culvert_dataplane::drop_reason::DropReason;
use culvert_net::{Ipv4Header, Ipv4Mut, Ipv6Header, Protocol};
use culvert_tests::esp_nodes::{Association, EspNodes};
use culvert_tests::scapy::{Scapy, from_hex, to_hex};
use serde_json::{Value, json};

/// Every suite that scapy has: not GCM with a short ICV. Ours are held against the long ones where they are made.
fn suites() -> impl Iterator<Item = Suite> {
    Suite::ALL
        .into_iter()
        .filter(|suite| !matches!(suite.cipher(), Cipher::AesGcm12(_) | Cipher::AesGcm8(_)))
}

/// Every suite, family, encapsulation and kind of sequence number: 35 x 2 x 2 x 2.
fn combinations() -> Vec<Association> {
    let mut all = Vec::new();
    for suite in suites() {
        for v6 in [false, true] {
            for udp in [false, true] {
                for esn in [false, true] {
                    all.push(association(suite, v6, udp, esn));
                }
            }
        }
    }
    assert_eq!(all.len(), 280);
    all
}

fn association(suite: Suite, v6: bool, udp: bool, esn: bool) -> Association {
    let address = |last: u8| -> IpAddr {
        if v6 {
            format!("2001:db8::{last}").parse().unwrap()
        } else {
            [192, 0, 2, last].into()
        }
    };
    let key = |length: usize, seed: u8| -> Vec<u8> {
        (0..length)
            .map(|at| seed.wrapping_add(at as u8).wrapping_mul(37))
            .collect()
    };
    Association {
        suite,
        encryption: key(suite.encryption_key_len(), 3),
        integrity: key(suite.integrity_key_len(), 91),
        spi: 0xc0de_0001,
        source: address(1),
        destination: address(2),
        udp,
        esn,
    }
}

fn told(association: &Association) -> Value {
    json!({
        "suite": association.suite.to_string(),
        "encryption": to_hex(&association.encryption),
        "integrity": to_hex(&association.integrity),
        "spi": association.spi,
        "source": association.source,
        "destination": association.destination,
        "udp": association.udp,
        "esn": association.esn,
    })
}

fn inner4(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: length as u16,
        identification: 7,
        flags_fragment: Ipv4Header::DONT_FRAGMENT,
        ttl: 9,
        // An experiment's (RFC 3692): nobody looks inside.
        protocol: Protocol(253),
        source: [10, 1, 0, 10].into(),
        destination: [10, 2, 0, 10].into(),
    };
    header.write(packet.first_chunk_mut().unwrap());
    packet
}

fn inner6(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 5) as u8).collect();
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 5,
        payload_len: (length - 40) as u16,
        next_header: Protocol(253),
        hop_limit: 9,
        source: "fd00:1::10".parse().unwrap(),
        destination: "fd00:2::10".parse().unwrap(),
    };
    header.write(packet.first_chunk_mut().unwrap());
    packet
}

/// Lengths around every padding, short, and as long as a tunnel carries.
fn packets() -> Vec<Vec<u8>> {
    (20..37)
        .map(inner4)
        .chain([64, 1200].map(inner4))
        .chain((40..44).map(inner6))
        .chain([1280].map(inner6))
        .collect()
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

fn high_half(association: &Association, sequence: u64) -> u64 {
    if association.esn { sequence >> 32 } else { 0 }
}

/// What left our nodes as number `sequence` is what scapy would have made of `inner`.
fn scapy_opens(
    scapy: &mut Scapy,
    association: &Association,
    sealed: &[u8],
    inner: &[u8],
    sequence: u64,
) {
    let what = format!("{association:?}: {} bytes, number {sequence}", inner.len());
    let request = json!({"do": "open", "sa": told(association), "packet": to_hex(sealed),
        "high": high_half(association, sequence)});
    let answer = scapy
        .ask(&request)
        .unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert_eq!(
        from_hex(&answer["inner"]).unwrap(),
        one_hop_less(inner),
        "{what}"
    );
    let ip_header = if association.source.is_ipv4() { 20 } else { 40 };
    let around = ip_header + if association.udp { 8 } else { 0 };
    let esp = &sealed[around..];
    assert_eq!(esp[4..8], (sequence as u32).to_be_bytes(), "{what}");
    assert_eq!(from_hex(&answer["again"]).unwrap(), esp, "{what}");
    let outer = &answer["outer"];
    assert_eq!(
        (&outer["source"], &outer["destination"], &outer["length"]),
        (
            &json!(association.source),
            &json!(association.destination),
            &json!(sealed.len())
        ),
        "{what}"
    );
    assert_eq!(
        outer["protocol"],
        if association.udp { 17 } else { 50 },
        "{what}"
    );
    if association.udp {
        let length = sealed.len() - ip_header;
        assert_eq!(
            outer["udp"],
            json!({"ports": [4500, 4500], "length": length, "checksum": 0}),
            "{what}"
        );
    }
    if association.source.is_ipv4() {
        assert_eq!(outer["checksum"], outer["right_checksum"], "{what}");
    }
}

fn scapy_seals(
    scapy: &mut Scapy,
    association: &Association,
    inner: &[u8],
    sequence: u64,
) -> Vec<u8> {
    let request = json!({"do": "seal", "sa": told(association), "inner": to_hex(inner),
        "sequence": sequence as u32, "high": high_half(association, sequence)});
    from_hex(&scapy.ask(&request).unwrap()["packet"]).unwrap()
}

#[test]
fn what_we_encrypt_scapy_would_have_written() {
    let mut scapy = Scapy::start().unwrap();
    for association in combinations() {
        let mut nodes = EspNodes::new(&association).unwrap();
        let packets = packets();
        let sealed = nodes.seal(&packets).unwrap();
        assert_eq!(sealed.len(), packets.len(), "{association:?}");
        for (at, (inner, sealed)) in packets.iter().zip(&sealed).enumerate() {
            scapy_opens(&mut scapy, &association, sealed, inner, at as u64 + 1);
        }
    }
}

#[test]
fn what_scapy_encrypts_we_open() {
    let mut scapy = Scapy::start().unwrap();
    for association in combinations() {
        let mut nodes = EspNodes::new(&association).unwrap();
        let packets = packets();
        let sealed: Vec<_> = (1..)
            .zip(&packets)
            .map(|(sequence, inner)| scapy_seals(&mut scapy, &association, inner, sequence))
            .collect();
        let damaged: Vec<_> = sealed
            .iter()
            .map(|packet| {
                let mut packet = packet.clone();
                *packet.last_mut().unwrap() ^= 1;
                packet
            })
            .collect();
        assert_eq!(
            nodes.open(&damaged).unwrap(),
            Vec::<Vec<u8>>::new(),
            "{association:?}"
        );
        assert_eq!(
            nodes.drops(DropReason::EspBadIcv),
            packets.len() as u64,
            "{association:?}"
        );
        assert_eq!(nodes.open(&sealed).unwrap(), packets, "{association:?}");
        assert_eq!(nodes.open(&sealed).unwrap(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn extended_numbers_pass_2_to_the_32nd_as_scapy_counts_them() {
    let mut scapy = Scapy::start().unwrap();
    for suite in suites() {
        let association = association(suite, false, true, true);
        let mut nodes = EspNodes::new(&association).unwrap();
        nodes.skip(0xffff_fffc).unwrap();
        let packets = vec![inner4(64); 8];
        let sealed = nodes.seal(&packets).unwrap();
        for (sequence, sealed) in (0xffff_fffd_u64..).zip(&sealed) {
            scapy_opens(&mut scapy, &association, sealed, &packets[0], sequence);
        }
        // Inbound, no step is so long that the high half would be guessed wrong (RFC 4303 appendix A2).
        let numbers = [
            1,
            0x7000_0000,
            0xe000_0000,
            0xffff_fffe,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
        ];
        let sealed: Vec<_> = numbers
            .iter()
            .map(|number| scapy_seals(&mut scapy, &association, &packets[0], *number))
            .collect();
        for packet in &sealed {
            assert_eq!(
                nodes.open(std::slice::from_ref(packet)).unwrap().len(),
                1,
                "{association:?}"
            );
        }
        assert_eq!(nodes.open(&sealed).unwrap(), Vec::<Vec<u8>>::new());
    }
}
