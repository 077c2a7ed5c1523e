//! Padding of ESP packets through the nodes: the trailer's, that against traffic analysis (RFC 4303 section 2.7), and
//! packets that are nothing else (section 2.6).

use culvert_crypto::{Cipher, Engine, Integrity, KeyBits, Portable, SealOp, Suite};
use culvert_net::{Ipv4View, Ipv6View};

use super::esp_tests::{Tunnel, inner4, inner6, one_hop_less, payloads, spec};
use super::workbench::WAN;
use crate::drop_reason::DropReason;
use crate::sa::{Inherited, SaDirection, SaKeyId};
use crate::tables::{ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind};

const SPI: u32 = 0xc000_0001;
const IPV4: u8 = 4;
const NO_NEXT: u8 = 59;

fn with_hmac(cipher: Cipher) -> Suite {
    Suite::new(cipher, Integrity::HmacSha2_256_128).unwrap()
}

/// An ESP packet of the tunnel around this plaintext, which has its trailer.
fn seal(tunnel: &Tunnel, seq: u64, plaintext: &[u8]) -> Vec<u8> {
    let sa = tunnel
        .manager
        .get(&tunnel.bench.tables.sas, tunnel.out.id)
        .unwrap();
    let suite = sa.spec.suite;
    let sealed = suite.header_len() + plaintext.len() + suite.icv_len();
    let mut packet = vec![0; sa.outer.len() + sealed];
    let (outer, esp) = packet.split_at_mut(sa.outer.len());
    sa.outer.write(outer, sealed, Inherited::default());
    esp[..4].copy_from_slice(&SPI.to_be_bytes());
    esp[suite.header_len()..][..plaintext.len()].copy_from_slice(plaintext);
    let mut ops = [SealOp::new(sa.state.key(), seq, esp)];
    Portable.seal_batch(&mut ops);
    assert!(ops[0].result.is_ok());
    packet
}

/// A packet with padding against traffic analysis, and with a trailer that makes the whole a multiple of `block`.
fn plaintext(
    inner: &[u8],
    against_analysis: usize,
    least: usize,
    block: usize,
    next: u8,
) -> Vec<u8> {
    let mut plaintext = inner.to_vec();
    plaintext.resize(inner.len() + against_analysis, 0xa5);
    let mut pad = least;
    while !(plaintext.len() + pad + 2).is_multiple_of(block) {
        pad += 1;
    }
    plaintext.extend((1..=pad).map(|number| number as u8));
    plaintext.extend([pad as u8, next]);
    plaintext
}

#[test]
fn every_length_of_both_paddings_is_taken_away() {
    for suite in [Suite::AES128GCM16, with_hmac(Cipher::AesCbc(KeyBits::B256))] {
        let mut tunnel = Tunnel::looped(spec(suite, false, false, false, SPI));
        let mut seq = 0;
        for inner in [inner4(28, 0, true), inner4(61, 0, true), inner6(60)] {
            let next = if inner[0] >> 4 == 6 { 41 } else { IPV4 };
            for (against_analysis, least) in (0..240)
                .map(|least| (0, least))
                .chain([1, 2, 15, 16, 100, 1000].map(|length| (length, 3)))
            {
                seq += 1;
                let plain = plaintext(&inner, against_analysis, least, 16, next);
                let packet = seal(&tunnel, seq, &plain);
                let back = payloads(&tunnel.receive([&packet]));
                assert_eq!(
                    back,
                    std::slice::from_ref(&inner),
                    "{against_analysis} {least}"
                );
            }
        }
        // Longer than what came, wrong in one byte, and not even a trailer.
        let good = plaintext(&inner4(28, 0, true), 0, 3, 16, IPV4);
        for at in 28..good.len() - 1 {
            for flip in [1, 0x80] {
                seq += 1;
                let mut bad = good.clone();
                bad[at] ^= flip;
                let packet = seal(&tunnel, seq, &bad);
                assert!(tunnel.receive([&packet]).is_empty(), "byte {at}");
            }
        }
        assert_eq!(
            tunnel.bench.drops(DropReason::EspBadPadding),
            2 * (good.len() as u64 - 29)
        );
    }
}

