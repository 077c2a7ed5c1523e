//! Damaged and invented frames through all nodes of layer 3: none is lost without a trace, no buffer leaks.

use std::net::Ipv6Addr;

use super::link_frames;
use super::workbench::{
    FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, HOST_MAC, LAN, LAN_IP, LAN_IP6, LAN_MAC, WAN, WAN_IP,
    Workbench, from_host, packet4, packet6,
};
use crate::buffer::flags;
use crate::drop_reason::DropReason;
use crate::tables::MssClamp;

/// Numerical Recipes' generator: the same frames in every run.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }
}

fn good_frames() -> Vec<Vec<u8>> {
    let esp = [0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9];
    let mut udp = vec![0x11, 0x94, 0x11, 0x94, 0, 24, 0, 0];
    udp.extend(esp);
    let mut tcp = vec![0; 24];
    (tcp[12], tcp[13], tcp[20], tcp[21], tcp[22]) = (0x60, 2, 2, 4, 0xff);
    let behind_options = [&[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], &tcp[..]].concat();
    let fragment = [17, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut frames: Vec<Vec<u8>> = [
        packet4(HOST_IP, FAR_IP, 17, &udp),
        packet4(HOST_IP, FAR_IP, 6, &tcp),
        packet4(HOST_IP, LAN_IP, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        packet4(HOST_IP, WAN_IP, 50, &esp),
        packet4(HOST_IP, WAN_IP, 17, &udp),
        packet4(HOST_IP, [10, 2, 0, 1].into(), 17, &udp),
        packet4(HOST_IP, [10, 1, 0, 77].into(), 17, &udp),
        packet4(HOST_IP, [192, 0, 2, 1].into(), 17, &udp),
        packet6(HOST_IP6, FAR_IP6, 6, 64, &tcp),
        packet6(HOST_IP6, FAR_IP6, 0, 64, &behind_options),
        packet6(HOST_IP6, LAN_IP6, 50, 64, &esp),
        packet6(HOST_IP6, LAN_IP6, 44, 64, &fragment),
        packet6(HOST_IP6, "2001:db8:1::7".parse().unwrap(), 17, 64, &udp),
        packet6(
            HOST_IP6,
            LAN_IP6,
            0,
            64,
            &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0],
        ),
    ]
    .iter()
    .map(|packet| from_host(packet))
    .collect();
    frames.extend([
        link_frames::arp_request(HOST_MAC, HOST_IP, LAN_IP, None).to_vec(),
        link_frames::solicitation(HOST_MAC, HOST_IP6, LAN_IP6, None).to_vec(),
        link_frames::solicitation(HOST_MAC, Ipv6Addr::UNSPECIFIED, LAN_IP6, None).to_vec(),
        link_frames::advertisement(HOST_MAC, HOST_IP6, Some((LAN_IP6, LAN_MAC))).to_vec(),
    ]);
    frames
}

fn damage(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        match random.below(4) {
            // Most of what decides lies in the headers.
            0 => {
                let at = random.below(frame.len().min(60));
                frame[at] = random.next() as u8;
            }
            1 => {
                let at = random.below(frame.len());
                frame[at] ^= 1 << random.below(8);
            }
            2 => frame.truncate(random.below(frame.len() + 1).max(1)),
            _ => {
                let more = random.below(1500);
                frame.extend((0..more).map(|_| random.next() as u8));
            }
        }
    }
}

/// Makes the IPv4 header checksum right again, so that the damage gets past it.
fn mend(frame: &mut [u8]) {
    if let Some(header) = frame.get_mut(14..34)
        && header[0] == 0x45
    {
        header[10..12].fill(0);
        let header: &mut [u8; 20] = header.try_into().unwrap();
        let sum = culvert_net::checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn every_frame_is_forwarded_held_or_counted() {
    const FRAMES: u64 = 100_000;
    let good = good_frames();
    let mut random = Random(1);
    let mut bench = Workbench::layer3();
    for interface in [LAN, WAN] {
        bench.change_interface(interface, |one| one.mss_clamp = MssClamp::FromMtu);
    }
    bench.tables.mss_arriving = true;
    for number in 0..FRAMES {
        let mut frame = good[random.below(good.len())].clone();
        damage(&mut frame, &mut random);
        if random.below(2) == 0 {
            mend(&mut frame);
        }
        frame.truncate(1600);
        let partial = random.below(8) == 0;
        bench.receive_with(if number % 5 == 0 { WAN } else { LAN }, &frame, |meta| {
            if partial {
                meta.flags |= flags::CHECKSUM_PARTIAL;
                meta.checksum_start = random.next() as u16 % 100;
                meta.checksum_offset = random.next() as u16 % 40;
            }
        });
        if number % 64 == 0 {
            bench.now += 20_000_000;
            bench.run();
            bench.tick();
        }
    }
    bench.run();
    let sent = (bench.sent(LAN).len() + bench.sent(WAN).len()) as u64;
    // Errors that were not sent are counted beside the drop that they would have told of.
    let dropped: u64 = DropReason::ALL
        .iter()
        .filter(|reason| {
            ![DropReason::IcmpNotAllowed, DropReason::IcmpRateLimited].contains(reason)
        })
        .map(|reason| bench.drops(*reason))
        .sum();
    let held = bench.graph.held() as u64;
    assert!(sent + dropped + held >= FRAMES, "{sent} {dropped} {held}");
    for reason in [
        DropReason::Ip4Malformed,
        DropReason::Ip4BadChecksum,
        DropReason::Ip6Malformed,
        DropReason::ArpMalformed,
        DropReason::NdMalformed,
        DropReason::PuntBadMarker,
        DropReason::Ip4TtlExpired,
        DropReason::NoRoute,
        DropReason::Sink,
    ] {
        assert!(bench.drops(reason) > 0, "{} never happened", reason.name());
    }
    bench.finish();
}
