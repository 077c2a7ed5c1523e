//! GRE and IPIP: protected by a CHILD_SA in transport mode between two gateways, in the clear towards scapy, and with
//! OSPF of Debian's BIRD over them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use culvert_model::bus::SaMode;
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::bird::Bird;
use culvert_tests::configuration::{CHILD, CONNECTION, IF_ID, gateway};
use culvert_tests::exchange::{self, DontFragment};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::traffic::Traffic;
use culvert_tests::wire::{MARKER, Wire};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_secs(1);
const GRE_KEY: u32 = 0xc0ff_ee01;

/// The gateways' own addresses inside the tunnel.
fn inside(side: Side, family: Family) -> String {
    let number = match side {
        Side::A => 1,
        Side::B => 2,
    };
    match family {
        Family::V4 => format!("172.31.0.{number}"),
        Family::V6 => format!("fd00:31::{number}"),
    }
}

/// GRE in the place of the IPsec tunnel, protected by a child in transport mode that says nothing else.
fn protected(side: Side) -> Value {
    let (own, far) = (side.addresses(), side.other().addresses());
    let mut configuration = gateway(side);
    configuration["tunnels"] = json!([]);
    configuration["ip_tunnels"] = json!([{
        "name": "gre0",
        "mode": "gre",
        "key": GRE_KEY,
        "local_address": own.gateway_wan(Family::V4).addr(),
        "remote_address": far.gateway_wan(Family::V4).addr(),
        "if_id": IF_ID,
        "addresses": [
            { "address": format!("{}/30", inside(side, Family::V4)) },
            { "address": format!("{}/64", inside(side, Family::V6)) },
        ],
    }]);
    for route in configuration["routes"].as_array_mut().unwrap() {
        let hop = &mut route["next_hops"][0];
        if hop.get("interface").is_some() {
            hop["interface"] = json!("gre0");
        }
    }
    let child = configuration["connections"][0]["children"][0]
        .as_object_mut()
        .unwrap();
    child.remove("local_selectors");
    child.remove("remote_selectors");
    child.insert("tunnel".to_owned(), json!("gre0"));
    child.insert("mode".to_owned(), json!("transport"));
    configuration
}

fn ping(lab: &Laboratory, from: Place, destination: std::net::IpAddr) -> PingReport {
    let ping = Ping {
        destination,
        count: 20,
        interval: Duration::from_millis(50),
        patience: MOMENT,
        size: 200,
        marker: &MARKER[..16],
    };
    ping.run(&lab.open(from), &Interrupt::default()).unwrap()
}

fn drops(lab: &Laboratory, side: Side, reason: &str) -> u64 {
    let drops = lab.gateway(side).control().drops().unwrap();
    drops.get(reason).copied().unwrap_or(0)
}

/// Packets of side a that no SA was there for.
fn without_sa(lab: &Laboratory) -> u64 {
    let reasons = ["tunnel-no-policy", "tunnel-no-sa", "icmp-rate-limited"];
    let count = |reason| drops(lab, Side::A, reason);
    reasons.into_iter().map(count).sum()
}

/// Around what fits through the tunnel, what fits the hosts' links, and some of all others.
fn sizes() -> impl Iterator<Item = usize> {
    (1..1300)
        .step_by(67)
        .chain(1320..=1500)
        .chain((2650..=2760).step_by(3))
        .chain((2800..20_000).step_by(971))
        .chain([20_000])
}

