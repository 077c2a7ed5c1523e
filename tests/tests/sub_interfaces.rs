//! One gateway with VLANs on its LAN, a loopback, and routes between VRFs: scapy is the hosts behind the tags, the
//! kernel's router answers what reaches it.
//!
//! ```text
//!   scapy, untagged   10.1.0.10    --+                                     wan  192.0.2.1, a Linux router
//!   scapy, VLAN 100   172.16.100.10 -+- lan (trunk) gateway-a  (default) --+
//!   scapy, 5.100      172.16.5.10  --+        lan.100 in VRF guests; lo0 203.0.113.7
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::Namespace;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::scapy::interpreter;
use serde_json::{Value, json};

const SINGLE: [[u16; 2]; 1] = [[0x8100, 100]];
const DOUBLE: [[u16; 2]; 2] = [[0x88a8, 5], [0x8100, 100]];
const ROUTER: &str = "192.0.2.1";
const LOOPBACK: &str = "203.0.113.7";
/// An answer comes within milliseconds on an idle machine.
const SECONDS: u32 = 10;
/// When none is expected.
const MOMENT: u32 = 1;

fn configuration() -> Value {
    let own = Side::A.addresses();
    let wan = own.gateway_wan(Family::V4).to_string();
    let lan = own.gateway_lan(Family::V4).to_string();
    let router = own.router(Family::V4).addr().to_string();
    assert_eq!(router, ROUTER);
    let lan6 = own.gateway_lan(Family::V6).to_string();
    let addresses = |address: &str| json!([{ "address": address }]);
    json!({
        "vrfs": [{ "name": "guests" }],
        "interfaces": [
            { "name": "wan", "device": "wan0", "addresses": addresses(&wan) },
            { "name": "lan", "device": "lan0", "reverse_path": "strict",
              "addresses": [{ "address": lan }, { "address": lan6 }] },
            { "name": "lan.100", "parent": "lan", "vlan": 100, "vrf": "guests", "reverse_path": "strict",
              "addresses": addresses("172.16.100.1/24") },
            { "name": "lan.5.100", "parent": "lan", "outer_vlan": 5, "vlan": 100,
              "addresses": addresses("172.16.5.1/24") },
        ],
        "loopbacks": [{ "name": "lo0", "addresses": addresses("203.0.113.7/32") }],
        "routes": [
            { "vrf": "guests", "destination": "0.0.0.0/0", "next_hops": [{ "gateway": router, "vrf": "default" }] },
            { "destination": "172.16.100.0/24", "next_hops": [{ "vrf": "guests" }] },
        ],
    })
}

/// The hosts behind the tags.
struct Hosts {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Hosts {
    fn start(namespace: &Namespace) -> Self {
        let mut child = namespace
            .spawn(
                Command::new(interpreter())
                    .arg("-u")
                    .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/tagged_host.py"))
                    .arg("eth0")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped()),
            )
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut this = Self {
            child,
            input,
            output,
        };
        assert!(this.read()["ready"].is_string());
        this
    }

    fn read(&mut self) -> Value {
        let line = self
            .output
            .next()
            .expect("scapy has ended; run `make setup`");
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.input, "{request}").unwrap();
        self.read()
    }

    /// Asks for one echo: from an address behind these tags, by this gateway.
    fn echo(&mut self, tags: &[[u16; 2]], from: &str, gateway: &str, to: &str, size: u32) -> Value {
        self.ask(&json!({
            "tags": tags, "from": from, "gateway": gateway, "to": to, "size": size, "seconds": SECONDS,
        }))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drops(lab: &Laboratory, reason: &str) -> u64 {
    let drops = lab.gateway(Side::A).control().drops().unwrap();
    drops.get(reason).copied().unwrap_or(0)
}

#[test]
fn hosts_behind_tags_reach_gateway_and_router_and_forgers_do_not() {
    let mut lab = Laboratory::build().unwrap();
    let router = lab.open(Place::Wan);
    let back = Side::A.addresses().gateway_wan(Family::V4).addr();
    for network in ["172.16.0.0/16", "203.0.113.7/32"] {
        router
            .netlink(async |netlink| netlink.add_route(network.parse().unwrap(), back).await)
            .unwrap();
    }
    lab.start(Side::A, &configuration()).unwrap();
    let mut hosts = Hosts::start(&lab.open(Place::HostA));
    let whole = json!({ "arp": true, "reply": true, "wrong": 0 });
    let (single, double) = (&SINGLE[..], &DOUBLE[..]);
    for (tags, from, gateway, to, size) in [
        // The gateway itself: ARP, a TAP for each interface, the tags on the way back.
        (single, "172.16.100.10", "172.16.100.1", "172.16.100.1", 56),
        (double, "172.16.5.10", "172.16.5.1", "172.16.5.1", 56),
        // Its loopback, and the router behind it.
        (double, "172.16.5.10", "172.16.5.1", LOOPBACK, 56),
        (double, "172.16.5.10", "172.16.5.1", ROUTER, 56),
        // Out of VRF guests into default, and back: both by routes that lead from one into the other.
        (single, "172.16.100.10", "172.16.100.1", ROUTER, 56),
        // As long as packets may be: 1500 bytes with one tag, 1492 with two.
        (single, "172.16.100.10", "172.16.100.1", ROUTER, 1472),
        (double, "172.16.5.10", "172.16.5.1", ROUTER, 1464),
        (&[], "10.1.0.10", "10.1.0.1", ROUTER, 56),
    ] {
        let outcome = hosts.echo(tags, from, gateway, to, size);
        assert_eq!(outcome, whole, "{tags:?} {from} to {to}, {size} bytes");
    }

    // A tag of no VLAN that is configured is answered by nobody.
    let unknown = drops(&lab, "vlan-unknown");
    let nobody = hosts.ask(&json!({
        "tags": [[0x8100, 101]], "from": "172.16.100.10", "gateway": "172.16.100.1",
        "to": ROUTER, "size": 56, "seconds": MOMENT,
    }));
    assert_eq!(nobody["arp"], false);
    assert!(drops(&lab, "vlan-unknown") > unknown);

    // Sources that are not behind the interface go no further than the gateway; without the check they would.
    for (tags, from, gateway, source, stopped) in [
        (&[][..], "10.1.0.10", "10.1.0.1", "172.16.5.99", true),
        (&[], "10.1.0.10", "10.1.0.1", "8.8.8.8", true),
        (single, "172.16.100.10", "172.16.100.1", "10.1.0.99", true),
        (double, "172.16.5.10", "172.16.5.1", "10.1.0.99", false),
    ] {
        let before = (drops(&lab, "reverse-path"), echoes(&router));
        let outcome = hosts.ask(&json!({
            "tags": tags, "from": from, "gateway": gateway, "to": ROUTER, "size": 56, "seconds": SECONDS,
            "source": source, "forged": true,
        }));
        assert_eq!(outcome["arp"], true);
        wait_for("the forged packet", Duration::from_secs(10), || {
            if stopped {
                (drops(&lab, "reverse-path") > before.0).then_some(())
            } else {
                (echoes(&router) > before.1).then_some(())
            }
        })
        .unwrap();
        assert_eq!(echoes(&router) == before.1, stopped, "{source} by {tags:?}");
    }
}

/// Echo requests that the router's kernel has received.
fn echoes(router: &Namespace) -> u64 {
    let text = router
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap())
        .unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "InEchos")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap()
}
