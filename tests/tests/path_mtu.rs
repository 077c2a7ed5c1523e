//! A link on the way between the gateways that takes less than their own, and a Linux router before it that says so.
//!
//! ```text
//!   host-a --- gateway-a --1500-- router --1300-- gateway-b --- host-b
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use culvert_crypto::Suite;
use culvert_model::bus::Direction;
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_tests::configuration::gateway;
use culvert_tests::laboratory::Laboratory;
use culvert_tests::scapy::interpreter;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover,
};
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
/// After it a datagram counts as lost.
const LOST: Duration = Duration::from_millis(500);
/// What a path's discovery may take: a few lost packets.
const DISCOVERY: Duration = Duration::from_secs(20);
const PORT: u16 = 7310;
const NARROW: u16 = 1300;

/// How the gateways reach each other.
#[derive(Clone, Copy, Debug)]
struct Outside {
    family: Family,
    udp: bool,
}

const OUTSIDE: [Outside; 4] = [
    Outside {
        family: Family::V4,
        udp: false,
    },
    Outside {
        family: Family::V4,
        udp: true,
    },
    Outside {
        family: Family::V6,
        udp: false,
    },
    Outside {
        family: Family::V6,
        udp: true,
    },
];

fn pair(fragmentation: &str, outside: Outside) -> Laboratory {
    let configured = |side: Side| -> Value {
        let (own, far) = (side.addresses(), side.other().addresses());
        let mut configuration = gateway(side);
        // Who sits behind the narrow link knows it; the other end does not.
        if side == Side::B {
            configuration["interfaces"][0]["mtu"] = json!(NARROW);
        }
        configuration["tunnels"][0]["fragmentation"] = json!(fragmentation);
        configuration["tunnels"][0]["mss_clamp"] = json!(false);
        let connection = &mut configuration["connections"][0];
        connection["local_address"] = json!(own.gateway_wan(outside.family).addr());
        connection["remote_address"] = json!(far.gateway_wan(outside.family).addr());
        connection["force_encap"] = json!(outside.udp);
        configuration
    };
    let mut lab = Laboratory::build().unwrap();
    lab.open(Place::Wan)
        .netlink(async |netlink| netlink.set_mtu("wan-b", NARROW.into()).await)
        .unwrap();
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    lab
}

fn address(side: Side, family: Family) -> IpAddr {
    side.addresses().host(family).addr()
}

/// A socket that never lets its datagrams be cut, connected to the other host, which mirrors them.
fn probe(lab: &Laboratory, family: Family) -> (UdpSocket, thread::JoinHandle<()>) {
    let bind = |side: Side| {
        let at = (address(side, family), PORT);
        lab.open(side.host())
            .enter(|| UdpSocket::bind(at).unwrap())
            .unwrap()
    };
    let (near, far) = (bind(Side::A), bind(Side::B));
    match family {
        Family::V4 => set_ip_mtu_discover(&near, Ipv4PathMtuDiscovery::DO).unwrap(),
        Family::V6 => set_ipv6_mtu_discover(&near, Ipv6PathMtuDiscovery::DO).unwrap(),
    }
    near.connect(far.local_addr().unwrap()).unwrap();
    near.set_read_timeout(Some(LOST)).unwrap();
    let mirror = thread::spawn(move || {
        let mut buffer = [0; 2048];
        // An empty datagram ends it.
        while let Ok((length, from)) = far.recv_from(&mut buffer) {
            if length == 0 {
                break;
            }
            let _ = far.send_to(&buffer[..length], from);
        }
    });
    (near, mirror)
}

fn known_mtu(socket: &UdpSocket, family: Family) -> u32 {
    match family {
        Family::V4 => ip_mtu(socket).unwrap(),
        Family::V6 => ipv6_mtu(socket).unwrap(),
    }
}

/// Sends datagrams that fill what the host knows of the path until one comes back; answers its packet's bytes.
fn discover(socket: &UdpSocket, family: Family) -> u32 {
    let headers = match family {
        Family::V4 => 28,
        Family::V6 => 48,
    };
    let until = Instant::now() + DISCOVERY;
    let mut buffer = [0; 2048];
    while Instant::now() < until {
        let mtu = known_mtu(socket, family);
        // Refused here when the path has turned out to be narrower.
        if socket.send(&vec![7; mtu as usize - headers]).is_err() {
            continue;
        }
        if let Ok(length) = socket.recv(&mut buffer) {
            return (length + headers) as u32;
        }
    }
    panic!("nothing as large as the path's MTU comes back");
}

/// A stream there and back arrives as it was sent.
fn stream(lab: &Laboratory, family: Family) {
    const BYTES: usize = 1 << 19;
    let destination = SocketAddr::new(address(Side::B, family), PORT);
    let listener = lab
        .open(Side::B.host())
        .enter(|| TcpListener::bind(destination).unwrap())
        .unwrap();
    let mirror = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let mut stream = lab
        .open(Side::A.host())
        .enter(|| TcpStream::connect(destination).unwrap())
        .unwrap();
    stream.set_read_timeout(Some(DISCOVERY)).unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at * 31 / 7) as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; BYTES];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent);
    mirror.join().unwrap();
}

/// What the gateway of side a knows of the path to b.
fn path(lab: &Laboratory) -> Option<u32> {
    let paths = lab.gateway(Side::A).control().paths().unwrap().paths;
    assert!(paths.len() <= 1, "{paths:?}");
    paths.first().map(|path| {
        assert!(path.age_s < 60 && path.vrf == "default", "{path:?}");
        path.mtu
    })
}

