//! Neighbours of one gateway, whose hosts and router are plain Linux: one that moves, one that goes, the gateway's own
//! announcements, and more addresses than a table holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::{Namespace, set_kernel_setting};
use culvert_netlab::packet_socket::{PacketSocket, Seen};
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::lan_host::ip;
use culvert_tests::who::{Heard, who};
use serde_json::{Value, json};

const PORT: u16 = 7500;
const SOON: Duration = Duration::from_secs(10);
/// A neighbour that showed another MAC address is asked after 5 s, three times; one that answered then, a minute later.
const GONE: Duration = Duration::from_secs(100);
/// Neighbours of one interface at most: see the dataplane's `control::neighbour`.
const MOST: usize = 4096;
/// What a flood may add to the memory of a dataplane, in kB.
const MORE: u64 = 16 * 1024;

/// Without tunnels; the LAN with a network of this length.
fn configuration(length4: u8) -> Value {
    let own = Side::A.addresses();
    let [lan4, lan6] = Family::BOTH.map(|family| own.gateway_lan(family));
    let wan = Family::BOTH.map(|family| json!({ "address": own.gateway_wan(family).to_string() }));
    json!({
        "interfaces": [
            { "name": "wan", "device": "wan0", "addresses": wan },
            { "name": "lan", "device": "lan0", "addresses": [
                { "address": format!("{}/{length4}", lan4.addr()) }, { "address": lan6.to_string() },
            ] },
        ],
    })
}

/// Of the host behind the gateway.
fn host(family: Family) -> IpAddr {
    Side::A.addresses().host(family).addr()
}

fn ping(from: &Namespace, destination: IpAddr, count: u32) -> PingReport {
    let ping = Ping {
        destination,
        count,
        interval: Duration::from_millis(50),
        patience: Duration::from_secs(1),
        size: 56,
        marker: b"",
    };
    ping.run(from, &Interrupt::default()).unwrap()
}

/// Until it answers.
fn reach(from: &Namespace, destination: IpAddr) {
    wait_for("an answer", 2 * SOON, || {
        (ping(from, destination, 1).received > 0).then_some(())
    })
    .unwrap_or_else(|error| panic!("{destination}: {error}"));
}

/// Frames that a namespace sees, as far as they are about neighbours.
struct Frames(PacketSocket);

/// What such a frame is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Frame {
    /// ARP request or neighbour solicitation.
    Question {
        to: [u8; 6],
        from: [u8; 6],
        sender: IpAddr,
        target: IpAddr,
    },
    /// Neighbour advertisement that answers nobody, and the MAC address it tells.
    Advertisement { target: IpAddr, mac: [u8; 6] },
}

impl Frames {
    fn watch(namespace: &Namespace) -> Self {
        let socket = PacketSocket::open(namespace, Seen::Received).unwrap();
        socket.set_timeout(Duration::from_millis(20)).unwrap();
        Self(socket)
    }

    /// Those that came since the last time.
    fn take(&self) -> Vec<Frame> {
        let mut buffer = [0; 2048];
        let mut frames = Vec::new();
        while let Some(info) = self.0.receive(&mut buffer).unwrap() {
            frames.extend(dissect(&buffer[..info.length.min(buffer.len())]));
        }
        frames
    }
}

fn dissect(frame: &[u8]) -> Option<Frame> {
    let (to, from) = (*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?);
    let packet = frame.get(14..)?;
    let four = |at: usize| -> Option<IpAddr> {
        Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into())
    };
    let six = |at: usize| -> Option<IpAddr> {
        Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into())
    };
    match (frame.get(12..14)?, packet.get(6), packet.get(40)) {
        ([0x08, 0x06], ..) if packet.get(6..8)? == [0, 1] => Some(Frame::Question {
            to,
            from,
            sender: four(14)?,
            target: four(24)?,
        }),
        ([0x86, 0xdd], Some(58), Some(135)) => Some(Frame::Question {
            to,
            from,
            sender: six(8)?,
            target: six(48)?,
        }),
        // Override, not solicited; behind the target the option with the MAC address.
        ([0x86, 0xdd], Some(58), Some(136)) if packet.get(44)? & 0x60 == 0x20 => {
            assert_eq!(packet.get(64..66)?, [2, 1]);
            Some(Frame::Advertisement {
                target: six(48)?,
                mac: *packet.get(66..)?.first_chunk()?,
            })
        }
        _ => None,
    }
}

