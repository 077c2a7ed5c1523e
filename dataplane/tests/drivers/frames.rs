//! Ordinary frames: every length, bursts, checksums, tags, waking.

use super::*;

with_both! {
    frames_of_every_length_pass_both_ways_unchanged_and_in_order
    a_burst_larger_than_the_ring_arrives_while_it_is_taken_and_else_is_counted
    unfilled_checksums_are_flagged_and_vlan_tags_are_put_back
    the_kernels_own_packets_arrive_as_on_a_wire
    the_first_frame_wakes_a_sleeper
}

fn frames_of_every_length_pass_both_ways_unchanged_and_in_order(kind: Kind) {
    on_a_pair(move || {
        let (kernel, mut driver) = (raw(), Driver::open(kind));
        let mut random = Random::new(1);
        let frames: Vec<_> = (14..=1514)
            .map(|length| frame(&mut random, length, EXPERIMENT))
            .collect();
        for frame in &frames {
            put(&kernel, frame);
        }
        let received = driver.receive_all(frames.len());
        for (expected, (meta, frame)) in frames.iter().zip(&received) {
            assert!(expected == frame, "a frame of {} bytes", expected.len());
            assert_eq!(meta.flags, 0);
        }
        assert_eq!(received.len(), frames.len());
        let mut bytes = vec![0; 4096];
        // A socket's default buffer holds some 200 frames.
        for some in frames.chunks(50) {
            driver.transmit(some);
            for expected in some {
                let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
                assert!(
                    bytes[..length] == *expected,
                    "a frame of {} bytes",
                    expected.len()
                );
            }
        }
        for reason in DropReason::ALL {
            assert_eq!(driver.drops(*reason), 0, "{}", reason.name());
        }
        driver.finish();
    });
}

fn a_burst_larger_than_the_ring_arrives_while_it_is_taken_and_else_is_counted(kind: Kind) {
    const BURST: usize = 10_000;
    on_a_pair(move || {
        let (kernel, mut driver) = (raw(), Driver::open(kind));
        let taken = Arc::new(AtomicUsize::new(0));
        let sender = std::thread::spawn({
            let taken = Arc::clone(&taken);
            move || {
                let mut random = Random::new(2);
                for number in 0..BURST {
                    // Never more under way than the ring has slots for.
                    while number - taken.load(Ordering::Acquire) > 3000 {
                        std::thread::yield_now();
                    }
                    let length = 60 + number % 1400;
                    put(&kernel, &frame(&mut random, length, EXPERIMENT));
                }
                kernel
            }
        });
        let mut random = Random::new(2);
        let mut number = 0;
        while number < BURST {
            let received = driver.receive();
            assert!(!received.is_empty(), "{number} of {BURST} frames came");
            for (_, bytes) in received {
                let expected = frame(&mut random, 60 + number % 1400, EXPERIMENT);
                assert!(bytes == expected, "frame {number}");
                number += 1;
            }
            taken.store(number, Ordering::Release);
        }
        let kernel = sender.join().unwrap();
        assert_eq!(driver.drops(DropReason::RxRingFull), 0);

        // Nobody takes these: the ring keeps the first ones, and the loss of the others is counted.
        for _ in 0..BURST {
            put(&kernel, &frame(&mut random, 60, EXPERIMENT));
        }
        let kept = driver.receive_all(4000).len();
        put(&kernel, &frame(&mut random, 60, EXPERIMENT));
        let after = driver.receive().len();
        // After a burst the kernel is asked what it has counted.
        driver.receive_nothing();
        let lost = driver.drops(DropReason::RxRingFull) as usize;
        assert_eq!(kept + after + lost, BURST + 1, "{kept}, {after}, {lost}");
        driver.finish();
    });
}

/// The frame with its checksum completed as the driver says.
fn completed(meta: &Metadata, frame: &[u8]) -> Vec<u8> {
    assert_ne!(meta.flags & flags::CHECKSUM_PARTIAL, 0, "{frame:02x?}");
    let mut frame = frame.to_vec();
    checksum::complete_l4(
        &mut frame,
        usize::from(meta.checksum_start),
        usize::from(meta.checksum_offset),
    )
    .unwrap();
    frame
}

