//! Routes that forward nothing: what their sender is told, by whom and how often; and sources that no route of the VRF
//! leads back to. One gateway, a host in each of two VRFs; the hosts' kernels say what they heard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::Namespace;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::vrfs::{MOMENT, Member, PORT, SOON, VRFS, ip, links, push};
use culvert_tests::who::{Asker, Heard};
use serde_json::json;

/// What a route says of its destination, and what a host is told of it (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
struct Verdict {
    action: &'static str,
    networks: [&'static str; 2],
    /// ICMP type and code, IPv4 and IPv6; `None`: nothing.
    told: Option<[[u8; 2]; 2]>,
}

const VERDICTS: [Verdict; 4] = [
    verdict("blackhole", ["198.18.1.0/24", "2001:db8:1::/64"], None),
    verdict(
        "unreachable",
        ["198.18.2.0/24", "2001:db8:2::/64"],
        Some([[3, 1], [1, 3]]),
    ),
    verdict(
        "prohibit",
        ["198.18.3.0/24", "2001:db8:3::/64"],
        Some([[3, 13], [1, 1]]),
    ),
    // No route at all.
    verdict("", ["198.18.4.0/24", "2001:db8:4::/64"], Some(NO_ROUTE)),
];
const NO_ROUTE: [[u8; 2]; 2] = [[3, 0], [1, 0]];

const fn verdict(
    action: &'static str,
    networks: [&'static str; 2],
    told: Option<[[u8; 2]; 2]>,
) -> Verdict {
    Verdict {
        action,
        networks,
        told,
    }
}

/// A host in the network of this prefix.
fn inside(network: &str) -> IpAddr {
    let (address, _) = network.split_once('/').unwrap();
    ip(&format!("{}7", address.trim_end_matches('0')))
}

#[test]
fn routes_that_forward_nothing_say_so_and_sources_of_another_vrf_are_forged_ones() {
    const FOREIGN: &str = "172.31.9.0/24";
    let mut lab = Laboratory::build().unwrap();
    let mut configuration = links(Side::A, &VRFS);
    for interface in configuration["interfaces"].as_array_mut().unwrap() {
        if interface.get("vrf").is_some() {
            interface["reverse_path"] = json!("strict");
        }
    }
    for verdict in VERDICTS.iter().filter(|verdict| !verdict.action.is_empty()) {
        for destination in verdict.networks {
            let action = verdict.action;
            let route = json!({ "vrf": "red", "destination": destination, "action": action });
            push(&mut configuration, "routes", route);
        }
    }
    // Behind blue-a there is one more network; red knows nothing of it.
    let host = Side::A.addresses().host(Family::V4).addr().to_string();
    push(
        &mut configuration,
        "routes",
        json!({ "vrf": "blue", "destination": FOREIGN, "next_hops": [{ "gateway": host }] }),
    );
    let [red, blue] = VRFS.map(|vrf| Member::join(&lab, Side::A, vrf));
    lab.start(Side::A, &configuration).unwrap();
    let control = lab.gateway(Side::A).control();

    for (at, family) in Family::BOTH.into_iter().enumerate() {
        let from = Side::A.addresses().gateway_lan(family).addr();
        let heard = |told: Option<[[u8; 2]; 2]>| match told {
            Some(codes) => Heard::Error {
                kind: codes[at][0],
                code: codes[at][1],
                from,
            },
            None => Heard::Silence,
        };
        for verdict in &VERDICTS {
            let to = inside(verdict.networks[at]);
            let before = control.dropped("route-blackhole").unwrap();
            let limit = if verdict.told.is_some() { SOON } else { MOMENT };
            let wanted = heard(verdict.told);
            assert_eq!(red.ask(Side::A, to, limit), wanted, "{}", verdict.action);
            let silent = control.dropped("route-blackhole").unwrap() > before;
            assert_eq!(silent, verdict.action == "blackhole");
            // The routes of one VRF are none of another's.
            assert_eq!(blue.ask(Side::A, to, SOON), heard(Some(NO_ROUTE)));
        }
        limited(&lab, &red, family);
    }

    // The same source in both: blue's routes lead to it, red's do not.
    let source = inside(FOREIGN);
    for member in [&red, &blue] {
        member
            .host
            .ip(&format!("address add {source}/32 dev eth0"))
            .unwrap();
    }
    let to = SocketAddr::new(inside(VERDICTS[1].networks[0]), PORT);
    let heard = blue.ask_as(source, to.ip(), SOON);
    assert!(
        matches!(
            heard,
            Heard::Error {
                kind: 3,
                code: 0,
                ..
            }
        ),
        "{heard:?}"
    );
    let reasons = ["reverse-path", "route-unreachable"];
    let counts = || reasons.map(|reason| control.dropped(reason).unwrap());
    let before = counts();
    let forger = Asker::open(red.namespace(), source).unwrap();
    for _ in 0..20 {
        forger.send(to).unwrap();
    }
    let mut counted = 0;
    wait_for("20 packets to be counted", SOON, || {
        counted = counts()[0] - before[0];
        (counted >= 20).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {counted}"));
    assert_eq!(counts(), [before[0] + 20, before[1]]);
    assert_eq!(forger.take(), None);
}

/// Far more packets are refused than a host is told of, and all of them are counted.
fn limited(lab: &Laboratory, host: &Member, family: Family) {
    /// See the dataplane's `icmp-error`: at once, and a second.
    const BURST: f64 = 50.0;
    const RATE: f64 = 1000.0;
    let control = lab.gateway(Side::A).control();
    let network = VERDICTS[1].networks[usize::from(family == Family::V6)];
    let to = SocketAddr::new(inside(network), PORT);
    let asker = Asker::open(host.namespace(), Side::A.addresses().host(family).addr()).unwrap();
    let reasons = ["route-unreachable", "icmp-rate-limited"];
    let counts = || {
        let [refused, limited] = reasons.map(|reason| control.dropped(reason).unwrap());
        (refused, limited, errors(host.namespace(), family))
    };
    let (before, begin) = (counts(), Instant::now());
    for _ in 0..20 {
        for _ in 0..100 {
            asker.send(to).unwrap();
        }
        sleep(Duration::from_millis(2));
    }
    let mut last = counts();
    wait_for("each of them to be told or counted", SOON, || {
        let now = counts();
        let still = now == std::mem::replace(&mut last, now);
        let [refused, limited, told] = [now.0 - before.0, now.1 - before.1, now.2 - before.2];
        (still && refused > 1000 && refused == limited + told).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {before:?} {last:?}"));
    let told = (last.2 - before.2) as f64;
    assert!(
        told <= BURST + RATE * begin.elapsed().as_secs_f64(),
        "{told}"
    );
    assert!(
        last.1 > before.1 && last.2 > before.2,
        "{before:?} {last:?}"
    );
}

/// Messages that destinations are unreachable, as a host's kernel has counted them.
fn errors(namespace: &Namespace, family: Family) -> u64 {
    let read = |path: &'static str| {
        namespace
            .enter(|| std::fs::read_to_string(path).unwrap())
            .unwrap()
    };
    if family == Family::V6 {
        let text = read("/proc/thread-self/net/snmp6");
        let mut words = text.lines().map(str::split_whitespace);
        return words
            .find_map(|mut line| {
                (line.next()? == "Icmp6InDestUnreachs").then(|| line.next()?.parse().ok())?
            })
            .unwrap();
    }
    let text = read("/proc/thread-self/net/snmp");
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "InDestUnreachs")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap()
}