#[test]
fn a_host_that_moves_is_followed_and_one_that_goes_is_let_go() {
    const MOVED: [u8; 6] = [2, 0, 0, 0, 0x0a, 0x99];
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::A, &configuration(24)).unwrap();
    let (router, behind) = (lab.open(Place::Wan), lab.open(Place::HostA));
    let control = lab.gateway(Side::A).control();
    let known = |family| control.neighbours("lan").unwrap().remove(&host(family));
    let before = behind
        .netlink(async |netlink| netlink.hardware_address("eth0").await)
        .unwrap();
    for family in Family::BOTH {
        reach(&router, host(family));
        assert_eq!(known(family), Some(before.to_vec()));
    }

    // Its kernel says so when it has another MAC address, as after a fail-over.
    behind
        .enter(|| {
            set_kernel_setting("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
            set_kernel_setting("net/ipv6/conf/eth0/ndisc_notify", "1").unwrap();
        })
        .unwrap();
    let frames = Frames::watch(&behind);
    ip(&behind, "link set dev eth0 address 02:00:00:00:0a:99").unwrap();
    for family in Family::BOTH {
        wait_for("the new MAC address", SOON, || {
            (known(family)? == MOVED).then_some(())
        })
        .unwrap_or_else(|error| panic!("{family:?}: {error}: {:?}", known(family)));
    }

    // It goes without a word; the gateway asks it under its last address, and lets go of it.
    ip(&behind, "address flush dev eth0 scope global").unwrap();
    let mut asked = Vec::new();
    for family in Family::BOTH {
        wait_for("the end of the entry", GONE, || {
            asked.extend(frames.take());
            known(family).is_none().then_some(())
        })
        .unwrap_or_else(|error| panic!("{family:?}: {error}"));
        let unanswered = asked.iter().filter(|frame| {
            matches!(frame, Frame::Question { to, target, .. } if (*to, *target) == (MOVED, host(family)))
        });
        assert!(unanswered.count() >= 3, "{family:?}: {asked:?}");
    }
    for (family, kind, code) in [(Family::V4, 3, 1), (Family::V6, 1, 3)] {
        let before = control.dropped("neighbour-unresolved").unwrap();
        let own = Side::A.addresses();
        let (from, to) = (
            own.router(family).addr(),
            SocketAddr::new(host(family), PORT),
        );
        let unreachable = Heard::Error {
            kind,
            code,
            from: own.gateway_wan(family).addr(),
        };
        assert_eq!(who((&router, from), to, SOON).unwrap(), unreachable);
        assert!(control.dropped("neighbour-unresolved").unwrap() > before);
    }

    // And finds it again.
    behind
        .netlink(async |netlink| {
            for family in Family::BOTH {
                let own = Side::A.addresses();
                netlink.add_address("eth0", own.host(family)).await?;
            }
            Ok(())
        })
        .unwrap();
    for (family, all) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
        let via = Side::A.addresses().gateway_lan(family).addr();
        behind
            .netlink(async |netlink| netlink.add_route(all.parse().unwrap(), via).await)
            .unwrap();
        reach(&router, host(family));
        assert_eq!(known(family), Some(MOVED.to_vec()));
    }
}

