//! GRE and IPIP: protected by a CHILD_SA in transport mode between two gateways, in the clear towards scapy, and with
//! OSPF of Debian's BIRD over them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use culvert_model::bus::SaMode;
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::bird::Bird;
use culvert_tests::configuration::{CHILD, CONNECTION, IF_ID, gateway};
use culvert_tests::exchange::{self, DontFragment};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::scapy::interpreter;
use culvert_tests::traffic::Traffic;
use culvert_tests::wire::{MARKER, Wire};
use nix::sys::signal::Signal;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, ipv6_mtu, set_ip_mtu_discover, set_ip_tos, set_ipv6_tclass,
};
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

fn ping(lab: &Laboratory, from: Place, destination: IpAddr) -> PingReport {
    pings(lab, from, destination, 20)
}

fn pings(lab: &Laboratory, from: Place, destination: IpAddr, count: u32) -> PingReport {
    let ping = Ping {
        destination,
        count,
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

/// The far end of the tunnels in the clear: scapy on the router's link, with addresses of its own.
const FAR: &str = "192.0.2.9";
const FAR6: &str = "2001:db8:a::9";
/// Where nobody has a tunnel to.
const STRANGER: &str = "192.0.2.77";
const ECHO: u16 = 7;

/// One tunnel in the clear, and the networks behind it.
struct Plain {
    name: &'static str,
    mode: &'static str,
    key: Option<u32>,
    outside: Family,
    number: u8,
}

const PLAIN: [Plain; 6] = {
    const fn of(
        name: &'static str,
        mode: &'static str,
        key: Option<u32>,
        outside: Family,
        number: u8,
    ) -> Plain {
        Plain {
            name,
            mode,
            key,
            outside,
            number,
        }
    }
    [
        of("gre4", "gre", None, Family::V4, 1),
        of("keyed4", "gre", Some(GRE_KEY), Family::V4, 2),
        of("ipip4", "ipip", None, Family::V4, 3),
        of("gre6", "gre", None, Family::V6, 4),
        of("keyed6", "gre", Some(0), Family::V6, 5),
        of("ipip6", "ipip", None, Family::V6, 6),
    ]
};

impl Plain {
    fn far(&self) -> &'static str {
        match self.outside {
            Family::V4 => FAR,
            Family::V6 => FAR6,
        }
    }

    fn network(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("10.9.{}.0/24", self.number),
            Family::V6 => format!("fd00:9:{}::/64", self.number),
        }
    }

    /// A host behind it.
    fn host(&self, family: Family) -> IpAddr {
        let text = match family {
            Family::V4 => format!("10.9.{}.10", self.number),
            Family::V6 => format!("fd00:9:{}::10", self.number),
        };
        text.parse().unwrap()
    }

    fn gateway(&self) -> IpAddr {
        Side::A.addresses().gateway_wan(self.outside).addr()
    }
}

fn in_the_clear() -> Value {
    let mut configuration = gateway(Side::A);
    for list in ["tunnels", "connections", "routes"] {
        configuration[list] = json!([]);
    }
    configuration.as_object_mut().unwrap().remove("credentials");
    for plain in &PLAIN {
        let mut tunnel = json!({
            "name": plain.name,
            "mode": plain.mode,
            "local_address": plain.gateway(),
            "remote_address": plain.far(),
        });
        if let Some(key) = plain.key {
            tunnel["key"] = json!(key);
        }
        let mut add = |list: &str, value: Value| {
            let of = configuration.as_object_mut().unwrap();
            let list = of.entry(list).or_insert(json!([]));
            list.as_array_mut().unwrap().push(value);
        };
        add("ip_tunnels", tunnel);
        for family in Family::BOTH {
            add(
                "routes",
                json!({
                    "destination": plain.network(family),
                    "next_hops": [{ "interface": plain.name }],
                }),
            );
        }
    }
    configuration
}

