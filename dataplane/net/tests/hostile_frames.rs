//! Damaged frames through every parser and every in-place edit: nothing panics, and a view never
//! shows more than arrived.
//!
//! The frames start out right, so that damage reaches the inner layers; `frames` is the corpus.

use culvert_net::checksum::{complete_l4, pseudo_v6};
use culvert_net::nd::{
    NeighbourAdvert, NeighbourSolicit, PrefixInformation, RouterAdvert, RouterSolicit,
};
use culvert_net::udp::NatTraversal;
use culvert_net::{
    ArpPacket, EspHeader, EtherType, EthernetHeader, EthernetView, Flow, Icmpv4Type, Icmpv4View,
    Icmpv6View, Ipv4Header, Ipv4Mut, Ipv4View, Ipv6Header, Ipv6Mut, Ipv6Prefix, Ipv6View, MacAddr,
    Protocol, TcpView, UdpHeader, UdpView, esp, icmpv4, icmpv6, tcp,
};
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn ethernet(ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    [
        &EthernetHeader {
            destination: MAC,
            source: MAC,
            ether_type,
        }
        .to_bytes()[..],
        payload,
    ]
    .concat()
}

fn ipv4(protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: (20 + payload.len()) as u16,
        identification: 7,
        flags_fragment: Ipv4Header::DONT_FRAGMENT,
        ttl: 64,
        protocol,
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
    };
    ethernet(EtherType::IPV4, &[&header.to_bytes()[..], payload].concat())
}

fn ipv6(next_header: Protocol, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header,
        hop_limit: 255,
        source: MAC.link_local(),
        destination: MAC.link_local(),
    };
    ethernet(EtherType::IPV6, &[&header.to_bytes()[..], payload].concat())
}

/// One good frame of each kind that a gateway meets.
fn frames() -> Vec<Vec<u8>> {
    let mut arp = [0; ArpPacket::LEN];
    ArpPacket::request(MAC, [10, 0, 0, 1].into(), [10, 0, 0, 2].into()).write(&mut arp);
    let syn = [
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x80, 2, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 4, 5,
        0xb4, 4, 2, 1, 3, 3, 7, 0,
    ];
    let mut udp = vec![0; 8];
    if let Some(header) = udp.first_chunk_mut() {
        UdpHeader {
            source: 4500,
            destination: 4500,
            length: 40,
            checksum: 0,
        }
        .write(header);
    }
    udp.extend([0xc0; 32]);
    let mut echo = [0x55; 40];
    assert_eq!(icmpv4::seal(&mut echo, Icmpv4Type::ECHO_REQUEST, 1), Ok(()));
    let options: Vec<u8> = [
        &[44, 0, 1, 4, 0, 0, 0, 0][..],
        &[6, 0, 0, 1, 0, 0, 0, 9],
        &syn,
    ]
    .concat();
    let own = MAC.link_local();
    let (mut solicit, mut advert) = ([0; 32], [0; 32]);
    NeighbourSolicit {
        target: own,
        source_link: Some(MAC),
    }
    .write(own, own, &mut solicit);
    NeighbourAdvert {
        target: own,
        target_link: Some(MAC),
        router: true,
        solicited: true,
        overrides: true,
    }
    .write(own, own, &mut advert);
    let mut router_solicit = [0; 16];
    RouterSolicit {
        source_link: Some(MAC),
    }
    .write(own, own, &mut router_solicit);
    let prefix = PrefixInformation {
        prefix: Ipv6Prefix::ALL,
        on_link: true,
        autonomous: true,
        valid_lifetime: 1,
        preferred_lifetime: 1,
    };
    let mut router_advert = [0; RouterAdvert::MAX_LEN];
    let length = RouterAdvert {
        hop_limit: 64,
        managed: false,
        other: false,
        router_lifetime: 9,
        reachable_time: 0,
        retransmit_timer: 0,
        source_link: Some(MAC),
        mtu: Some(1500),
        prefixes: [Some(prefix); 4],
    }
    .write(own, own, &mut router_advert);
    vec![
        ethernet(EtherType::ARP, &arp),
        ethernet(EtherType::VLAN, &[0, 5, 8, 0, 0x45]),
        ipv4(Protocol::TCP, &syn),
        ipv4(Protocol::UDP, &udp),
        ipv4(Protocol::ICMP, &echo),
        ipv4(Protocol::ESP, &[0x11; 60]),
        ipv6(
            Protocol::HOP_BY_HOP,
            &[&[60, 0, 1, 4, 0, 0, 0, 0][..], &options].concat(),
        ),
        ipv6(Protocol::UDP, &udp),
        ipv6(Protocol::ICMPV6, &solicit),
        ipv6(Protocol::ICMPV6, &advert),
        ipv6(Protocol::ICMPV6, &router_solicit),
        ipv6(
            Protocol::ICMPV6,
            router_advert.get(..length).unwrap_or_default(),
        ),
    ]
}