#[test]
fn gre_in_transport_mode_carries_everything_and_nothing_leaves_without_esp() {
    let mut lab = Laboratory::build().unwrap();
    let wire = Wire::tap(&lab).unwrap();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    lab.launch(Side::A, &protected(Side::A)).unwrap();
    // Alone: its hosts send, and there is no SA.
    lab.wait_ready(Side::A).unwrap();
    wait_for("packets that wait for an SA in vain", UP, || {
        (without_sa(&lab) > 10).then_some(())
    })
    .unwrap();
    lab.start(Side::B, &protected(Side::B)).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
        let far = Side::B.addresses().host(family).addr();
        assert_eq!(ping(&lab, Place::HostA, far).received, 20, "{family:?}");
        // The gateways' own traffic: by a TAP for the tunnel, from an address inside it.
        let far = inside(Side::B, family).parse().unwrap();
        assert_eq!(ping(&lab, Place::GatewayA, far).received, 20, "{family:?}");
    }
    let dump = lab.gateway(Side::A).control().sas().unwrap();
    assert!(dump.sas.len() >= 2);
    for sa in &dump.sas {
        assert_eq!(sa.sa.as_ref().unwrap().mode(), SaMode::Transport);
    }
    let again = exchange::echo(&lab, Family::V4, sizes(), DontFragment::Never).unwrap();
    assert_eq!(again, 0);
    assert!(drops(&lab, Side::A, "fragmented") > 100);
    // The far gateway puts nothing together, neither ESP nor GRE.
    assert_eq!(drops(&lab, Side::B, "reassembled"), 0);
    // Told what fits, the sender fits: one datagram each way is lost to learn it.
    let again = exchange::echo(&lab, Family::V6, sizes(), DontFragment::Never).unwrap();
    assert!(again <= 2, "{again} datagrams were lost");
    for family in Family::BOTH {
        exchange::stream(&lab, family).unwrap();
    }
    // New keys under way.
    let control = lab.gateway(Side::A).control();
    assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
    wait_for("the new CHILD_SA", UP, || {
        (control.installed(CHILD).len() == 1 && control.children(CHILD).len() == 1).then_some(())
    })
    .unwrap();
    let far = Side::B.addresses().host(Family::V4).addr();
    assert_eq!(ping(&lab, Place::HostA, far).received, 20);
    // The SA is gone, and so is the peer; the hosts go on sending.
    lab.stop(Side::B).unwrap();
    control_ends(&lab);
    let before = without_sa(&lab);
    wait_for("packets without an SA", UP, || {
        (without_sa(&lab) > before + 10).then_some(())
    })
    .unwrap();
    lab.stop(Side::A).unwrap();
    let delivered = traffic.stop().unwrap();
    assert!(delivered.forth.received > 100, "{delivered:?}");
    assert!(delivered.back.received > 100, "{delivered:?}");
    wire.cut().unwrap().assert_nothing_in_the_clear();
}

/// Waits until gateway a has no IKE_SA any more.
fn control_ends(lab: &Laboratory) {
    let control = lab.gateway(Side::A).control();
    wait_for("the end of the IKE_SA", UP, || {
        control.established(CONNECTION).is_empty().then_some(())
    })
    .unwrap();
}

/// Waits until both families pass from host to host.
fn wait_open(lab: &Laboratory) {
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
}

#[test]
fn hosts_reach_each_other_by_what_ospf_has_learnt_over_protected_gre() {
    let mut lab = Laboratory::build().unwrap();
    let wire = Wire::tap(&lab).unwrap();
    // No word of the other LAN.
    let configured = |side: Side| {
        let mut configuration = protected(side);
        configuration["routes"]
            .as_array_mut()
            .unwrap()
            .retain(|route| route["next_hops"][0].get("interface").is_none());
        configuration
    };
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    let far = |family| Side::B.addresses().host(family).addr();
    assert_eq!(ping(&lab, Place::HostA, far(Family::V4)).received, 0);
    let [a, b] = Side::BOTH.map(|side| Bird::start(&lab, side).unwrap());
    for protocol in ["ospf2", "ospf3"] {
        wait_for(protocol, UP, || {
            (a.is_adjacent(protocol) && b.is_adjacent(protocol)).then_some(())
        })
        .unwrap();
    }
    wait_open(&lab);
    for family in Family::BOTH {
        let report = ping(&lab, Place::HostA, far(family));
        assert_eq!(report.received, 20, "{family:?}");
        exchange::stream(&lab, family).unwrap();
    }

    // A route that is withdrawn is one no longer, and comes again.
    a.control(&["disable", "ospf2"]).unwrap();
    wait_for("the end of the route", UP, || {
        (ping(&lab, Place::HostA, far(Family::V4)).received == 0).then_some(())
    })
    .unwrap();
    a.control(&["enable", "ospf2"]).unwrap();
    wait_open(&lab);

    // A new dataplane is told what Linux knows.
    let old = lab
        .gateway(Side::A)
        .signal("dataplane", Signal::SIGKILL)
        .unwrap();
    wait_for("its end", UP, || (!old.is_running()).then_some(())).unwrap();
    lab.gateway(Side::A).wait_healthy(UP).unwrap();
    wait_open(&lab);
    drop((a, b));
    lab.stop(Side::B).unwrap();
    lab.stop(Side::A).unwrap();
    wire.cut().unwrap().assert_nothing_in_the_clear();
}
