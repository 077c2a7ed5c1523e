//! Datagrams and streams of every size between two Linux hosts, over a tunnel whose packets do not fit the WAN: the
//! hosts' kernels fragment and put together on their side, the gateways on theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_tests::configuration::gateway;
use culvert_tests::laboratory::Laboratory;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
/// After it a datagram counts as lost; the way there and back takes a millisecond.
const LOST: Duration = Duration::from_millis(500);
const PORT: u16 = 7300;

fn pair(fragmentation: &str, wan_mtu: u16) -> Laboratory {
    let configured = |side| -> Value {
        let mut configuration = gateway(side);
        configuration["interfaces"][0]["mtu"] = json!(wan_mtu);
        configuration["tunnels"][0]["fragmentation"] = json!(fragmentation);
        configuration["tunnels"][0]["mss_clamp"] = json!(false);
        configuration
    };
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    lab
}

fn host(
    lab: &Laboratory,
    side: Side,
    family: Family,
) -> (culvert_netlab::namespace::Namespace, IpAddr) {
    (lab.open(side.host()), side.addresses().host(family).addr())
}

/// Whether the host's kernel sets DF.
#[derive(Clone, Copy, PartialEq)]
enum DontFragment {
    Never,
    Always,
}

/// Sends datagrams of these sizes to the other host, which sends each back; answers how many had to be sent again.
fn echo(
    lab: &Laboratory,
    family: Family,
    sizes: impl Iterator<Item = usize>,
    dont_fragment: DontFragment,
) -> usize {
    let socket = |side| {
        let (namespace, address) = host(lab, side, family);
        let socket = namespace
            .enter(|| UdpSocket::bind((address, PORT)).unwrap())
            .unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        if family == Family::V4 {
            set_discovery(&socket, dont_fragment);
        }
        socket
    };
    let (near, far) = (socket(Side::A), socket(Side::B));
    let destination = far.local_addr().unwrap();
    let mirror = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        // An empty datagram ends it.
        loop {
            match far.recv_from(&mut buffer) {
                Ok((0, _)) => break,
                Ok((length, from)) => {
                    // Refused once, when the path turns out to be narrower.
                    let _ = far.send_to(&buffer[..length], from);
                }
                Err(_) => {}
            }
        }
    });
    let mut again = 0;
    let mut buffer = vec![0; 65_536];
    for size in sizes {
        let sent: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries <= 4, "{size} bytes do not arrive");
            let _ = near.send_to(&sent, destination);
            match near.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    assert_eq!(length, size);
                    assert!(buffer[..length] == sent, "{size} bytes were changed");
                    break;
                }
                Err(_) => again += 1,
            }
        }
    }
    near.send_to(&[], destination).unwrap();
    mirror.join().unwrap();
    again
}

fn set_discovery(socket: &UdpSocket, dont_fragment: DontFragment) {
    let value = match dont_fragment {
        DontFragment::Never => Ipv4PathMtuDiscovery::DONT,
        DontFragment::Always => Ipv4PathMtuDiscovery::DO,
    };
    set_ip_mtu_discover(socket, value).unwrap();
}

/// Every size around the first few fragments, and some of all others.
fn sizes() -> impl Iterator<Item = usize> {
    (1..=3100)
        .chain((3101..=20_000).step_by(97))
        .chain([20_000])
}

/// A stream there and back arrives as it was sent.
fn stream(lab: &Laboratory, family: Family) {
    const BYTES: usize = 1 << 20;
    let (near, _) = host(lab, Side::A, family);
    let (far, address) = host(lab, Side::B, family);
    let destination = SocketAddr::new(address, PORT);
    let listener = far
        .enter(|| TcpListener::bind(destination).unwrap())
        .unwrap();
    let mirror = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let mut stream = near
        .enter(|| TcpStream::connect(destination).unwrap())
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at * 31 / 7) as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; BYTES];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent);
    mirror.join().unwrap();
}

/// How many packets a gateway has dropped for each reason.
fn drops(lab: &Laboratory, side: Side) -> impl Fn(&str) -> u64 {
    let drops = lab.gateway(side).control().drops().unwrap();
    move |reason| drops.get(reason).copied().unwrap_or(0)
}

#[test]
fn what_does_not_fit_is_cut_before_encryption() {
    for wan_mtu in [1500, 1280] {
        let lab = pair("before", wan_mtu);
        assert_eq!(echo(&lab, Family::V4, sizes(), DontFragment::Never), 0);
        let drops = drops(&lab, Side::A);
        assert!(drops("fragmented") > 1000);
        assert_eq!(drops("reassembled"), 0, "that is the hosts' matter");
        // Told the path's MTU, the sender fits: one datagram each way is lost to learn it.
        let again = echo(&lab, Family::V6, sizes(), DontFragment::Never);
        assert!(again <= 2, "{again} datagrams were lost");
        for family in Family::BOTH {
            stream(&lab, family);
        }
    }
}

#[test]
fn what_does_not_fit_is_cut_after_encryption_and_comes_out_whole() {
    for wan_mtu in [1500, 1400, 1280] {
        let lab = pair("after", wan_mtu);
        for family in Family::BOTH {
            assert_eq!(echo(&lab, family, sizes(), DontFragment::Never), 0);
            stream(&lab, family);
        }
        // Nobody on the way may cut these, and they fill the hosts' links: only the very same packets can come out.
        let full = (1200..=1472).step_by(8);
        assert_eq!(echo(&lab, Family::V4, full, DontFragment::Always), 0);
        let drops = drops(&lab, Side::B);
        assert!(drops("reassembled") > 1000);
        for reason in [
            "mtu-exceeded",
            "reassembly-timed-out",
            "reassembly-overlap",
            "reassembly-crowded",
            "esp-bad-icv",
        ] {
            assert_eq!(drops(reason), 0, "{reason}");
        }
    }
}