/// Everything that looks at or edits what is behind an IP header.
fn transports(protocol: Protocol, payload: &mut [u8]) -> usize {
    let mut read = 0;
    match protocol {
        Protocol::TCP => {
            if let Ok(view) = TcpView::parse(payload) {
                read += 20 + view.options().len() + view.payload().len();
                assert_eq!(read, payload.len());
            }
            tcp::clamp_mss(payload, 1000);
        }
        Protocol::UDP => {
            if let Ok(view) = UdpView::parse(payload) {
                assert!(8 + view.payload().len() <= payload.len());
                if let NatTraversal::Esp(inner) = NatTraversal::of(view.payload()) {
                    assert!(EspHeader::parse(inner).is_ok());
                }
                read += 1;
            }
        }
        Protocol::ICMP => {
            read += usize::from(Icmpv4View::verify(payload).is_ok());
            icmpv4::echo_reply(payload);
        }
        Protocol::ICMPV6 => {
            let (own, pseudo) = (MAC.link_local(), payload.len() as u32);
            let right = pseudo_v6(own, own, Protocol::ICMPV6, pseudo)
                .add_bytes(payload)
                .finish()
                == 0;
            assert_eq!(
                Icmpv6View::verify(payload, own, own).is_ok(),
                right && payload.len() >= 8
            );
            read += usize::from(NeighbourSolicit::parse(payload).is_ok())
                + usize::from(NeighbourAdvert::parse(payload).is_ok())
                + usize::from(RouterSolicit::parse(payload).is_ok())
                + usize::from(RouterAdvert::parse(payload).is_ok());
            icmpv6::echo_reply(payload);
        }
        Protocol::ESP => {
            read += usize::from(EspHeader::parse(payload).is_ok());
            if let Ok((_, length)) = esp::read_trailer(payload) {
                assert!(length + 2 <= payload.len());
            }
        }
        _ => {}
    }
    let _ = complete_l4(payload, 0, 16);
    read
}

/// Walks a frame as the dataplane would; how much of it could be read.
fn walk(frame: &mut [u8]) -> usize {
    let Ok(view) = EthernetView::parse(frame) else {
        return 0;
    };
    let _ = view.vlan();
    let (kind, payload) = (view.ether_type(), view.payload());
    let flow = Flow::of(payload).is_ok();
    match kind {
        EtherType::ARP => usize::from(ArpPacket::parse(payload).is_ok()),
        EtherType::IPV4 => {
            let Ok(view) = Ipv4View::parse(payload) else {
                return 0;
            };
            assert!(flow && usize::from(view.total_len()) <= payload.len());
            let (protocol, right) = (view.protocol(), Ipv4View::verify(payload).is_ok());
            let mut packet = payload
                .get(..usize::from(view.total_len()))
                .unwrap_or_default()
                .to_vec();
            let start = view.header_len();
            let left = Ipv4Mut::new(&mut packet)
                .ok()
                .and_then(|mut header| header.decrement_ttl());
            assert_eq!(left.is_some(), view.ttl() > 0);
            assert!(
                !right || Ipv4View::verify(&packet).is_ok(),
                "a right checksum stays right"
            );
            1 + transports(protocol, packet.get_mut(start..).unwrap_or_default())
        }
        EtherType::IPV6 => {
            let Ok(view) = Ipv6View::parse(payload) else {
                return 0;
            };
            let mut packet = payload.get(..view.total_len()).unwrap_or_default().to_vec();
            let layer = view.upper_layer();
            assert_eq!(flow, layer.is_ok());
            let _ = Ipv6Mut::new(&mut packet).map(|mut header| header.decrement_hop_limit());
            match layer {
                Ok(layer) if layer.has_transport_header() => {
                    1 + transports(
                        layer.protocol,
                        packet.get_mut(40 + layer.offset..).unwrap_or_default(),
                    )
                }
                _ => 1,
            }
        }
        _ => 0,
    }
}

#[test]
fn good_frames_are_read_to_their_end() {
    for (index, mut frame) in frames().into_iter().enumerate() {
        // A tag hides what is behind it, ARP has one layer, the others two.
        let layers = match frame.get(12..14) {
            Some([0x81, 0x00]) => 0,
            Some([0x08, 0x06]) => 1,
            _ => 2,
        };
        assert!(walk(&mut frame) >= layers, "frame {index}");
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_survived() {
    for frame in frames() {
        for cut in 0..frame.len() {
            walk(&mut frame.get(..cut).unwrap_or_default().to_vec());
        }
        for bit in 0..frame.len() * 8 {
            let mut frame = frame.clone();
            if let Some(byte) = frame.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            walk(&mut frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn damaged_frames_are_survived(
        mut frame in proptest::sample::select(frames()),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        for (at, value) in damage {
            let at = at.index(frame.len());
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        walk(&mut frame);
    }

    #[test]
    fn random_bytes_behind_a_good_header_are_survived(
        kind in proptest::sample::select(vec![EtherType::ARP, EtherType::IPV4, EtherType::IPV6, EtherType::VLAN]),
        payload in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        walk(&mut ethernet(kind, &payload));
    }
}