/// scapy: see `scapy/encapsulator.py`.
struct FarEnd {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl FarEnd {
    fn start(lab: &Laboratory) -> Self {
        let tunnels: Vec<Value> = PLAIN
            .iter()
            .map(|plain| {
                json!({
                    "name": plain.name, "mode": plain.mode, "key": plain.key,
                    "own": plain.far(), "far": plain.gateway(),
                })
            })
            .collect();
        let mut child = lab
            .open(Place::Wan)
            .spawn(
                Command::new(interpreter())
                    .arg("-u")
                    .arg(concat!(
                        env!("CARGO_MANIFEST_DIR"),
                        "/scapy/encapsulator.py"
                    ))
                    .arg(Side::A.router_link())
                    .arg(json!(tunnels).to_string())
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
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket of host a. Its packets have a DSCP and an ECN mark that say so.
fn marked_socket(lab: &Laboratory, family: Family) -> UdpSocket {
    let address = Side::A.addresses().host(family).addr();
    let socket = lab
        .open(Place::HostA)
        .enter(|| UdpSocket::bind((address, 0)).unwrap())
        .unwrap();
    // scapy is slow, and the machine may be.
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    match family {
        Family::V4 => {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT).unwrap();
            set_ip_tos(&socket, 0xb9).unwrap();
        }
        Family::V6 => set_ipv6_tclass(&socket, 0xba).unwrap(),
    }
    socket
}

/// An IPv6 host is told what fits by the loss of one datagram.
fn learn_path_mtu(lab: &Laboratory, destination: SocketAddr) {
    let socket = marked_socket(lab, Family::V6);
    socket.connect(destination).unwrap();
    socket.send(&[0; 1452]).unwrap();
    wait_for("packet too big", UP, || {
        (ipv6_mtu(&socket).unwrap() < 1500).then_some(())
    })
    .unwrap();
}

#[test]
fn gre_and_ipip_are_what_scapy_makes_of_the_rfcs_both_ways() {
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::A, &in_the_clear()).unwrap();
    let mut far_end = FarEnd::start(&lab);
    // Around what fits, and datagrams that the host has cut already.
    let sizes = || {
        [1, 2, 3, 500]
            .into_iter()
            .chain((1384..=1480).step_by(8))
            .chain([1500, 2900, 9000, 20_000])
    };
    for plain in &PLAIN {
        for family in Family::BOTH {
            let to = plain.host(family);
            wait_for("the first answer", UP, || {
                (pings(&lab, Place::HostA, to, 3).received == 3).then_some(())
            })
            .unwrap_or_else(|error| panic!("{} {family:?}: {error}", plain.name));
            let socket = marked_socket(&lab, family);
            if family == Family::V6 {
                learn_path_mtu(&lab, SocketAddr::new(to, ECHO));
            }
            let again = exchange::bounce(&socket, SocketAddr::new(to, ECHO), sizes());
            assert_eq!(again, 0, "{} {family:?}", plain.name);
        }
    }
    let counts = far_end.ask(&json!({ "do": "counts" }));
    for plain in &PLAIN {
        let count = &counts[plain.name];
        assert_eq!(count["wrong"], json!([]), "{}", plain.name);
        assert!(count["packets"].as_u64().unwrap() > 100, "{counts}");
    }
    for reason in ["tunnel-malformed", "tunnel-unknown-peer", "mtu-exceeded"] {
        let most = if reason == "mtu-exceeded" { 6 } else { 0 };
        assert!(drops(&lab, Side::A, reason) <= most, "{reason}");
    }

    // What other routers may send, and what is nobody's.
    for (name, what, refusal) in [
        ("gre4", "plain", None),
        ("gre4", "checksum", None),
        ("gre4", "sequence", None),
        ("gre4", "fragments", None),
        ("keyed4", "checksum", None),
        ("keyed4", "sequence", None),
        ("keyed6", "checksum", None),
        ("ipip4", "fragments", None),
        ("ipip6", "plain", None),
        ("gre4", "bad-checksum", Some("tunnel-bad-checksum")),
        ("keyed6", "bad-checksum", Some("tunnel-bad-checksum")),
        ("gre4", "other-key", Some("tunnel-unknown-peer")),
        ("keyed4", "other-key", Some("tunnel-unknown-peer")),
        ("gre4", "other-type", Some("tunnel-unknown-type")),
        ("ipip4", "stranger", Some("tunnel-unknown-peer")),
        ("gre4", "stranger", Some("tunnel-unknown-peer")),
    ] {
        let plain = PLAIN.iter().find(|plain| plain.name == name).unwrap();
        for family in Family::BOTH {
            let socket = marked_socket(&lab, family);
            let own = socket.local_addr().unwrap();
            let before = refusal.map(|reason| drops(&lab, Side::A, reason));
            let text = format!("{what} {}", "x".repeat(600));
            let sent = far_end.ask(&json!({
                "do": "send", "tunnel": name, "what": what, "text": text, "stranger": STRANGER,
                "from": plain.host(family), "to": own.ip(), "port": own.port(),
            }));
            assert!(sent["sent"].as_u64().unwrap() > u64::from(what == "fragments"));
            let mut buffer = [0; 2048];
            if let (Some(reason), Some(before)) = (refusal, before) {
                wait_for(reason, UP, || {
                    (drops(&lab, Side::A, reason) > before).then_some(())
                })
                .unwrap_or_else(|error| panic!("{name} {what}: {error}"));
                socket.set_nonblocking(true).unwrap();
                assert!(socket.recv(&mut buffer).is_err(), "{name} {what} came in");
            } else {
                let length = socket
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("{name} {what} {family:?}: {error}"));
                assert!(buffer[..length] == *text.as_bytes(), "{name} {what}");
            }
        }
    }
}
