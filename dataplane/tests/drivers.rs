//! The drivers `AF_PACKET` and `AF_XDP` on a veth pair, in network namespaces that live as long as a thread.
//!
//! ```text
//!   sockets of the kernel -- culvert-a ==== culvert-b -- the driver's port
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code)]

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use culvert_dataplane::buffer::{AREA, BufferPool, HEADROOM, LARGE_AREA, Metadata, flags};
use culvert_dataplane::clock::monotonic_nanoseconds;
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::driver::DriverChoice;
use culvert_dataplane::driver::af_packet::{AfPacket, Device, make_mtu};
use culvert_dataplane::driver::af_xdp::{AfXdp, Mode, XdpError};
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::Vector;
use culvert_dataplane::port::Port;
use culvert_net::{Ipv4View, checksum};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, UdpGsoSegment};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// An `EtherType` for experiments (IEEE 802a): nobody answers it.
const EXPERIMENT: u16 = 0x88b5;
/// Longest wait for a frame on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn ethtool(arguments: &[&str]) -> String {
    let output = Command::new("ethtool").args(arguments).output().unwrap();
    assert!(output.status.success(), "ethtool {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a test in a network namespace of its own, with the pair in it; the namespace ends with its thread.
fn on_a_pair(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add culvert-a type veth peer name culvert-b");
        for end in ["culvert-a", "culvert-b"] {
            // No address, so the kernel says nothing of its own.
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A socket of the kernel that sends and receives whole frames on `culvert-a`.
fn raw() -> OwnedFd {
    const PACKET_IGNORE_OUTGOING: i32 = 23;
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex("culvert-a").unwrap() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    option(&fd, PACKET_IGNORE_OUTGOING);
    // SAFETY: the address is a whole sockaddr_ll and lives through the call.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(bound, 0);
    setsockopt(
        &fd,
        ReceiveTimeout,
        &TimeVal::seconds(PATIENCE.as_secs() as i64),
    )
    .unwrap();
    fd
}

/// Switches an option of packet(7) on.
fn option(fd: &OwnedFd, option: i32) {
    let on = 1_i32;
    // SAFETY: the value is the int that these options take, and lives through the call.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(set, 0);
}

fn put(fd: &OwnedFd, frame: &[u8]) {
    assert_eq!(
        send(fd.as_raw_fd(), frame, MsgFlags::empty()),
        Ok(frame.len())
    );
}

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AfPacket,
    AfXdp,
}

/// The driver's side.
struct Driver {
    port: Box<dyn Port>,
    buffers: BufferPool,
    counters: WorkerCounters,
}

impl Driver {
    fn open(kind: Kind) -> Self {
        Self::open_for(kind, 1500)
    }

    fn open_for(kind: Kind, mtu: u16) -> Self {
        let buffers = BufferPool::new(16_384).unwrap();
        let port: Box<dyn Port> = match kind {
            Kind::AfPacket => {
                let device = Arc::new(Device::take("culvert-b").unwrap());
                Box::new(AfPacket::open(&device, 1, mtu).unwrap())
            }
            Kind::AfXdp => {
                let (mut ports, mode) = AfXdp::open("culvert-b", &[buffers.memory()]).unwrap();
                let native = Mode {
                    native: true,
                    zero_copy: false,
                };
                assert_eq!((ports.len(), mode), (1, native));
                Box::new(ports.remove(0))
            }
        };
        let mut driver = Self {
            port,
            buffers,
            counters: WorkerCounters::default(),
        };
        // Lends the kernel buffers.
        let mut vector = Vector::new();
        driver
            .port
            .receive(&mut driver.buffers, &driver.counters, &mut vector);
        driver.buffers.free_all(vector.drain(..));
        driver
    }

    /// Looks for frames when there is none.
    fn receive_nothing(&mut self) {
        let mut vector = Vector::new();
        self.port
            .receive(&mut self.buffers, &self.counters, &mut vector);
        assert!(vector.is_empty());
    }

    /// Whether there are frames, now or soon.
    fn wait(&self, longest: Duration) -> bool {
        let mut descriptors = [PollFd::new(
            self.port.descriptor().unwrap(),
            PollFlags::POLLIN,
        )];
        let timeout = PollTimeout::try_from(longest).unwrap();
        poll(&mut descriptors, timeout).unwrap() > 0
    }

    /// Waits for frames, and gives those that one call of the driver has for us.
    fn receive(&mut self) -> Vec<(Metadata, Vec<u8>)> {
        let began = Instant::now();
        let mut vector = Vector::new();
        while vector.is_empty() && began.elapsed() < PATIENCE {
            self.wait(Duration::from_millis(200));
            self.port
                .receive(&mut self.buffers, &self.counters, &mut vector);
        }
        let frames = vector
            .iter()
            .map(|packet| {
                (
                    *self.buffers.meta(packet),
                    self.buffers.data(packet).to_vec(),
                )
            })
            .collect();
        self.buffers.free_all(vector.drain(..));
        frames
    }

    /// The first frame that is as wanted; others are passed over.
    fn receive_until(&mut self, wanted: impl Fn(&[u8]) -> bool) -> (Metadata, Vec<u8>) {
        loop {
            let received = self.receive();
            assert!(!received.is_empty(), "it did not come");
            if let Some(found) = received.into_iter().find(|(_, frame)| wanted(frame)) {
                return found;
            }
        }
    }

    fn receive_all(&mut self, count: usize) -> Vec<(Metadata, Vec<u8>)> {
        let mut frames = Vec::new();
        while frames.len() < count {
            let more = self.receive();
            assert!(!more.is_empty(), "{} of {count} frames came", frames.len());
            frames.extend(more);
        }
        frames
    }

    fn transmit(&mut self, frames: &[Vec<u8>]) {
        for frames in frames.chunks(200) {
            let mut vector: Vector = frames
                .iter()
                .map(|frame| {
                    let mut packet = self.buffers.allocate_for(frame.len()).unwrap();
                    self.buffers
                        .meta_mut(&mut packet)
                        .set_len(frame.len())
                        .unwrap();
                    self.buffers.data_mut(&mut packet).copy_from_slice(frame);
                    packet
                })
                .collect();
            self.port
                .transmit(&mut self.buffers, &self.counters, &mut vector);
        }
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drop(reason).get()
    }

    fn finish(mut self) {
        self.port.release(&mut self.buffers);
        assert_eq!(self.buffers.available(), self.buffers.capacity());
    }
}

fn frame(random: &mut Random, length: usize, ether_type: u16) -> Vec<u8> {
    let mut frame = vec![0; length];
    random.fill(&mut frame);
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
    frame
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

/// Each with both drivers.
macro_rules! with_both {
    ($($test:ident)+) => {
        mod af_packet {
            $(#[test]
            fn $test() {
                super::$test(super::Kind::AfPacket);
            })+
        }
        mod af_xdp {
            $(#[test]
            fn $test() {
                super::$test(super::Kind::AfXdp);
            })+
        }
    };
}

with_both! {
    frames_of_every_length_pass_both_ways_unchanged_and_in_order
    a_burst_larger_than_the_ring_arrives_while_it_is_taken_and_else_is_counted
    unfilled_checksums_are_flagged_and_vlan_tags_are_put_back
    the_kernels_own_packets_arrive_as_on_a_wire
    the_first_frame_wakes_a_sleeper
    jumbo_frames_of_every_size_pass_both_ways
    a_jumbo_burst_that_fills_the_ring_keeps_whole_frames_and_counts_the_others
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

#[test]
fn offloads_are_switched_off_while_the_interface_is_ours() {
    on_a_pair(|| {
        let state = |feature: &str| {
            ethtool(&["-k", "culvert-b"])
                .lines()
                .find_map(|line| line.strip_prefix(feature)?.strip_prefix(": "))
                .unwrap()
                .to_owned()
        };
        let (gro, tags) = ("generic-receive-offload", "rx-vlan-offload");
        for kind in [Kind::AfPacket, Kind::AfXdp] {
            ethtool(&["-K", "culvert-b", "gro", "on", "rxvlan", "on"]);
            let driver = Driver::open(kind);
            // AF_PACKET is told of tags that were taken out.
            let left_in = if kind == Kind::AfXdp { "off" } else { "on" };
            assert_eq!(
                (state(gro).as_str(), state(tags).as_str()),
                ("off", left_in)
            );
            driver.finish();
            assert_eq!((state(gro).as_str(), state(tags).as_str()), ("on", "on"));
            ethtool(&["-K", "culvert-b", "gro", "off", "rxvlan", "off"]);
            Driver::open(kind).finish();
            assert_eq!(
                (state(gro).as_str(), state(tags).as_str()),
                ("off", "off"),
                "what was off before stays off"
            );
        }
    });
}

/// Makes both ends of the pair take jumbo frames, and opens the driver for them.
fn open_jumbo(kind: Kind) -> (OwnedFd, Driver) {
    let driver = match kind {
        Kind::AfPacket => DriverChoice::AfPacket,
        Kind::AfXdp => DriverChoice::AfXdp,
    };
    ip("link set culvert-a mtu 9216");
    make_mtu("culvert-b", 9216, driver).unwrap();
    let kernel = raw();
    let bytes = 64_i32 << 20;
    setsockopt(&kernel, RcvBufForce, &(bytes as usize)).unwrap();
    (kernel, Driver::open_for(kind, 9216))
}

fn expect_from(kernel: &OwnedFd, expected: &[u8], bytes: &mut [u8]) {
    let length = recv(kernel.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    assert!(
        bytes[..length] == *expected,
        "a frame of {} bytes, not {length}",
        expected.len()
    );
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

/// Lets system calls of this thread fail with an error: that of a number whose argument of a number has one value.
fn refuse(call: libc::c_long, argument: u32, value: u32, error: i32) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(load, 0, 0, 0),
        step(equal, call as u32, 0, 3),
        // The low half of an argument, on machines whose bytes are little-endian.
        step(load, 16 + 8 * argument, 0, 0),
        step(equal, value, 0, 1),
        step(answer, libc::SECCOMP_RET_ERRNO | error as u32, 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter live through the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        let set = libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
        assert_eq!(set, 0);
    }
}

#[test]
fn a_frame_that_does_not_find_room_in_the_transmit_ring_leaves_no_part_in_it() {
    on_a_pair(|| {
        let (kernel, mut driver) = open_jumbo(Kind::AfXdp);
        let mut random = Random::new(13);
        let large: Vec<_> = (0..500)
            .map(|number| frame(&mut random, 8705 + number, EXPERIMENT))
            .collect();
        let small: Vec<_> = (0..10)
            .map(|number| frame(&mut random, 60 + number, EXPERIMENT))
            .collect();
        // The kernel's answer while it cannot send.
        let stuck = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                refuse(libc::SYS_sendto, 3, libc::MSG_DONTWAIT as u32, libc::EAGAIN);
                driver.transmit(&large);
                driver.transmit(&small);
                driver.drops(DropReason::TxQueueFull)
            });
            thread.join().unwrap()
        });
        // Five pieces each: 409 of them, and then there is room for three.
        assert_eq!(stuck, (500 - 409) + (10 - 3));
        driver.receive_nothing();
        let mut bytes = vec![0; 16_384];
        for expected in large[..409].iter().chain(&small[..3]) {
            expect_from(&kernel, expected, &mut bytes);
        }
        driver.transmit(&large[..100]);
        for expected in &large[..100] {
            expect_from(&kernel, expected, &mut bytes);
        }
        assert_eq!(driver.drops(DropReason::TxError), 0);
        driver.finish();
    });
}

/// As kernels answer that lack it: before 5.18 when the program is loaded, before 6.6 when the socket is bound.
#[test]
fn a_kernel_without_multi_buffer_xdp_is_refused_by_name() {
    const PROGRAM_LOAD: u32 = 5;
    let socket_address = size_of::<libc::sockaddr_xdp>() as u32;
    for (call, argument, value, step) in [
        (libc::SYS_bpf, 0, PROGRAM_LOAD, "load the XDP program"),
        (libc::SYS_bind, 2, socket_address, "bind to a queue"),
    ] {
        on_a_pair(move || {
            ip("link set culvert-b mtu 9000");
            ip("link set culvert-a mtu 9000");
            refuse(call, argument, value, libc::EINVAL);
            let buffers = BufferPool::new(64).unwrap();
            let refused = AfXdp::open("culvert-b", &[buffers.memory()]).err().unwrap();
            assert_eq!(
                refused.to_string(),
                format!(
                    "culvert-b: an MTU of 9000 bytes needs multi-buffer XDP, which this kernel or driver does not have: {step}: Invalid argument (os error 22)"
                )
            );
            // What is then used has not been spoilt.
            let (kernel, mut driver) = (raw(), Driver::open_for(Kind::AfPacket, 9000));
            let sent = frame(&mut Random::new(14), 9000, EXPERIMENT);
            put(&kernel, &sent);
            assert!(driver.receive_all(1)[0].1 == sent);
            driver.finish();
        });
    }
}

#[test]
fn an_mtu_that_does_not_fit_a_buffer_is_refused_by_name() {
    on_a_pair(|| {
        let buffers = BufferPool::new(64).unwrap();
        ip("link set culvert-b mtu 9217");
        let refused = AfXdp::open("culvert-b", &[buffers.memory()]).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "culvert-b: AF_XDP takes an MTU of 9216 bytes at most, not 9217"
        );
        // On both sides of where frames begin to need several buffers.
        for mtu in [1836, 1837] {
            ip(&format!("link set culvert-b mtu {mtu}"));
            ip(&format!("link set culvert-a mtu {mtu}"));
            let (kernel, mut driver) = (raw(), Driver::open(Kind::AfXdp));
            let mut random = Random::new(6);
            let largest = frame(&mut random, mtu + 14, EXPERIMENT);
            put(&kernel, &largest);
            assert!(driver.receive_all(1)[0].1 == largest);
            driver.transmit(std::slice::from_ref(&largest));
            expect_from(&kernel, &largest, &mut [0; 4096]);
            driver.finish();
        }
        let missing = AfXdp::open("culvert-c", &[buffers.memory()]).err().unwrap();
        assert!(matches!(missing, XdpError::Device(_)), "{missing}");
    });
}

