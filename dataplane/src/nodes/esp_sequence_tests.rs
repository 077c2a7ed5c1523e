//! Sequence numbers through the nodes: replay windows at their edges, and both ends of the number space.

use culvert_crypto::Suite;
use culvert_net::EspHeader;

use super::esp_tests::{Tunnel, inner4, keys, payloads, spec};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::sa::{LimitKind, Limits, SaDirection, SaKeyId, SaState, Usage};

const SPI: u32 = 0xc000_0001;

fn tunnel(window: u32, esn: bool) -> Tunnel {
    let mut out = spec(Suite::AES128GCM16, false, false, esn, SPI);
    out.replay_window = window;
    Tunnel::looped(out)
}

fn state(tunnel: &Tunnel, direction: SaDirection) -> &SaState {
    let id = SaKeyId {
        direction,
        ..tunnel.out.id
    };
    &tunnel
        .manager
        .get(&tunnel.bench.tables.sas, id)
        .unwrap()
        .state
}

/// What passed of packets with these numbers, in this order.
fn passed(tunnel: &mut Tunnel, numbers: &[u64]) -> usize {
    let packets: Vec<_> = numbers
        .iter()
        .map(|number| sealed(tunnel, *number))
        .collect();
    tunnel.receive(&packets).len()
}

/// A packet with this number. A sender counts only up: every one is of a new SA with the same keys.
fn sealed(tunnel: &Tunnel, number: u64) -> Vec<u8> {
    let mut sender = Tunnel::looped(tunnel.out.clone());
    state(&sender, SaDirection::Out).skip_to(number - 1);
    payloads(&sender.send(&[inner4(64, 0, true)])).remove(0)
}

fn usage(tunnel: &Tunnel) -> Usage {
    state(tunnel, SaDirection::In).usage()
}

#[test]
fn windows_of_every_size_hold_at_their_edges() {
    for window in [32, 64, 100, 1024, 4096] {
        let mut tunnel = tunnel(window, false);
        let size = u64::from(window);
        let top = 10_000;
        let bottom = top - size + 1;
        // One vector: the newest first, then the oldest that is in, one that is not, and both again.
        assert_eq!(
            passed(&mut tunnel, &[top, bottom, bottom - 1, top, bottom]),
            2
        );
        assert_eq!(passed(&mut tunnel, &[bottom, bottom - 1, top]), 0);
        // The window moves by one. What was its bottom was seen, as far as the look before the ICV can tell.
        assert_eq!(passed(&mut tunnel, &[top + 1, bottom, bottom + 1]), 2);
        let seen = usage(&tunnel);
        assert_eq!((seen.packets, seen.replayed, seen.late), (4, 5, 2));
        assert_eq!(seen.lost, bottom - 1, "window {window}");
        // Far ahead: of what was in the window, only three had come.
        assert_eq!(passed(&mut tunnel, &[3 * top]), 1);
        assert_eq!(usage(&tunnel).lost, 3 * top - size - 4, "window {window}");
    }
}

#[test]
fn without_a_window_everything_authentic_passes() {
    for esn in [false, true] {
        let mut tunnel = tunnel(0, esn);
        assert_eq!(passed(&mut tunnel, &[9, 9, 1, 5000, 9]), 5);
        let seen = usage(&tunnel);
        assert_eq!((seen.replayed, seen.late, seen.lost), (0, 0, 0));
    }
}

#[test]
fn a_failed_icv_never_moves_a_window() {
    for (window, esn) in [(32, false), (4096, false), (32, true), (0, true)] {
        let mut tunnel = tunnel(window, esn);
        assert_eq!(passed(&mut tunnel, &[100]), 1);
        for number in [101, 5000, 0x7000_0000, 0x7fff_fff0] {
            let mut forged = sealed(&tunnel, number);
            *forged.last_mut().unwrap() ^= 1;
            assert!(tunnel.receive([&forged]).is_empty());
            assert_eq!(state(&tunnel, SaDirection::In).window().top(), 100);
        }
        let seen = usage(&tunnel);
        assert_eq!((seen.bad_icv, seen.packets), (4, 1));
        assert_eq!(
            seen.lost,
            100_u64.saturating_sub(if window == 0 { 100 } else { window.into() })
        );
        assert_eq!(passed(&mut tunnel, &[101]), 1);
    }
}

