//! A gateway behind a NAT of Linux: found out by IKE, in UDP on the wire, and followed when its mapping changes.
//!
//! ```text
//!   host-a --- gateway-a --- [ router: masquerade ] --- gateway-b --- host-b
//!              192.0.2.2       198.51.100.1:port        198.51.100.2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::classify::WanClass;
use culvert_netlab::packet_socket::{PacketSocket, Seen};
use culvert_tests::configuration::{CHILD, CONNECTION, gateway};
use culvert_tests::gateway::program;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::nat::Nat;
use culvert_tests::traffic::{Delivered, RATE, Traffic};
use culvert_tests::wire::{Kind, Wire};
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
/// From a packet that came from another port to an SA that knows it: dataplane, iked-bridge, charon and back.
const FOLLOWED: Duration = Duration::from_secs(10);
/// The dataplane says of an SA once in this time that its peer has moved.
const REPORTS: Duration = Duration::from_secs(1);
/// charon sends a keepalive after 20 seconds without a packet; its clock may be late.
const KEEPALIVE: Duration = Duration::from_secs(50);
const MOMENT: Duration = Duration::from_millis(500);
const FIRST: RangeInclusive<u16> = 20_000..=20_099;
const SECOND: RangeInclusive<u16> = 30_000..=30_099;
const THIRD: RangeInclusive<u16> = 40_000..=40_099;
const NAT_TRAVERSAL: u16 = 4500;

/// Gateway a calls; gateway b cannot know from where.
fn pair() -> (Laboratory, Nat) {
    let mut open = gateway(Side::B);
    open["connections"][0]["remote_address"] = json!("%any");
    let mut hidden = gateway(Side::A);
    // A NAT says nothing when it forgets: nobody shall be asked in between and find out by IKE.
    for configuration in [&mut hidden, &mut open] {
        configuration["connections"][0]["dpd_delay"] = json!(0);
    }
    let mut lab = Laboratory::build().unwrap();
    let nat = Nat::begin(&lab, &FIRST).unwrap();
    lab.launch(Side::B, &open).unwrap();
    lab.start(Side::A, &hidden).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    (lab, nat)
}