#[test]
fn addresses_are_announced_and_neighbours_believe_it() {
    const LATER: [&str; 2] = ["10.1.0.99", "fd00:1::99"];
    let mut lab = Laboratory::build().unwrap();
    let behind = lab.open(Place::HostA);
    let frames = Frames::watch(&behind);
    lab.start(Side::A, &configuration(24)).unwrap();
    let control = lab.gateway(Side::A).control();
    let mac: [u8; 6] = {
        let lan = control.interface("lan").unwrap().unwrap();
        lan.mac.try_into().unwrap()
    };
    let announced = |addresses: [IpAddr; 2]| {
        let [four, six] = addresses;
        let arp = Frame::Question {
            to: [0xff; 6],
            from: mac,
            sender: four,
            target: four,
        };
        let advertisement = Frame::Advertisement { target: six, mac };
        let mut seen = Vec::new();
        // ARP twice (RFC 5227 section 1.1), the advertisement once at least (RFC 4861 section 7.2.6).
        wait_for("the announcements", 2 * SOON, || {
            seen.extend(frames.take());
            let count = |wanted: &Frame| seen.iter().filter(|frame| *frame == wanted).count();
            (count(&arp) == 2 && count(&advertisement) >= 1).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {seen:?}"));
        // Not before all had the time to object.
        for (address, first) in [(four, &arp), (six, &advertisement)] {
            let place = seen.iter().position(|frame| frame == first).unwrap();
            let probes = seen[..place].iter().filter(|frame| {
                matches!(frame, Frame::Question { sender, target, .. }
                    if sender.is_unspecified() && *target == address)
            });
            assert_eq!(
                probes.count(),
                if address.is_ipv4() { 3 } else { 1 },
                "{address}"
            );
        }
    };
    announced(Family::BOTH.map(|family| Side::A.addresses().gateway_lan(family).addr()));

    // Another had the address before, as far as the host knows.
    for address in LATER {
        let stale = format!("neighbour add {address} lladdr 02:00:00:00:00:66 dev eth0 nud stale");
        ip(&behind, &stale).unwrap();
    }
    let mut more = configuration(24);
    let addresses = more["interfaces"][1]["addresses"].as_array_mut().unwrap();
    addresses.push(json!({ "address": "10.1.0.99/24" }));
    addresses.push(json!({ "address": "fd00:1::99/64" }));
    lab.gateway(Side::A).reload(&more).unwrap();
    announced(LATER.map(|address| address.parse().unwrap()));
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    for address in LATER {
        wait_for("the host to believe it", SOON, || {
            let shown = ip(&behind, &format!("neighbour show {address}")).unwrap();
            shown.contains(&text).then_some(())
        })
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

/// Sends a datagram to each of these addresses, some thousand a second, until it is told to stop.
fn flood(from: &Namespace, destinations: impl Iterator<Item = IpAddr>, stop: &AtomicBool) -> usize {
    let [four, six] =
        ["0.0.0.0", "::"].map(|any| from.enter(|| UdpSocket::bind((any, 0)).unwrap()).unwrap());
    let mut sent = 0;
    for destination in destinations {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let socket = if destination.is_ipv4() { &four } else { &six };
        // Errors are of packets before: a gateway may say that they did not arrive.
        let _ = socket.send_to(b"flood", (destination, PORT));
        sent += 1;
        if sent % 40 == 0 {
            sleep(Duration::from_millis(10));
        }
    }
    sent
}

/// Stops the flood, panic or not.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_addresses_fills_no_memory_and_stops_no_honest_host() {
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::A, &configuration(16)).unwrap();
    let (router, behind) = (lab.open(Place::Wan), lab.open(Place::HostA));
    let gateway = lab.gateway(Side::A);
    let control = gateway.control();
    let via = Side::A.addresses().gateway_wan(Family::V4).addr();
    router
        .netlink(async |netlink| netlink.add_route("10.1.0.0/16".parse().unwrap(), via).await)
        .unwrap();
    for family in Family::BOTH {
        reach(&router, host(family));
    }
    let memory = || {
        let pid = gateway.process("dataplane").unwrap().pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };

    // Nobody there, in a network of 2^64 addresses; then a station that answers for 2^15 of them.
    ip(&behind, "route add local 10.1.128.0/17 dev lo").unwrap();
    let nobody = (0..).map(|number: u32| {
        let bits = 0xfd00_0001_u128 << 96 | u128::from(number) << 20 | 7;
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    });
    let everybody =
        (0..1 << 15).map(|number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a01_8000 + number)));
    let under = |destinations: Box<dyn Iterator<Item = IpAddr> + Send>, work: &dyn Fn()| {
        let (stop, before) = (AtomicBool::new(false), memory());
        let sent = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&router, destinations, &stop));
            let end = AtTheEnd(&stop);
            // Of which the table is full.
            sleep(2 * Duration::from_secs(1));
            work();
            drop(end);
            flooding.join().unwrap()
        });
        assert!(sent > MOST, "{sent} are no flood");
        assert!(memory() < before + MORE, "{} after {before} kB", memory());
        let known = control.neighbours("lan").unwrap();
        known.values().filter(|mac| !mac.is_empty()).count()
    };
    // Whoever is new gets his turn, among those who are not there and among those who are.
    let newcomer = |address: &str| {
        ip(&behind, &format!("address add {address}/24 dev eth0")).unwrap();
        reach(&router, address.parse().unwrap());
    };
    let known = under(Box::new(nobody), &|| {
        for family in Family::BOTH {
            let report = ping(&router, host(family), 40);
            assert!(report.received >= 38, "{family:?}: {report:?}");
        }
        newcomer("10.1.0.11");
    });
    assert_eq!(known, 3);
    let unresolved = ["neighbour-unresolved", "neighbour-queue-full"]
        .map(|reason| control.dropped(reason).unwrap());
    assert!(unresolved.iter().sum::<u64>() > 1000, "{unresolved:?}");
    // Those that answer displace one another: the host has its turns, and all of them when the flood is over.
    let known = under(Box::new(everybody), &|| {
        assert!(ping(&router, host(Family::V4), 40).received > 0);
    });
    for family in Family::BOTH {
        reach(&router, host(family));
    }
    assert!(known > 100 && known <= MOST, "{known}");
}