#[test]
fn what_a_link_that_is_down_does_not_send_is_counted_and_never_sent() {
    cut_a_link(|| (raw(), Driver::open(Kind::AfXdp)), |_| 400);
}

#[test]
fn jumbo_frames_that_a_link_does_not_send_are_counted_once_each() {
    let sizes = |number| [9000, 400, 2177, 9230][number % 4];
    cut_a_link(|| open_jumbo(Kind::AfXdp), sizes);
}

fn cut_a_link(open: fn() -> (OwnedFd, Driver), size: fn(usize) -> usize) {
    on_a_pair(move || {
        let (kernel, mut driver) = open();
        let mut random = Random::new(7);
        let stale: Vec<_> = (0..20)
            .map(|number| frame(&mut random, size(number), EXPERIMENT))
            .collect();
        ip("link set culvert-b down");
        driver.transmit(&stale);
        assert_eq!(driver.drops(DropReason::TxError), 20);
        ip("link set culvert-b up");
        let fresh = frame(&mut random, size(0) + 100, EXPERIMENT);
        driver.transmit(std::slice::from_ref(&fresh));
        expect_from(&kernel, &fresh, &mut [0; 16_384]);
        // The other end takes a while to see that there is a link again.
        let began = Instant::now();
        while !driver.wait(Duration::from_millis(100)) && began.elapsed() < PATIENCE {
            put(&kernel, &fresh);
        }
        let received = driver.receive();
        assert!(!received.is_empty() && received.iter().all(|(_, frame)| *frame == fresh));
        // The kernel counts what it skipped; we have.
        while driver.wait(Duration::from_millis(10)) {
            driver.receive();
        }
        driver.receive_nothing();
        assert_eq!(driver.drops(DropReason::TxError), 20);
        driver.finish();
    });
}

