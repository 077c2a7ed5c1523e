//! Frames longer than a buffer of the ordinary size.

use super::*;

with_both! {
    jumbo_frames_of_every_size_pass_both_ways
    a_jumbo_burst_that_fills_the_ring_keeps_whole_frames_and_counts_the_others
}

fn jumbo_frames_of_every_size_pass_both_ways(kind: Kind) {
    on_a_pair(move || {
        let (kernel, mut driver) = open_jumbo(kind);
        let mut random = Random::new(10);
        // Each size once, a small one beside a large one.
        let frames: Vec<_> = (14..=4622)
            .flat_map(|length| [length, 9230 + 14 - length])
            .map(|length| frame(&mut random, length, EXPERIMENT))
            .collect();
        let mut bytes = vec![0; 16_384];
        for some in frames.chunks(20) {
            for frame in some {
                put(&kernel, frame);
            }
            let received = driver.receive_all(some.len());
            for (expected, (meta, frame)) in some.iter().zip(&received) {
                assert!(expected == frame, "a frame of {} bytes", expected.len());
                assert_eq!(meta.flags, 0);
                // ESP's trailer and ICV fit behind every one.
                let area = if frame.len() > 1920 { LARGE_AREA } else { AREA };
                assert!(meta.offset() >= HEADROOM && meta.offset() + frame.len() + 49 <= area);
            }
            driver.transmit(some);
            for expected in some {
                expect_from(&kernel, expected, &mut bytes);
            }
        }
        for reason in DropReason::ALL {
            assert_eq!(driver.drops(*reason), 0, "{}", reason.name());
        }
        // Without large buffers small frames still pass.
        let (small, large) = (&frames[0], &frames[1]);
        let taken: Vec<_> = std::iter::from_fn(|| driver.buffers.allocate_large()).collect();
        put(&kernel, large);
        put(&kernel, small);
        assert!(driver.receive_all(1)[0].1 == *small);
        assert_eq!(driver.drops(DropReason::NoBuffer), 1);
        // More than the rings have places for, one round after the other: what is dropped makes room.
        for _ in 0..15 {
            for _ in 0..100 {
                put(&kernel, large);
            }
            driver.receive_nothing();
        }
        put(&kernel, small);
        assert!(driver.receive_all(1)[0].1 == *small);
        driver.receive_nothing();
        let lost = driver.drops(DropReason::NoBuffer) + driver.drops(DropReason::RxRingFull);
        assert_eq!(lost, 1501);
        driver.buffers.free_all(taken);
        put(&kernel, large);
        assert!(driver.receive_all(1)[0].1 == *large);
        // Another driver makes it small again.
        make_mtu("culvert-b", 1500, DriverChoice::AfXdp).unwrap();
        ip("link set culvert-a mtu 1500");
        driver.finish();
        Driver::open(Kind::AfXdp).finish();
    });
}

fn a_jumbo_burst_that_fills_the_ring_keeps_whole_frames_and_counts_the_others(kind: Kind) {
    const BURST: usize = 3000;
    on_a_pair(move || {
        let (kernel, mut driver) = open_jumbo(kind);
        let mut random = Random::new(11);
        let frames: Vec<_> = (0..BURST)
            .map(|number| {
                let length = [9230, 60, 1920, 5000, 1921, 1514][number % 6];
                frame(&mut random, length, EXPERIMENT)
            })
            .collect();
        for frame in &frames {
            put(&kernel, frame);
        }
        let (mut kept, mut sent) = (0, frames.iter());
        while driver.wait(Duration::from_millis(100)) {
            for (_, received) in driver.receive() {
                let found = sent.any(|frame| *frame == received);
                assert!(found, "a frame of {} bytes", received.len());
                kept += 1;
            }
        }
        driver.receive_nothing();
        assert!(kept > 900, "{kept}");
        put(&kernel, &frames[0]);
        assert!(driver.receive_all(1)[0].1 == frames[0]);
        driver.receive_nothing();
        let lost = driver.drops(DropReason::RxRingFull) as usize;
        assert_eq!(kept + lost, BURST, "{kept}, {lost}");
        for reason in DropReason::ALL {
            if *reason != DropReason::RxRingFull {
                assert_eq!(driver.drops(*reason), 0, "{}", reason.name());
            }
        }
        driver.finish();
    });
}

#[test]
fn frames_longer_than_any_buffer_are_counted_and_the_others_pass() {
    on_a_pair(|| {
        let (kernel, mut driver) = open_jumbo(Kind::AfXdp);
        // From now on the kernel lets larger ones through.
        ip("link set culvert-a mtu 20000");
        ip("link set culvert-b mtu 20000");
        let mut random = Random::new(12);
        let (small, large) = (
            frame(&mut random, 400, EXPERIMENT),
            frame(&mut random, 9230, EXPERIMENT),
        );
        for (number, length) in [10_241, 11_520, 15_000, 20_000].into_iter().enumerate() {
            put(&kernel, &large);
            put(&kernel, &frame(&mut random, length, EXPERIMENT));
            put(&kernel, &small);
            let received = driver.receive_all(2);
            assert!(received[0].1 == large && received[1].1 == small);
            assert_eq!(
                driver.drops(DropReason::FrameTooLarge),
                number as u64 + 1,
                "{length}"
            );
        }
        driver.finish();
    });
}
