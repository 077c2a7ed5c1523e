//! As many tunnels as the largest box has, set up one by one as the bus asks for them, and packets through all of them:
//! a table that is searched through from end to end anywhere on the way would take minutes.

use std::collections::HashMap;
use std::time::Duration;

use culvert_crypto::{Portable, Suite};
use culvert_net::Ipv4View;
use nix::time::{ClockId, clock_gettime};

use super::*;
use crate::driver::generator::Random;
use crate::nodes::workbench::{LAN, WAN, WAN_IP};
use crate::nodes::{layer3, tunnels};
use crate::sa::SaManager;
use crate::sa::service::{policy_from_bus, sa_from_bus};

const TUNNELS: u32 = 10_000;
const PACKETS: u64 = 20_000;
/// Processor time, so that other work on the machine does not count: six times what it takes.
const ENOUGH: Duration = Duration::from_secs(5);

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// The network behind a tunnel, and the peer at its end.
fn network(tunnel: u32) -> [u8; 4] {
    let [_, a, b, _] = (tunnel << 8).to_be_bytes();
    [100, 64 + a, b, 0]
}

fn peer(tunnel: u32) -> [u8; 4] {
    let [_, _, a, b] = tunnel.to_be_bytes();
    [198, 18, a, b]
}

fn selector(first: [u8; 4], last: [u8; 4]) -> culvert_model::types::Selector {
    culvert_model::types::Selector {
        first: Some(IpAddr::from(first).into()),
        last: Some(IpAddr::from(last).into()),
        protocol: 0,
        first_port: 0,
        last_port: 65535,
    }
}

/// Half of the tunnels take everything, the others what is for their network.
fn far(tunnel: u32) -> culvert_model::types::Selector {
    if tunnel.is_multiple_of(2) {
        return selector([0; 4], [255; 4]);
    }
    let [a, b, c, _] = network(tunnel);
    selector([a, b, c, 0], [a, b, c, 255])
}