/// `culvert show sas --json` of a gateway.
fn sas(lab: &Laboratory, side: Side) -> Vec<Value> {
    let output = Command::new(program().unwrap())
        .args(["show", "sas", "--json", "--root"])
        .arg(lab.gateway(side).root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Where gateway b sends its packets for gateway a, by its only SA that leads there.
fn peer(lab: &Laboratory) -> (IpAddr, u16) {
    let mut out = sas(lab, Side::B);
    out.retain(|sa| sa["direction"] == "out");
    let [sa] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(sa["udp"], true);
    assert_eq!(sa["source_port"], json!(NAT_TRAVERSAL));
    let port = sa["destination_port"].as_u64().unwrap();
    let address = sa["destination"].as_str().unwrap();
    (address.parse().unwrap(), port.try_into().unwrap())
}

/// What would be new after a negotiation: the IKE_SA, and the SPIs of both directions.
fn negotiated(lab: &Laboratory) -> (u64, u32, u32) {
    let control = lab.gateway(Side::B).control();
    let (ikes, children) = (control.established(CONNECTION), control.installed(CHILD));
    assert_eq!((ikes.len(), children.len()), (1, 1));
    (ikes[0].unique_id, children[0].spi_in, children[0].spi_out)
}

/// What became of it, as soon as there was enough both ways.
fn ended(traffic: Traffic) -> Delivered {
    let enough = traffic.sent() + 4 * u64::from(RATE);
    wait_for("traffic", UP, || (traffic.sent() >= enough).then_some(())).unwrap();
    traffic.stop().unwrap()
}

fn dropped(lab: &Laboratory, side: Side, reason: &str) -> u64 {
    lab.gateway(side).control().dropped(reason).unwrap()
}

/// UDP payload of an ESP packet that the NAT has sent on to gateway b, taken from the wire.
fn taken(lab: &Laboratory) -> Vec<u8> {
    let outside = PacketSocket::open(&lab.open(Place::Wan), Seen::Both).unwrap();
    outside.set_timeout(MOMENT).unwrap();
    let (router, b) = (
        Side::B.addresses().router(Family::V4).addr(),
        Side::B.addresses().gateway_wan(Family::V4).addr(),
    );
    let until = Instant::now() + UP;
    let mut frame = vec![0; 2048];
    while Instant::now() < until {
        let Some(info) = outside.receive(&mut frame).unwrap() else {
            continue;
        };
        // Ethernet 14, IPv4 20, UDP 8; IKE begins with four bytes of zero.
        let (packet, head) = (&frame[..info.length], &frame[14..34]);
        let ends = |at: usize| IpAddr::from(*head[at..].first_chunk::<4>().unwrap());
        if packet.len() > 80
            && packet[12..14] == [8, 0]
            && (head[0], head[9]) == (0x45, 17)
            && (ends(12), ends(16)) == (router, b)
            && packet[36..38] == NAT_TRAVERSAL.to_be_bytes()
            && packet[42..46] != [0; 4]
        {
            return packet[42..].to_vec();
        }
    }
    panic!("no ESP in UDP crosses the NAT");
}

#[test]
fn a_nat_is_found_and_followed_when_its_mapping_changes() {
    let (lab, nat) = pair();
    let router = Side::B.addresses().router(Family::V4).addr();
    let (address, port) = peer(&lab);
    assert_eq!(address, router);
    assert!(FIRST.contains(&port), "{port}");
    for sa in sas(&lab, Side::A) {
        assert_eq!(
            (&sa["source_port"], &sa["destination_port"]),
            (&json!(NAT_TRAVERSAL), &json!(NAT_TRAVERSAL))
        );
    }
    let before = negotiated(&lab);

    let wire = Wire::tap(&lab).unwrap();
    let start = |port| Family::BOTH.map(|family| Traffic::start(&lab, family, port).unwrap());
    let mut traffic = start(7100);
    for ports in [SECOND, THIRD] {
        sleep(MOMENT);
        let forgotten = Instant::now();
        nat.map(&ports).unwrap();
        wait_for("gateway b follows the NAT", FOLLOWED, || {
            let (address, port) = peer(&lab);
            assert_eq!(address, router);
            ports.contains(&port).then_some(())
        })
        .unwrap();
        let followed = forgotten.elapsed();
        // The kernel forgets one bucket after the other, and what has just come back perhaps once more.
        sleep(2 * REPORTS);
        for delivered in traffic.map(|traffic| traffic.stop().unwrap()) {
            // What gateway a sends arrives from whatever port; what gateway b sent meanwhile reached nobody.
            // One may be in the router's hands just then.
            assert!(
                delivered.forth.sent > 100 && delivered.forth.lost() <= 2,
                "{delivered:?}"
            );
            let bound = (followed + REPORTS + MOMENT).as_millis() * u128::from(RATE) / 1000;
            assert!(
                u128::from(delivered.back.lost()) < bound,
                "{followed:?}: {delivered:?}"
            );
            assert_eq!(delivered.back.duplicated, 0);
            println!(
                "followed within {followed:?}, {} lost",
                delivered.back.lost()
            );
        }
        // Settled: nothing is lost any more.
        for settled in start(7200).map(ended) {
            settled.assert_nothing_lost();
        }
        traffic = start(7100);
    }
    for delivered in traffic.map(ended) {
        delivered.assert_nothing_lost();
    }
    assert_eq!(negotiated(&lab), before, "it was negotiated anew");

    let seized = wire.cut().unwrap();
    assert_eq!(
        seized.report.count(WanClass::Cleartext),
        0,
        "{:02x?}",
        seized.report.examples
    );
    for side in Side::BOTH {
        let mut esp = seized.of(side).filter_map(|packet| match packet.kind {
            Kind::Esp { udp, .. } => Some(udp),
            _ => None,
        });
        assert!(esp.any(|udp| udp) && esp.all(|udp| udp), "{side:?}");
    }
    for reason in ["esp-bad-icv", "esp-wrong-sa", "esp-unknown-spi"] {
        assert_eq!(dropped(&lab, Side::B, reason), 0, "{reason}");
    }
}

#[test]
fn keepalives_are_counted_and_forgeries_move_nothing() {
    let (lab, _nat) = pair();
    let before = (peer(&lab), negotiated(&lab));
    let control = lab.gateway(Side::B).control();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    let real = taken(&lab);
    ended(traffic).assert_nothing_lost();

    // From another port of the very address that the peer has: not behind the NAT's rule, which is of gateway a.
    let stranger = lab
        .open(Place::Wan)
        .enter(|| UdpSocket::bind((Side::B.addresses().router(Family::V4).addr(), 50_123)).unwrap())
        .unwrap();
    let b = (
        Side::B.addresses().gateway_wan(Family::V4).addr(),
        NAT_TRAVERSAL,
    );
    // A packet that was there; the next ones, by who has no key; and what is far ahead.
    let sequence = u32::from_be_bytes(*real[4..].first_chunk().unwrap());
    let forged = |ahead: u32| {
        let mut bytes = real.clone();
        bytes[4..8].copy_from_slice(&(sequence + ahead).to_be_bytes());
        bytes
    };
    let count = |reason| control.dropped(reason).unwrap();
    // Behind the window, or in it.
    let old = || count("esp-replayed") + count("esp-late");
    let (bad, replayed) = (count("esp-bad-icv"), old());
    for _ in 0..5 {
        stranger.send_to(&real, b).unwrap();
        stranger.send_to(&forged(1 << 10), b).unwrap();
        stranger.send_to(&forged(1 << 20), b).unwrap();
    }
    wait_for("forged packets are counted", UP, || {
        (count("esp-bad-icv") == bad + 10 && old() == replayed + 5).then_some(())
    })
    .unwrap();
    sleep(MOMENT);
    assert_eq!(
        (peer(&lab), negotiated(&lab)),
        before,
        "a forgery moved the peer"
    );

    // Both hosts silent, the NAT is reminded of the mapping.
    let keepalives = count("nat-keepalive");
    wait_for("a keepalive", KEEPALIVE, || {
        (count("nat-keepalive") > keepalives).then_some(())
    })
    .unwrap();
    for family in Family::BOTH {
        let traffic = Traffic::start(&lab, family, 7100).unwrap();
        ended(traffic).assert_nothing_lost();
    }
    assert_eq!((peer(&lab), negotiated(&lab)), before);
}