#[test]
fn extended_numbers_pass_2_to_the_32nd_within_a_vector() {
    for window in [0, 32, 64, 4096] {
        let mut tunnel = tunnel(window, true);
        state(&tunnel, SaDirection::Out).skip_to(0xffff_fff0);
        state(&tunnel, SaDirection::In).window().update(0xffff_ffe0);
        let mut packets = payloads(&tunnel.send(&vec![inner4(64, 0, true); 32]));
        let low = |packet: &[u8]| EspHeader::parse(&packet[20..]).unwrap().sequence;
        assert_eq!((low(&packets[0]), low(&packets[31])), (0xffff_fff1, 0x10));
        // Some of the half behind come before some of the half in front.
        packets.swap(3, 28);
        assert_eq!(tunnel.receive(&packets).len(), 32, "window {window}");
        assert_eq!(
            state(&tunnel, SaDirection::In).window().top(),
            0x1_0000_0010
        );
        let again = tunnel.receive(&packets).len();
        assert_eq!(again, if window == 0 { 32 } else { 0 }, "window {window}");
    }
}

#[test]
fn a_sequence_ends_before_it_wraps() {
    for (esn, last) in [
        (false, u64::from(u32::MAX)),
        (true, u64::MAX - u64::from(u32::MAX) - 1),
    ] {
        let mut tunnel = tunnel(64, esn);
        let id = tunnel.out.id;
        let limit = |hard| Event::SaLimit { sa: id, hard };
        // A new SA is asked for while a sixteenth of the numbers is left.
        state(&tunnel, SaDirection::Out).skip_to(last - last / 16 - 2);
        let packets = vec![inner4(64, 0, true); 1];
        assert_eq!(tunnel.send(&packets).len(), 1);
        assert_eq!(tunnel.bench.events(), []);
        assert_eq!(tunnel.send(&packets).len(), 1);
        assert_eq!(tunnel.bench.events(), [limit(false)]);
        state(&tunnel, SaDirection::Out).skip_to(last - 5);
        let sent = payloads(&tunnel.send(&vec![inner4(64, 0, true); 9]));
        let low = |packet: &Vec<u8>| EspHeader::parse(&packet[20..]).unwrap().sequence;
        assert_eq!(
            sent.iter().map(low).collect::<Vec<_>>(),
            (last - 4..=last)
                .map(|number| number as u32)
                .collect::<Vec<_>>()
        );
        assert_eq!(tunnel.bench.events(), [limit(true)]);
        assert_eq!(tunnel.bench.drops(DropReason::EspLimit), 4);
        for _ in 0..3 {
            assert!(tunnel.send(&vec![inner4(64, 0, true); 200]).is_empty());
        }
        // Nor may a worker that asks for a number at the same time.
        assert_eq!(
            state(&tunnel, SaDirection::Out)
                .reserve(1, 0, std::iter::empty(), 1)
                .granted,
            0
        );
    }
}

#[test]
fn workers_that_race_for_the_last_numbers_get_each_once() {
    let tunnel = tunnel(64, false);
    let out = state(&tunnel, SaDirection::Out);
    let last = u64::from(u32::MAX);
    out.skip_to(last - 1000);
    let mut granted: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut numbers = Vec::new();
                    for _ in 0..100 {
                        let reservation = out.reserve(7, 0, std::iter::repeat(0), 1);
                        numbers.extend((reservation.first..).take(reservation.granted));
                    }
                    numbers
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    granted.sort_unstable();
    assert_eq!(granted, (last - 999..=last).collect::<Vec<_>>());
}