fn assert_right_udp(packet: &[u8], payload: &[u8]) {
    let view = Ipv4View::verify(packet).unwrap();
    let length = view.payload().len() as u16;
    let sum = checksum::pseudo_v4(view.source(), view.destination(), view.protocol(), length)
        .add_bytes(view.payload())
        .finish();
    assert_eq!(sum, 0, "{packet:02x?}");
    assert_eq!(&view.payload()[8..], payload);
}

fn unfilled_checksums_are_flagged_and_vlan_tags_are_put_back(kind: Kind) {
    on_a_pair(move || {
        ip("addr add 10.99.0.1/24 dev culvert-a");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev culvert-a");
        let (kernel, mut driver) = (raw(), Driver::open(kind));
        let payload = b"an unfilled checksum covers these bytes";
        let plain = UdpSocket::bind("10.99.0.1:4000").unwrap();
        plain.send_to(payload, "10.99.0.2:5000").unwrap();
        let (meta, bytes) = driver.receive().pop().unwrap();
        assert_eq!((meta.checksum_start, meta.checksum_offset), (34, 6));
        assert_right_udp(&completed(&meta, &bytes)[14..], payload);

        // The same packet behind a tag, which the kernel takes out of the frame: both offsets count from its start.
        let tagged = raw();
        option(&tagged, libc::PACKET_VNET_HDR);
        let header = [
            &[1, 0, 0, 0, 0, 0][..],
            &38_u16.to_ne_bytes(),
            &6_u16.to_ne_bytes(),
        ]
        .concat();
        let behind_tag = [&bytes[..12], &[0x81, 0, 0, 5], &bytes[12..]].concat();
        let message = [&header[..], &behind_tag].concat();
        put(&tagged, &message);
        let (meta, bytes) = driver.receive().pop().unwrap();
        assert_eq!(bytes, behind_tag);
        assert_eq!((meta.checksum_start, meta.checksum_offset), (38, 6));
        assert_right_udp(&completed(&meta, &bytes)[18..], payload);

        // Tags in the frame's own bytes, of both kinds, and two of them.
        let mut random = Random::new(3);
        for (ether_type, tag) in [(0x8100, 0x0fff), (0x88a8, 0x6064), (0x8100, 0x2001)] {
            for inner in [EXPERIMENT, 0x8100] {
                let mut sent = frame(&mut random, 100, ether_type);
                sent[14..16].copy_from_slice(&u16::to_be_bytes(tag));
                sent[16..18].copy_from_slice(&inner.to_be_bytes());
                put(&kernel, &sent);
                let (meta, received) = driver.receive().pop().unwrap();
                assert_eq!(received, sent, "{ether_type:#06x} {inner:#06x}");
                assert_eq!(meta.flags, 0);
            }
        }
        driver.finish();
    });
}

fn the_kernels_own_packets_arrive_as_on_a_wire(kind: Kind) {
    on_a_pair(move || {
        ip("addr add 10.99.0.1/24 dev culvert-a");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev culvert-a");
        ip("addr add fd00:99::1/64 dev culvert-a nodad");
        ip("neigh add fd00:99::2 lladdr 02:00:00:00:00:02 dev culvert-a");
        let mut driver = Driver::open(kind);
        let payload = b"an unfilled checksum covers these bytes";
        let plain = UdpSocket::bind("[fd00:99::1]:4000").unwrap();
        plain.send_to(payload, "[fd00:99::2]:5000").unwrap();
        let (meta, bytes) =
            driver.receive_until(|frame| frame[12..14] == [0x86, 0xdd] && frame[20] == 17);
        assert_eq!((meta.checksum_start, meta.checksum_offset), (54, 6));
        let whole = completed(&meta, &bytes);
        let mut address = [[0; 16]; 2];
        address[0].copy_from_slice(&whole[22..38]);
        address[1].copy_from_slice(&whole[38..54]);
        let udp = &whole[54..];
        let sum = checksum::pseudo_v6(
            address[0].into(),
            address[1].into(),
            culvert_net::Protocol::UDP,
            udp.len() as u32,
        );
        assert_eq!(sum.add_bytes(udp).finish(), 0);

        std::thread::spawn(|| {
            // Nobody answers: only the SYN is wanted.
            let _ = std::net::TcpStream::connect_timeout(
                &"10.99.0.2:80".parse().unwrap(),
                Duration::from_millis(200),
            );
        });
        let (meta, bytes) = driver.receive_until(|frame| frame[12..14] == [8, 0] && frame[23] == 6);
        assert_eq!((meta.checksum_start, meta.checksum_offset), (34, 16));
        let whole = completed(&meta, &bytes);
        let view = Ipv4View::verify(&whole[14..]).unwrap();
        let length = view.payload().len() as u16;
        let sum = checksum::pseudo_v4(view.source(), view.destination(), view.protocol(), length);
        assert_eq!(sum.add_bytes(view.payload()).finish(), 0);
        driver.finish();
    });
}

