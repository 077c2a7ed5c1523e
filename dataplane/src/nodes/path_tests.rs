//! Paths that take less than the link, and the order of what is cut and what is not.

use culvert_crypto::Suite;
use culvert_net::{EspHeader, Ipv4View, Ipv6View};

use super::esp_tests::{Tunnel, inner4, payloads, spec};
use super::workbench::{FAR_IP, HOST_IP, LAN, TO_ROUTER, TUNNEL, WAN, Workbench, packet4};
use super::{ip_fragment, ip_reassembly, ip4_local, ip4_rewrite, ip6_local, ip6_rewrite};
use crate::graph::{Node, NodeId};
use crate::path_mtu::{Known, PathMtuTable, QuotedEsp, TooBig, Verdict};
use crate::tables::{Adjacency, Fragmentation, InterfaceKind};

const SPI: u32 = 0xc000_0001;

impl Tunnel {
    fn learn_path_mtu(&mut self, mtu: u16) {
        let mut table = PathMtuTable::default();
        let sas = &self.bench.tables.sas;
        let sa = self.manager.get(sas, self.out.id).unwrap();
        let message = TooBig {
            vrf: 0,
            mtu: u32::from(mtu),
            packet: QuotedEsp {
                source: self.out.source,
                destination: self.out.id.destination,
                udp: self.out.udp,
                spi: self.out.id.spi.get(),
                sequence: None,
                length: 1500,
            },
        };
        let known = Known {
            sa,
            vrf: 0,
            link_mtu: 1500,
            learn: true,
        };
        assert_eq!(table.hear(&message, Some(known), 0), Verdict::Learnt);
        self.bench.tables.path_mtus = table.published();
    }

    fn set_tunnel(&mut self, change: impl FnOnce(&mut Fragmentation, &mut bool)) {
        self.bench.change_interface(TUNNEL, |interface| {
            if let InterfaceKind::Tunnel {
                fragmentation,
                learn_path_mtu,
                ..
            } = &mut interface.kind
            {
                change(fragmentation, learn_path_mtu);
            }
        });
    }
}

fn tunnel(v6: bool) -> Tunnel {
    Tunnel::looped(spec(Suite::AES128GCM16, v6, false, true, SPI))
}

/// What routers on the way have said makes packets smaller: cut or refused before encryption.
#[test]
fn a_path_that_takes_less_than_the_link_is_kept_to() {
    let mut tunnel = tunnel(false);
    tunnel.learn_path_mtu(1400);
    let fits = Suite::AES128GCM16.max_payload(1380).unwrap();
    let arrivals = tunnel.send(&[
        inner4(fits, 0, true),
        inner4(fits + 1, 0, true),
        inner4(fits + 1, 0, false),
    ]);
    let lengths: Vec<_> = arrivals
        .iter()
        .map(|(node, meta, bytes)| (*node, meta.icmp.mtu, bytes.len()))
        .collect();
    assert!(
        lengths.contains(&(NodeId::IcmpError, fits as u16, fits + 1)),
        "{lengths:?}"
    );
    let sent: Vec<_> = lengths
        .iter()
        .filter(|(node, ..)| *node == NodeId::Ip4Rewrite)
        .collect();
    assert_eq!(sent.len(), 1, "{lengths:?}");
    assert!((1397..=1400).contains(&sent[0].2));
    assert!(lengths.iter().any(|(node, ..)| *node == NodeId::IpFragment));
    tunnel.set_tunnel(|_, learn_path_mtu| *learn_path_mtu = false);
    let arrivals = tunnel.send(&[inner4(fits + 1, 0, true)]);
    assert_eq!(arrivals[0].0, NodeId::Ip4Rewrite, "nobody is believed");
}

/// Where packets are cut after encryption, the path decides into which pieces.
#[test]
fn an_esp_packet_is_cut_to_its_path() {
    for v6 in [false, true] {
        let mut tunnel = tunnel(v6);
        tunnel.set_tunnel(|fragmentation, _| *fragmentation = Fragmentation::After);
        tunnel.learn_path_mtu(1300);
        let arrivals = tunnel.send(&[inner4(1200, 0, true), inner4(1400, 0, true)]);
        let went: Vec<_> = arrivals.iter().map(|(node, ..)| *node).collect();
        let rewrite = if v6 {
            NodeId::Ip6Rewrite
        } else {
            NodeId::Ip4Rewrite
        };
        assert_eq!(went.len(), 2);
        assert!(went.contains(&rewrite) && went.contains(&NodeId::IpFragment));
    }
}

/// Every node that a packet meets between tunnel-output and the link, and back.
fn whole_way() -> Vec<Box<dyn Node>> {
    let mut nodes = super::tunnels();
    nodes.push(Box::<ip_fragment::IpFragment>::default());
    nodes.push(Box::<ip4_rewrite::Ip4Rewrite>::default());
    nodes.push(Box::<ip6_rewrite::Ip6Rewrite>::default());
    nodes.push(Box::<ip4_local::Ip4Local>::default());
    nodes.push(Box::<ip6_local::Ip6Local>::default());
    nodes.push(Box::<ip_reassembly::IpReassembly>::default());
    nodes
}