#[test]
fn a_queue_can_be_opened_again_at_once_also_after_a_kill() {
    const HOLDER: &str = "CULVERT_TEST_HOLDER";
    if std::env::var_os(HOLDER).is_some() {
        let driver = Driver::open(Kind::AfXdp);
        println!("ready");
        // Until it is killed, by whoever started it.
        std::thread::sleep(PATIENCE);
        return driver.finish();
    }
    on_a_pair(|| {
        let kernel = raw();
        let mut random = Random::new(8);
        for round in 0..4 {
            if round % 2 == 1 {
                let mut holder = Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "a_queue_can_be_opened_again_at_once_also_after_a_kill",
                    ])
                    .arg("--nocapture")
                    .env(HOLDER, "1")
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                let lines = std::io::BufReader::new(holder.stdout.take().unwrap());
                let ready = std::io::BufRead::lines(lines)
                    .map_while(Result::ok)
                    .any(|line| line.ends_with("ready"));
                assert!(ready);
                holder.kill().unwrap();
                holder.wait().unwrap();
            }
            let mut driver = Driver::open(Kind::AfXdp);
            let sent = frame(&mut random, 100, EXPERIMENT);
            put(&kernel, &sent);
            assert!(driver.receive_all(1)[0].1 == sent);
            driver.transmit(std::slice::from_ref(&sent));
            let mut bytes = vec![0; 4096];
            let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            assert!(bytes[..length] == sent);
            driver.finish();
        }
    });
}