#[test]
fn frames_that_are_too_large_are_counted_and_the_others_pass() {
    on_a_pair(|| {
        ip("link set culvert-a mtu 9000");
        ip("link set culvert-b mtu 9000");
        ip("addr add 10.99.0.1/24 dev culvert-a");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev culvert-a");
        let (kernel, mut driver) = (raw(), Driver::open(Kind::AfPacket));
        let mut random = Random::new(4);
        put(&kernel, &frame(&mut random, 4000, EXPERIMENT));
        let small = frame(&mut random, 400, EXPERIMENT);
        put(&kernel, &small);
        let received = driver.receive_all(1);
        assert_eq!(received[0].1, small);
        assert_eq!(driver.drops(DropReason::FrameTooLarge), 1);

        // A super-packet of the sender's segmentation offload: small enough for a slot, and yet no frame of a wire.
        ethtool(&["-K", "culvert-a", "tx-udp-segmentation", "on"]);
        let sender = UdpSocket::bind("10.99.0.1:4000").unwrap();
        setsockopt(&sender, UdpGsoSegment, &500).unwrap();
        sender.send_to(&[7; 1500], "10.99.0.2:5000").unwrap();
        put(&kernel, &small);
        assert_eq!(driver.receive_all(1)[0].1, small);
        assert_eq!(driver.drops(DropReason::FrameTooLarge), 2);

        // On the way out one that the link does not take is counted, and those behind it are sent.
        ip("link set culvert-b mtu 1500");
        let large = frame(&mut random, 1600, EXPERIMENT);
        driver.transmit(&[small.clone(), large, small.clone()]);
        let mut bytes = vec![0; 4096];
        for _ in 0..2 {
            let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            assert_eq!(bytes[..length], small);
        }
        assert_eq!(driver.drops(DropReason::TxError), 1);
        ip("link set culvert-b down");
        driver.transmit(&[small.clone(), small]);
        assert_eq!(driver.drops(DropReason::TxError), 3);
        driver.finish();
    });
}

fn the_first_frame_wakes_a_sleeper(kind: Kind) {
    const SAMPLES: usize = 200;
    on_a_pair(move || {
        let (kernel, mut driver) = (raw(), Driver::open(kind));
        let sender = std::thread::spawn(move || {
            let mut frame = frame(&mut Random::new(5), 60, EXPERIMENT);
            for _ in 0..SAMPLES {
                std::thread::sleep(Duration::from_millis(3));
                frame[14..22].copy_from_slice(&monotonic_nanoseconds().to_be_bytes());
                put(&kernel, &frame);
            }
        });
        let mut waits = Vec::new();
        while waits.len() < SAMPLES {
            let received = driver.receive();
            let now = monotonic_nanoseconds();
            assert!(!received.is_empty());
            for (_, frame) in received {
                let sent = u64::from_be_bytes(*frame[14..].first_chunk().unwrap());
                waits.push(now - sent);
            }
        }
        sender.join().unwrap();
        waits.sort_unstable();
        let (first, median) = (waits[SAMPLES / 10], waits[SAMPLES / 2]);
        println!("a frame wakes the driver after {first} ns (p10), {median} ns (p50)");
        // A ring that hands over blocks holds every frame back for 0.5 to 3.5 ms, whatever else the machine does.
        assert!(first < 400_000, "p10 is {first} ns");
        driver.finish();
    });
}
