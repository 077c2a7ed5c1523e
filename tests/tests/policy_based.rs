//! Peers without tunnel interfaces: policies alone say what is protected (RFC 4301 section 4.4.1). The routes of both
//! gateways lead straight to the other's LAN, in the clear, so that whatever a policy does not catch would be seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::thread::sleep;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::{CHILD, gateway};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::stock::{Proof, Stock};
use culvert_tests::traffic::Traffic;
use culvert_tests::wire::{Kind, MARKER, Wire};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const UP: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_secs(1);

/// Without a tunnel, and with routes that know nothing of protection.
fn policy_based(side: Side) -> Value {
    let mut configuration = gateway(side);
    configuration["tunnels"] = json!([]);
    for route in configuration["routes"].as_array_mut().unwrap() {
        let hop = &mut route["next_hops"][0];
        if hop.get("interface").is_some() {
            let v6 = route["destination"].as_str().unwrap().contains(':');
            let family = if v6 { Family::V6 } else { Family::V4 };
            let via = side.addresses().router(family).addr().to_string();
            route["next_hops"] = json!([{ "gateway": via }]);
        }
    }
    let child = configuration["connections"][0]["children"][0]
        .as_object_mut()
        .unwrap();
    child.remove("tunnel");
    configuration
}

/// IPv4 only: what the stock strongSwan of the laboratory does.
fn for_stock() -> Value {
    let mut configuration = policy_based(Side::A);
    for list in ["local_selectors", "remote_selectors"] {
        let selectors = &mut configuration["connections"][0]["children"][0][list];
        selectors
            .as_array_mut()
            .unwrap()
            .retain(|item| !item["selector"].as_str().unwrap().contains(':'));
    }
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

#[test]
fn two_gateways_protect_by_policy_from_before_the_first_sa_to_after_the_last() {
    let mut lab = Laboratory::build().unwrap();
    let wire = Wire::tap(&lab).unwrap();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    lab.launch(Side::A, &policy_based(Side::A)).unwrap();
    // Alone: its routes lead to the far LAN, and nothing goes there.
    lab.wait_ready(Side::A).unwrap();
    sleep(2 * MOMENT);
    lab.start(Side::B, &policy_based(Side::B)).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
        let far = Side::B.addresses().host(family).addr();
        assert_eq!(ping(&lab, Place::HostA, far).received, 20, "{family:?}");
        // The gateway itself is behind its own policies, too.
        let lan = Side::B.addresses().gateway_lan(family).addr();
        assert_eq!(ping(&lab, Place::HostA, lan).received, 20, "{family:?}");
    }
    // A rekey keeps the newest policy in front.
    let control = lab.gateway(Side::A).control();
    assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
    sleep(2 * MOMENT);
    for process in ["charon", "iked-bridge", "dataplane"] {
        let old = lab
            .gateway(Side::A)
            .signal(process, Signal::SIGKILL)
            .unwrap();
        wait_for("its end", UP, || (!old.is_running()).then_some(())).unwrap();
        lab.gateway(Side::A).wait_healthy(UP).unwrap();
        lab.wait_open(Family::V4, UP).unwrap();
        sleep(MOMENT);
    }
    lab.stop(Side::B).unwrap();
    sleep(2 * MOMENT);
    lab.stop(Side::A).unwrap();
    let delivered = traffic.stop().unwrap();
    assert!(delivered.forth.received > 100, "{delivered:?}");
    assert!(delivered.back.received > 100, "{delivered:?}");
    wire.cut().unwrap().assert_nothing_in_the_clear();
}

#[test]
fn a_stock_strongswan_is_a_peer_without_a_tunnel_interface() {
    let mut lab = Laboratory::build().unwrap();
    let mut configuration = for_stock();
    configuration["connections"][0]["children"][0]["start_action"] = json!("trap");
    lab.start(Side::A, &configuration).unwrap();
    let wire = Wire::tap(&lab).unwrap();
    let far = Side::B.addresses().host(Family::V4).addr();
    assert_eq!(ping(&lab, Place::HostA, far).received, 0);
    let stock = Stock::start(&lab, Proof::Psk).unwrap();
    // The first packet asks for the SA.
    lab.wait_open(Family::V4, UP).unwrap();
    assert_eq!(ping(&lab, Place::HostA, far).received, 20);
    let sas = stock.swanctl(&["--list-sas"]).unwrap();
    assert!(sas.contains("ESTABLISHED"), "{sas}");
    drop(stock);
    assert_eq!(ping(&lab, Place::HostA, far).received, 0);
    let seized = wire.cut().unwrap();
    seized.assert_nothing_in_the_clear();
    let esp = seized
        .of(Side::A)
        .filter(|packet| matches!(packet.kind, Kind::Esp { .. }));
    assert!(esp.count() >= 20);
}