fn sa(tunnel: u32, direction: bus::Direction) -> bus::Sa {
    let (near, far) = (selector([0; 4], [255; 4]), far(tunnel));
    let (ours, theirs) = (IpAddr::V4(WAN_IP), IpAddr::from(peer(tunnel)));
    let outbound = direction == bus::Direction::Out;
    let (source, destination) = if outbound {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    bus::Sa {
        key: Some(bus::SaKey {
            spi: 0x10_0000 + tunnel,
            direction: direction.into(),
            destination: Some(destination.into()),
        }),
        source: Some(source.into()),
        mode: bus::SaMode::Tunnel.into(),
        encryption: bus::EncryptionAlgorithm::AesGcm16.into(),
        encryption_key_bits: 128,
        integrity: bus::IntegrityAlgorithm::Aead.into(),
        replay_window: 64,
        if_id: 1 + tunnel,
        source_selectors: vec![if outbound { near.clone() } else { far.clone() }],
        destination_selectors: vec![if outbound { far } else { near }],
        ..bus::Sa::default()
    }
}

fn policy(tunnel: u32) -> bus::Policy {
    bus::Policy {
        key: Some(bus::PolicyKey {
            direction: bus::policy_key::Direction::Out.into(),
            if_id: 1 + tunnel,
            source: Some(selector([0; 4], [255; 4])),
            destination: Some(far(tunnel)),
            spi: 0x10_0000 + tunnel,
        }),
        action: bus::policy::Action::Protect.into(),
        priority: 1,
        ..bus::Policy::default()
    }
}

fn key(tunnel: u32) -> Vec<u8> {
    let mut key = vec![0; Suite::AES128GCM16.encryption_key_len()];
    Random::new(tunnel.into()).fill(&mut key);
    key
}

fn since(began: Duration) -> Duration {
    processor_time().saturating_sub(began)
}

/// As charon does by way of the bus: both SAs of each tunnel and the outbound policy.
fn negotiate(gateway: &mut Box) -> SaManager {
    let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
    for number in 0..TUNNELS {
        for direction in [bus::Direction::In, bus::Direction::Out] {
            let spec = sa_from_bus(&sa(number, direction)).unwrap();
            gateway
                .tables
                .update(|tables| manager.add(&mut tables.sas, spec, &key(number), &[]))
                .unwrap();
        }
        let spec = policy_from_bus(&policy(number)).unwrap();
        gateway
            .tables
            .update(|tables| manager.add_policy(&mut tables.sas, spec))
            .unwrap();
        assert_eq!(manager.in_use(1 + number).count(), 1);
        gateway.plane.set_tunnel_mtu(1 + number, 1438);
    }
    manager
}

/// Everything goes as it came.
fn delete(gateway: &mut Box) {
    for number in 0..TUNNELS {
        gateway.delete(&format!("tunnel/ipsec{number}"));
    }
    assert_eq!(gateway.tables.current().sas.tunnels.iter().count(), 0);
    let down = AdjacencyKind::Drop(DropReason::InterfaceDown);
    assert_eq!(gateway.kind("100.64.7.7"), down);
}

#[test]
fn ten_thousand_tunnels_are_set_up_and_carry_packets() {
    let began = processor_time();
    let mut gateway = Box::empty();
    for value in [
        interface("lan"),
        interface("wan"),
        address("lan", "10.1.0.1/24"),
        address("wan", "203.0.113.1/24"),
        route("198.18.0.0/15", &["203.0.113.2"]),
    ] {
        gateway.create(value);
    }
    gateway.wait(5 * SECOND);
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    assert_eq!((gateway.index("lan"), gateway.index("wan")), (LAN, WAN));
    for number in 0..TUNNELS {
        let name = format!("ipsec{number}");
        gateway.create(tunnel(&name, 1 + number));
        let [a, b, c, _] = network(number);
        gateway.create(route(&format!("{a}.{b}.{c}.0/24"), &[&format!("%{name}")]));
    }
    let tunnels_there = since(began);
    let manager = negotiate(&mut gateway);
    let all_there = since(began);

    let nodes = layer3().into_iter().chain(tunnels());
    let mut bench = Workbench::with(nodes.collect());
    bench.tables = Tables::clone(&gateway.tables.current());
    bench.tables.forwarding = true;
    bench.now = gateway.now;
    let mut random = Random::new(0x10_000);
    let (mut sent, mut out) = (HashMap::<u32, u64>::new(), Vec::new());
    for packet in 0..PACKETS {
        let number = random.below(TUNNELS.into()) as u32;
        let [a, b, c, _] = network(number);
        let to = [a, b, c, 1 + random.below(254) as u8];
        let bytes = packet4(
            [10, 1, 0, 2].into(),
            to.into(),
            17,
            &[0, 9, 0, 9, 0, 8, 0, 0],
        );
        bench.receive(LAN, &from_host(&bytes));
        *sent.entry(number).or_default() += 1;
        if packet % 256 == 255 || packet + 1 == PACKETS {
            bench.run();
            out.extend(bench.sent(WAN));
        }
    }
    assert_eq!(out.len() as u64, PACKETS);
    let mut arrived = HashMap::<u32, u64>::new();
    for frames in out.chunks_mut(256) {
        for frame in frames {
            let packet = Ipv4View::parse(&frame[14..]).unwrap();
            let number = u32::from_be_bytes(packet.payload()[..4].try_into().unwrap()) - 0x10_0000;
            assert_eq!(packet.destination().octets(), peer(number));
            *arrived.entry(number).or_default() += 1;
            // Back to where it came from: what the peer would send with the same key.
            let (source, destination) = frame[26..34].split_at_mut(4);
            source.swap_with_slice(destination);
            frame[..6].copy_from_slice(&WAN_MAC.0);
            bench.receive(WAN, frame);
        }
        bench.run();
    }
    assert_eq!(arrived, sent);
    // The packets inside are for the network behind the tunnel that they come from: those of a tunnel that takes
    // everything go there once more, those of the others are not theirs to send.
    let everything: u64 = sent
        .iter()
        .filter(|(of, _)| *of % 2 == 0)
        .map(|(_, count)| *count)
        .sum();
    assert_eq!(bench.sent(WAN).len() as u64, everything);
    assert_eq!(
        bench.drops(DropReason::EspSelectorMismatch),
        PACKETS - everything
    );
    for (number, count) in &sent {
        let id = sa_from_bus(&sa(*number, bus::Direction::In)).unwrap().id;
        let inbound = manager.get(&bench.tables.sas, id).unwrap();
        assert_eq!(inbound.state.usage().packets, *count);
    }
    bench.finish();
    println!(
        "tunnels {tunnels_there:?}, SAs and policies {:?}, all {:?}",
        all_there.saturating_sub(tunnels_there),
        since(began)
    );
    assert!(since(began) < ENOUGH, "{:?}", since(began));

    delete(&mut gateway);
}