#[test]
fn workers_that_race_for_the_last_bytes_go_one_packet_beyond_the_limit_at_most() {
    let mut spec = spec(Suite::AES128GCM16, false, false, true, 0xc000_0001);
    spec.limits = Limits {
        soft_bytes: 900_000,
        hard_bytes: 1_000_000,
        ..Limits::NONE
    };
    for round in 0..20 {
        let tunnel = Tunnel::looped(spec.clone());
        let out = state(&tunnel, SaDirection::Out);
        let lengths = [1500, 40, 700, 1000, 64, 1, 1499];
        let results: Vec<(u64, u64, u64)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    scope.spawn(move || {
                        let (mut packets, mut bytes, mut hard) = (0, 0, 0);
                        for turn in 0..400 {
                            let start = (turn + worker + round) % 6;
                            let run = &lengths[start..];
                            let all = run.iter().sum();
                            let grant = out.reserve(run.len(), all, run.iter().copied(), 1);
                            let granted: u64 = run[..grant.granted].iter().sum();
                            assert_eq!(grant.bytes, granted);
                            packets += grant.granted as u64;
                            bytes += granted;
                            hard += u64::from(grant.report == Some(LimitKind::Hard));
                        }
                        (packets, bytes, hard)
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect()
        });
        let packets: u64 = results.iter().map(|(packets, ..)| packets).sum();
        let bytes: u64 = results.iter().map(|(_, bytes, _)| bytes).sum();
        assert!((1_000_000..1_001_500).contains(&bytes), "{bytes}");
        assert_eq!(
            (out.usage().packets, out.usage().bytes),
            (packets, bytes),
            "what is shown is what went"
        );
        assert_eq!(results.iter().map(|(.., hard)| hard).sum::<u64>(), 1);
        assert!(out.is_dead());
    }
}

#[test]
fn a_receiver_asks_for_a_new_sa_by_the_top_of_its_window() {
    let mut tunnel = tunnel(64, false);
    let inbound = SaKeyId {
        direction: SaDirection::In,
        ..tunnel.out.id
    };
    // Few packets have come; the peer has used most of its numbers all the same.
    assert_eq!(passed(&mut tunnel, &[0xefff_fff0]), 1);
    assert_eq!(tunnel.bench.events(), []);
    assert_eq!(passed(&mut tunnel, &[0xf000_0000]), 1);
    assert_eq!(
        tunnel.bench.events(),
        [Event::SaLimit {
            sa: inbound,
            hard: false
        }]
    );
    // The last number is a number like others.
    assert_eq!(passed(&mut tunnel, &[0xffff_ffff, 0xffff_fffe]), 2);
}

#[test]
fn an_inbound_end_is_told_again_while_packets_come() {
    let mut out = spec(Suite::AES128GCM16, false, false, false, SPI);
    out.limits = Limits {
        hard_packets: 3,
        ..Limits::NONE
    };
    let mut tunnel = Tunnel::bare(out.clone());
    let (encryption, integrity) = keys(out.suite, 1);
    let mut inbound = out.clone();
    inbound.id.direction = SaDirection::In;
    let id = inbound.id;
    let sas = &mut tunnel.bench.tables.sas;
    tunnel
        .manager
        .add(sas, inbound, &encryption, &integrity)
        .unwrap();
    let told = [Event::SaLimit { sa: id, hard: true }];
    tunnel.out.limits = Limits::NONE;
    assert_eq!(passed(&mut tunnel, &[1, 2, 3]), 3);
    assert_eq!(tunnel.bench.events(), told);
    assert_eq!(passed(&mut tunnel, &[4, 5]), 0);
    assert_eq!(tunnel.bench.events(), [], "not with every packet");
    tunnel.bench.now += 5_000_000_000;
    assert_eq!(passed(&mut tunnel, &[6, 7, 8]), 0);
    assert_eq!(tunnel.bench.events(), told, "once in five seconds");
    assert_eq!(tunnel.bench.drops(DropReason::EspLimit), 5);
}
