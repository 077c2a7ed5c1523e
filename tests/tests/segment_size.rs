//! What segments two Linux hosts agree on over a tunnel: those that its packets leave room for, whoever calls whom.
//!
//! ```text
//!   host-a --- gateway-a --1500-- gateway-b --- host-b
//!     SYN, MSS 1460 --> 1406 ----------------->           host-b sends no more
//!           <------------------ 1406 <-- MSS 1460, SYN+ACK     nor does host-a
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use culvert_crypto::Suite;
use culvert_netlab::addressing::{Family, Side};
use culvert_tests::configuration::gateway;
use culvert_tests::laboratory::Laboratory;
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
const PORT: u16 = 7320;
/// Of the WAN and of the hosts' links.
const MTU: u16 = 1500;

fn pair(change: impl Fn(&mut Value)) -> Laboratory {
    let configured = |side| {
        let mut configuration = gateway(side);
        change(&mut configuration);
        configuration
    };
    let mut lab = Laboratory::build().unwrap();
    for side in Side::BOTH {
        // They would take 12 bytes of each segment, and are counted as the segment's.
        lab.open(side.host())
            .enter(|| fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0").unwrap())
            .unwrap();
    }
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    lab
}

/// The largest segment that each end of a new connection sends: that of who called, that of who was called. Only SYNs
/// have passed, so no host has learnt anything in another way.
fn agreed(lab: &Laboratory, from: Side, family: Family) -> [u32; 2] {
    let to = from.other();
    let destination = SocketAddr::new(to.addresses().host(family).addr(), PORT);
    let listener = lab
        .open(to.host())
        .enter(|| TcpListener::bind(destination).unwrap())
        .unwrap();
    let near = lab
        .open(from.host())
        .enter(|| TcpStream::connect(destination).unwrap())
        .unwrap();
    let (far, _) = listener.accept().unwrap();
    [&near, &far].map(|end| getsockopt(end, sockopt::TcpMaxSeg).unwrap())
}

/// In every direction and family both ends send this much, for which `expected` gets the bytes of the headers.
fn all_agree_on(lab: &Laboratory, what: &str, expected: impl Fn(u32) -> [u32; 2]) {
    for (family, headers) in [(Family::V4, 40), (Family::V6, 60)] {
        for from in Side::BOTH {
            let seen = agreed(lab, from, family);
            println!("{what}, {family:?}, from {from:?}: {seen:?}");
            assert_eq!(seen, expected(headers), "{what}, {family:?}, from {from:?}");
        }
    }
}

#[test]
fn hosts_send_what_the_tunnel_takes_in_one_piece() {
    let fits = Suite::AES128GCM16
        .max_payload(usize::from(MTU) - 20)
        .unwrap() as u32;
    for fragmentation in ["before", "after"] {
        let lab = pair(|configuration| {
            configuration["tunnels"][0]["fragmentation"] = json!(fragmentation);
        });
        all_agree_on(&lab, fragmentation, |headers| [fits - headers; 2]);
    }
}

#[test]
fn an_ethernet_interface_bounds_what_comes_in_by_it_too() {
    const MSS: u32 = 1000;
    // The tunnel takes what the hosts' links take, and leaves the segments alone.
    let lab = pair(|configuration| {
        let tunnel = &mut configuration["tunnels"][0];
        tunnel["fragmentation"] = json!("after");
        tunnel["mss_clamp"] = json!(false);
    });
    all_agree_on(&lab, "nobody", |headers| [u32::from(MTU) - headers; 2]);
    drop(lab);
    let lab = pair(|configuration| {
        let tunnel = &mut configuration["tunnels"][0];
        tunnel["fragmentation"] = json!("after");
        tunnel["mss_clamp"] = json!(false);
        // One gateway's LAN alone: SYNs come in by it in one direction, answers in the other.
        if configuration["system"]["host_name"] == json!(Side::A.gateway().name()) {
            configuration["interfaces"][1]["mss_clamp"] = json!(true);
            configuration["interfaces"][1]["mss"] = json!(MSS);
        }
    });
    all_agree_on(&lab, "lan", |_| [MSS; 2]);
}