fn drops(lab: &Laboratory, side: Side, reason: &str) -> u64 {
    let drops = lab.gateway(side).control().drops().unwrap();
    drops.get(reason).copied().unwrap_or(0)
}

#[test]
fn hosts_are_told_what_fits_through_the_narrow_link() {
    for outside in OUTSIDE {
        let lab = pair("before", outside);
        let headers = match outside.family {
            Family::V4 => 20,
            Family::V6 => 40,
        } + if outside.udp { 8 } else { 0 };
        let fits = Suite::AES128GCM16
            .max_payload(usize::from(NARROW) - headers)
            .unwrap() as u32;
        stream(&lab, Family::V4);
        assert_eq!(path(&lab), Some(u32::from(NARROW)), "{outside:?}");
        for (family, expected) in [
            (Family::V4, fits),
            // No IPv6 link takes less: the ESP packet of such a one is cut.
            (Family::V6, fits.max(1280)),
        ] {
            let (near, mirror) = probe(&lab, family);
            assert_eq!(discover(&near, family), expected, "{outside:?} {family:?}");
            assert_eq!(known_mtu(&near, family), expected);
            near.send(&[]).unwrap();
            mirror.join().unwrap();
        }
        stream(&lab, Family::V6);
        assert!(drops(&lab, Side::A, "esp-too-big") > 0);
        assert!(drops(&lab, Side::A, "mtu-exceeded") > 0);
    }
}

#[test]
fn what_is_cut_after_encryption_passes_the_narrow_link_whole() {
    for outside in OUTSIDE {
        let lab = pair("after", outside);
        for family in Family::BOTH {
            let (near, mirror) = probe(&lab, family);
            assert_eq!(discover(&near, family), 1500, "{outside:?} {family:?}");
            near.send(&[]).unwrap();
            mirror.join().unwrap();
            stream(&lab, family);
        }
        // Routers cut IPv4 themselves; of IPv6 they say what fits.
        let expected = (outside.family == Family::V6).then_some(u32::from(NARROW));
        assert_eq!(path(&lab), expected, "{outside:?}");
        assert_eq!(drops(&lab, Side::A, "mtu-exceeded"), 0);
        assert!(drops(&lab, Side::B, "reassembled") > 0);
        assert_eq!(drops(&lab, Side::B, "esp-bad-icv"), 0);
    }
}

/// What scapy forges in the router's namespace.
#[test]
fn forged_messages_are_counted_and_change_nothing() {
    let lab = pair(
        "after",
        Outside {
            family: Family::V4,
            udp: false,
        },
    );
    let control = lab.gateway(Side::A).control();
    let source = Side::A.addresses().gateway_wan(Family::V4).addr();
    let destination = Side::B.addresses().gateway_wan(Family::V4).addr();
    let dump = control.sas().unwrap();
    let sa = dump
        .sas
        .iter()
        .filter_map(|dump| dump.sa.as_ref()?.key.as_ref())
        .find(|key| key.direction() == Direction::Out)
        .unwrap();
    let wan = lab.open(Place::Wan);
    let mut command = Command::new(interpreter());
    command
        .arg("-u")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/forge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut scapy = wan.spawn(&mut command).unwrap();
    let mut input = scapy.stdin.take().unwrap();
    let mut output = BufReader::new(scapy.stdout.take().unwrap()).lines();
    let router = Side::A.addresses().router(Family::V4).addr();
    let mut send = |kind: &str, mtu: u32, change: &dyn Fn(&mut Value)| {
        let mut quote = json!({
            "source": source, "destination": destination,
            "spi": sa.spi, "sequence": 1, "length": 1500, "ports": null,
        });
        change(&mut quote);
        let request = json!({
            "from": router, "to": source, "kind": kind, "mtu": mtu, "quote": quote,
        });
        writeln!(input, "{request}").unwrap();
        assert_eq!(output.next().unwrap().unwrap(), "sent");
    };
    let verdict = |name: &str| {
        let verdicts = control.paths().unwrap().verdicts;
        let found = verdicts.iter().find(|verdict| verdict.verdict == name);
        found.unwrap().messages
    };
    let wait = |name: &str| {
        let until = Instant::now() + DISCOVERY;
        while verdict(name) == 0 {
            assert!(Instant::now() < until, "no message was {name}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let same = |_: &mut Value| {};
    send("too-big", 1000, &|quote| quote["spi"] = json!(0x7777_7777));
    wait("unknown-sa");
    send("too-big", 575, &same);
    wait("too-small");
    send("too-big", 1000, &|quote| {
        quote["sequence"] = json!(0x7000_0000);
    });
    wait("implausible");
    send("too-big", 1000, &|quote| {
        quote["ports"] = json!([4500, 4500]);
    });
    send("too-big", 1000, &|quote| {
        quote["source"] = json!("192.0.2.77");
    });
    send("unreachable", 0, &same);
    let until = Instant::now() + DISCOVERY;
    while drops(&lab, Side::A, "esp-icmp-error") == 0 || verdict("unknown-sa") < 3 {
        assert!(Instant::now() < until, "errors about ESP are not counted");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((path(&lab), verdict("learnt")), (None, 0));
    // What is no forgery is believed: on the same way, or all of this would prove nothing.
    send("too-big", 1000, &same);
    wait("learnt");
    assert_eq!(path(&lab), Some(1000));
    drop(input);
    scapy.wait().unwrap();
}