#[test]
fn dummy_packets_are_dropped_in_silence_and_counted() {
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, false, false, SPI));
    // The rest may be anything (RFC 4303 section 2.6), nothing included.
    for (number, rest) in (1..).zip([vec![], vec![0xff; 50], inner4(60, 0, true), vec![7; 1000]]) {
        let packet = seal(&tunnel, number, &plaintext(&rest, 0, 0, 4, NO_NEXT));
        assert!(tunnel.receive([&packet]).is_empty());
        assert!(tunnel.receive([&packet]).is_empty());
    }
    assert_eq!(tunnel.bench.drops(DropReason::EspDummy), 4);
    assert_eq!(tunnel.bench.drops(DropReason::EspReplayed), 4);
    assert_eq!(tunnel.bench.events(), []);
    let id = SaKeyId {
        direction: SaDirection::In,
        ..tunnel.out.id
    };
    let sa = tunnel.manager.get(&tunnel.bench.tables.sas, id).unwrap();
    assert_eq!(sa.state.usage().packets, 4, "they are packets of the SA");
}

#[test]
fn packets_are_padded_to_what_the_sa_asks_for() {
    for (suite, v6, udp) in [
        (Suite::AES128GCM16, false, false),
        (with_hmac(Cipher::AesCbc(KeyBits::B256)), true, true),
        (Suite::CHACHA20POLY1305, false, true),
    ] {
        let mut out = spec(suite, v6, udp, true, SPI);
        out.tfc_padding = 700;
        let mut tunnel = Tunnel::looped(out);
        let inner: Vec<_> = [28, 29, 300, 699, 700]
            .map(|length| inner4(length, 0, true))
            .into_iter()
            .chain([inner4(1000, 0, true), inner6(60)])
            .collect();
        let sent = payloads(&tunnel.send(&inner));
        let lengths: Vec<_> = sent.iter().map(Vec::len).collect();
        let around = if v6 { 40 } else { 20 } + if udp { 8 } else { 0 };
        let padded = around + suite.sealed_len(700);
        assert_eq!(lengths[..5], [padded; 5]);
        assert_eq!(lengths[5..], [around + suite.sealed_len(1000), padded]);
        for packet in &sent {
            let total = if v6 {
                Ipv6View::parse(packet).unwrap().total_len()
            } else {
                usize::from(Ipv4View::verify(packet).unwrap().total_len())
            };
            assert_eq!(total, packet.len());
        }
        let back = payloads(&tunnel.receive(&sent));
        let expected: Vec<_> = inner.into_iter().map(one_hop_less).collect();
        assert!(back == expected, "{suite}");
    }
}

#[test]
fn padding_never_makes_a_packet_too_long_for_its_way() {
    for (asked, mtu) in [
        (u32::MAX, 1500),
        (u32::MAX, 1300),
        (9000, 1300),
        (1290, 1300),
    ] {
        let mut out = spec(Suite::AES128GCM16, false, false, true, SPI);
        out.tfc_padding = asked;
        let mut tunnel = Tunnel::looped(out);
        let underlay = Adjacency {
            kind: AdjacencyKind::Rewrite([0; 14]),
            interface: WAN,
            mtu,
        };
        tunnel.bench.set_adjacency(ADJACENCY_NO_ROUTE, underlay);
        let most = Suite::AES128GCM16
            .max_payload(usize::from(mtu) - 20)
            .unwrap();
        let inner: Vec<_> = [28, 500, most]
            .map(|length| inner4(length, 0, true))
            .to_vec();
        let sent = payloads(&tunnel.send(&inner));
        let lengths: Vec<_> = sent.iter().map(Vec::len).collect();
        assert_eq!(lengths, [20 + Suite::AES128GCM16.sealed_len(most); 3]);
        assert!(lengths[0] <= usize::from(mtu) && lengths[0] + 4 > usize::from(mtu));
        assert_eq!(tunnel.receive(&sent).len(), 3);
    }
}

#[test]
fn padding_shows_nothing_of_packets_before() {
    let mut out = spec(with_hmac(Cipher::Null), false, false, false, SPI);
    out.tfc_padding = 1000;
    let mut tunnel = Tunnel::looped(out);
    // Fill every buffer with what must not be seen again.
    for _ in 0..20 {
        let noise = vec![inner4(1300, 0, true); 200];
        tunnel.send(&noise);
    }
    for packet in payloads(&tunnel.send(&vec![inner4(28, 0, true); 200])) {
        let suite = with_hmac(Cipher::Null);
        let padding = &packet[20 + suite.header_len() + 28..20 + suite.header_len() + 1000];
        assert!(padding.iter().all(|byte| *byte == 0));
    }
}