/// Of packets that are not cut: between, before and behind those that are.
const LENGTHS: [usize; 9] = [100, 1490, 101, 102, 1491, 1492, 103, 1493, 104];

/// The sequence number of an outer packet, if it is whole or a first fragment.
fn sequence(outer: &[u8]) -> Option<u32> {
    let esp = if outer[0] >> 4 == 4 {
        let view = Ipv4View::parse(outer).unwrap();
        (view.fragment_offset() == 0).then_some(&outer[20..])
    } else {
        let layer = Ipv6View::parse(outer).unwrap().upper_layer().unwrap();
        layer
            .has_transport_header()
            .then_some(&outer[40 + layer.offset..])
    };
    Some(EspHeader::parse(esp?).unwrap().sequence)
}

/// In one vector, in which small packets stand behind large ones, nobody overtakes: neither on the way out, wherever
/// the large ones are cut, nor where they are put together.
#[test]
fn packets_that_are_not_cut_do_not_overtake_those_that_are() {
    for (v6, path_mtu) in [(false, 1500), (true, 1500), (false, 1300), (true, 1300)] {
        let out = spec(Suite::AES128GCM16, v6, false, true, SPI);
        let mut tunnel = Tunnel::looped_among(out, whole_way());
        tunnel.set_tunnel(|fragmentation, _| *fragmentation = Fragmentation::After);
        if path_mtu < 1500 {
            tunnel.learn_path_mtu(path_mtu);
        }
        let packets = LENGTHS.map(|length| inner4(length, 0, false));
        let frames = tunnel.send(&packets);
        assert!(
            frames
                .iter()
                .all(|(node, ..)| *node == NodeId::InterfaceOutput)
        );
        let outer: Vec<Vec<u8>> = frames
            .iter()
            .map(|(.., frame)| frame[14..].to_vec())
            .collect();
        assert!(
            outer
                .iter()
                .all(|packet| packet.len() <= usize::from(path_mtu))
        );
        assert_eq!(outer.len(), LENGTHS.len() + 4, "four were cut in two");
        let order: Vec<_> = outer.iter().filter_map(|packet| sequence(packet)).collect();
        assert_eq!(order, (1..=LENGTHS.len() as u32).collect::<Vec<_>>());
        let local = if v6 {
            NodeId::Ip6Local
        } else {
            NodeId::Ip4Local
        };
        for packet in &outer {
            tunnel.bench.put(local, WAN, packet, |_| {});
        }
        let lengths: Vec<_> = tunnel
            .receive([])
            .iter()
            .map(|(.., packet)| packet.len())
            .collect();
        assert_eq!(lengths, LENGTHS);
        tunnel.bench.finish();
    }
}

#[test]
fn fragments_made_before_encryption_keep_their_place() {
    let out = spec(Suite::AES128GCM16, false, false, true, SPI);
    let mut tunnel = Tunnel::looped_among(out, whole_way());
    let packets = LENGTHS.map(|length| inner4(length, 0, false));
    let sent: Vec<_> = payloads(&tunnel.send(&packets))
        .iter()
        .map(|frame| frame[14..].to_vec())
        .collect();
    let mut lengths = Vec::new();
    for (.., packet) in tunnel.receive(&sent) {
        let view = Ipv4View::parse(&packet).unwrap();
        if view.fragment_offset() == 0 {
            lengths.push((packet.len() <= 104).then_some(packet.len()));
        }
    }
    assert_eq!(
        lengths,
        LENGTHS.map(|length| (length <= 104).then_some(length))
    );
}

#[test]
fn plain_packets_keep_their_order_too() {
    let mut bench = Workbench::with(whole_way());
    let adjacency = bench.tables.adjacencies.get(TO_ROUTER).unwrap();
    let narrow = Adjacency {
        mtu: 1400,
        ..adjacency.as_ref().clone()
    };
    bench.set_adjacency(TO_ROUTER, narrow);
    for (number, length) in LENGTHS.iter().enumerate() {
        let mut payload = vec![0; *length - 20];
        payload[0] = number as u8;
        let packet = packet4(HOST_IP, FAR_IP, 17, &payload);
        bench.put(NodeId::Ip4Rewrite, LAN, &packet, |meta| {
            meta.adjacency = TO_ROUTER;
        });
    }
    bench.run();
    let order: Vec<_> = bench
        .arrived()
        .iter()
        .filter(|arrived| {
            Ipv4View::parse(&arrived.bytes[14..])
                .unwrap()
                .fragment_offset()
                == 0
        })
        .map(|arrived| arrived.bytes[34])
        .collect();
    assert_eq!(order, (0..LENGTHS.len() as u8).collect::<Vec<_>>());
    let view = |bytes: &[u8]| Ipv4View::parse(&bytes[14..]).unwrap().ttl();
    assert!(
        bench
            .arrived()
            .iter()
            .all(|arrived| view(&arrived.bytes) == 63)
    );
    bench.finish();
}
