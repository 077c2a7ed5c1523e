//! Multicast for the gateway itself: what a daemon on it joins is told to the link, and what comes for it reaches the
//! daemon. IPv6 addresses are announced to switches that watch who listens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::packet_socket::{PacketSocket, Seen};
use culvert_tests::configuration;
use culvert_tests::laboratory::{Laboratory, wait_for};

const PORT: u16 = 7911;
const LIMIT: Duration = Duration::from_secs(20);
const SIDE: Side = Side::A;

/// Waits for a frame on the LAN.
fn wait_for_frame(wire: &PacketSocket, what: &str, is_it: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 2048];
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(info) = wire.receive(&mut buffer).unwrap()
            && buffer.get(..info.length).is_some_and(&is_it)
        {
            return;
        }
    }
    panic!("{what} was not seen within {LIMIT:?}");
}

fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A report of IGMP or MLD, of the newest version, that names this group.
fn is_report(frame: &[u8], group: IpAddr) -> bool {
    let named = contains(frame, &octets(group));
    match group {
        IpAddr::V4(_) => {
            let header = frame.get(14).map_or(0, |first| usize::from(first & 15) * 4);
            let kind = frame.get(14 + header);
            named && frame[12..14] == [8, 0] && frame.get(23) == Some(&2) && kind == Some(&0x22)
        }
        // Behind a router alert.
        IpAddr::V6(_) => {
            named && frame[12..14] == [0x86, 0xdd] && frame.get(20) == Some(&0) && {
                frame.get(62) == Some(&143)
            }
        }
    }
}

#[test]
fn what_linux_joins_reaches_it_and_the_link_is_told() {
    let mut lab = Laboratory::build().unwrap();
    let (inside, host) = (lab.open(SIDE.gateway()), lab.open(SIDE.host()));
    let wire = PacketSocket::open(&host, Seen::Received).unwrap();
    wire.set_timeout(Duration::from_millis(100)).unwrap();
    lab.start(SIDE, &configuration::gateway(SIDE)).unwrap();
    let own = SIDE.addresses();
    // Of the address itself, from the time at which it is probed for: by the dataplane.
    let IpAddr::V6(lan) = own.gateway_lan(Family::V6).addr() else {
        panic!("an IPv6 address");
    };
    let solicited = culvert_net::nd::solicited_node(lan).into();
    wait_for_frame(&wire, "the report of its own group", |frame| {
        is_report(frame, solicited)
    });
    for (family, joined, other) in [
        (Family::V4, "239.1.2.3", "239.1.2.4"),
        (Family::V6, "ff05::7:1", "ff05::7:2"),
    ] {
        let [joined, other]: [IpAddr; 2] = [joined, other].map(|group| group.parse().unwrap());
        let from = own.host(family).addr();
        let sender = host.enter(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        let refused = || {
            let control = lab.gateway(SIDE).control();
            control.dropped("ip-bad-destination").unwrap()
        };
        let before = refused();
        sender.send_to(b"nobody", (joined, PORT)).unwrap();
        let seen = wait_for("a drop", LIMIT, || (refused() > before).then_some(()));
        seen.expect("nobody has joined");

        let listener = inside
            .enter(|| match (joined, own.gateway_lan(family).addr()) {
                (IpAddr::V4(group), IpAddr::V4(own)) => {
                    let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
                    socket.join_multicast_v4(&group, &own).unwrap();
                    socket
                }
                (IpAddr::V6(group), _) => {
                    let socket = UdpSocket::bind(("::", PORT)).unwrap();
                    let tap = nix::net::if_::if_nametoindex("lan").unwrap();
                    socket.join_multicast_v6(&group, tap).unwrap();
                    socket
                }
                (group, own) => panic!("{group} and {own} are of two families"),
            })
            .unwrap();
        wait_for_frame(&wire, "the report of the group", |frame| {
            is_report(frame, joined)
        });
        listener
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut buffer = [0; 64];
        let heard = wait_for("the group", LIMIT, || {
            sender.send_to(b"others", (other, PORT)).unwrap();
            sender.send_to(b"joined", (joined, PORT)).unwrap();
            let (length, peer) = listener.recv_from(&mut buffer).ok()?;
            Some((buffer[..length].to_vec(), peer.ip()))
        });
        assert_eq!(
            heard.expect("the group reaches the socket"),
            (b"joined".to_vec(), from)
        );
        drop(listener);
        // And no more, once nobody listens.
        let gone = wait_for("silence", LIMIT, || {
            let before = refused();
            sender.send_to(b"nobody", (joined, PORT)).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            (refused() > before).then_some(())
        });
        gone.expect("the group is left");
    }
    lab.stop(SIDE).unwrap();
}
