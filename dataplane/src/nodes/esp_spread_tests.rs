//! ESP packets where several next hops lead to the peer: an SA keeps to one of them, SAs spread.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_crypto::Suite;
use culvert_net::{AddressRange, Flow, Selector};

use super::esp_tests::{Arrivals, Tunnel, any, inner4, keys, policy, spec};
use super::workbench::{HOST_IP, LAN, TO_HOST, TO_ROUTER, packet4};
use crate::graph::NodeId;
use crate::sa::SaMode;
use crate::tables::{ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind};

const SAS: u8 = 64;
const FIRST: u32 = 0xc000_0000;

/// One tunnel whose peer is the same for all of its SAs; each has a destination of its own.
fn with_sas() -> Tunnel {
    let mut nodes = super::tunnels();
    nodes.push(Box::<super::ip4_lookup::Ip4Lookup>::default());
    let out = spec(Suite::AES128GCM16, false, false, true, FIRST);
    let mut tunnel = Tunnel::bare_among(out.clone(), nodes);
    for number in 0..SAS {
        let to = IpAddr::from([10, 2, 0, number]);
        let selector = Selector {
            destination: AddressRange::new(to, to).unwrap(),
            ..any(false)
        };
        let spi = FIRST + u32::from(number);
        let mut one = spec(Suite::AES128GCM16, false, false, true, spi);
        one.selectors = vec![selector];
        let (encryption, integrity) = keys(one.suite, number);
        let sas = &mut tunnel.bench.tables.sas;
        tunnel
            .manager
            .add(sas, one, &encryption, &integrity)
            .unwrap();
        tunnel
            .manager
            .add_policy(sas, policy(selector, spi, 1))
            .unwrap();
    }
    let spread = Adjacency {
        kind: AdjacencyKind::Multipath([TO_HOST, TO_ROUTER].into()),
        interface: 0,
        mtu: 1500,
    };
    tunnel.bench.set_adjacency(ADJACENCY_NO_ROUTE, spread);
    tunnel
}

/// Which way the packets of each SA take.
fn ways(tunnel: &mut Tunnel) -> BTreeMap<u32, (NodeId, u32)> {
    let packets: Vec<_> = (0..SAS)
        .map(|number| packet4(HOST_IP, [10, 2, 0, number].into(), 17, &[0; 100]))
        .collect();
    let mut ways = BTreeMap::new();
    let arrivals: Arrivals = tunnel.send(&packets);
    for (node, meta, bytes) in arrivals {
        let spi = u32::from_be_bytes(*bytes[20..].first_chunk().unwrap());
        assert_eq!(ways.insert(spi, (node, meta.adjacency)), None);
    }
    ways
}

#[test]
fn sas_with_one_peer_spread_and_keep_their_way_while_a_neighbour_is_resolved() {
    let mut tunnel = with_sas();
    let ways = |tunnel: &mut Tunnel| {
        let all = ways(tunnel);
        assert_eq!(all.len(), usize::from(SAS));
        all
    };
    let first = ways(&mut tunnel);
    let by_router = first.values().filter(|(_, way)| *way == TO_ROUTER).count();
    assert!((16..48).contains(&by_router), "{by_router} of {SAS}");
    assert!(first.values().all(|(node, _)| *node == NodeId::Ip4Rewrite));
    assert_eq!(ways(&mut tunnel), first);
    // Now they are looked up as what they are, and wait for the neighbour that they have.
    let router = tunnel.bench.tables.adjacencies.get(TO_ROUTER).unwrap();
    let unresolved = Adjacency {
        kind: AdjacencyKind::Unresolved([203, 0, 113, 2].into()),
        ..router.as_ref().clone()
    };
    tunnel.bench.set_adjacency(TO_ROUTER, unresolved);
    for (spi, (node, way)) in ways(&mut tunnel) {
        assert_eq!(way, first[&spi].1, "{spi:x}");
        let waits = way == TO_ROUTER;
        assert_eq!(waits, node == NodeId::NeighbourResolve, "{spi:x}");
    }
    tunnel.bench.finish();
}

#[test]
fn an_sa_has_the_hash_that_its_packets_show() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let out = spec(Suite::AES128GCM16, v6, udp, true, FIRST);
        let mut tunnel = Tunnel::looped(out);
        let bytes = tunnel.send(&[inner4(100, 0, true)]).remove(0).2;
        let sas = &tunnel.bench.tables.sas;
        let sa = tunnel.manager.get(sas, tunnel.out.id).unwrap();
        assert_eq!(Flow::spread_of(&bytes), Ok(sa.spread), "{v6} {udp}");
    }
    // In transport mode, too.
    let mut out = spec(Suite::AES128GCM16, false, false, true, FIRST);
    out.mode = SaMode::Transport;
    out.source = HOST_IP.into();
    let mut tunnel = Tunnel::looped(out);
    let packet = packet4(HOST_IP, [192, 0, 2, 2].into(), 17, &[0; 100]);
    tunnel
        .bench
        .put(NodeId::TunnelOutput, LAN, &packet, |meta| {
            meta.adjacency = super::workbench::INTO_TUNNEL;
        });
    tunnel.bench.run();
    let bytes = tunnel.bench.take_arrived().remove(0).bytes;
    let sas = &tunnel.bench.tables.sas;
    let sa = tunnel.manager.get(sas, tunnel.out.id).unwrap();
    assert_eq!((bytes[9], Flow::spread_of(&bytes)), (50, Ok(sa.spread)));
}