#[test]
fn every_queue_has_a_worker_and_a_worker_without_one_sends() {
    on_a_pair(|| {
        ip("link del culvert-a");
        ip(
            "link add culvert-a numtxqueues 3 numrxqueues 3 type veth peer name culvert-b numtxqueues 3 numrxqueues 3",
        );
        for end in ["culvert-a", "culvert-b"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        ip("addr add 10.99.0.1/24 dev culvert-a");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev culvert-a");
        let kernel = raw();
        for workers in [2, 4] {
            let pools: Vec<_> = (0..workers)
                .map(|_| BufferPool::new(16_384).unwrap())
                .collect();
            let memories: Vec<_> = pools.iter().map(BufferPool::memory).collect();
            let (ports, _) = AfXdp::open("culvert-b", &memories).unwrap();
            let mut drivers: Vec<_> = ports
                .into_iter()
                .zip(pools)
                .map(|(port, buffers)| {
                    let mut driver = Driver {
                        port: Box::new(port),
                        buffers,
                        counters: WorkerCounters::default(),
                    };
                    driver.receive_nothing();
                    driver
                })
                .collect();
            // So many flows that each queue gets some.
            let mut expected = 0;
            for port in 5000..5200_u16 {
                let sender = UdpSocket::bind("10.99.0.1:0").unwrap();
                sender.send_to(b"flow", ("10.99.0.2", port)).unwrap();
                expected += 1;
            }
            let mut came = vec![0; workers];
            let began = Instant::now();
            while came.iter().sum::<usize>() < expected && began.elapsed() < PATIENCE {
                for (driver, came) in drivers.iter_mut().zip(&mut came) {
                    if driver.wait(Duration::from_millis(5)) {
                        *came += driver.receive().len();
                    }
                }
            }
            assert_eq!(came.iter().sum::<usize>(), expected, "{came:?}");
            for (worker, came) in came.iter().enumerate() {
                assert_eq!(*came > 0, worker < 3, "worker {worker} got {came}");
            }
            let mut bytes = vec![0; 4096];
            let mut random = Random::new(9);
            for mut driver in drivers {
                let sent = frame(&mut random, 100, EXPERIMENT);
                driver.transmit(std::slice::from_ref(&sent));
                let length = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
                assert!(bytes[..length] == sent);
                driver.finish();
            }
        }
    });
}
