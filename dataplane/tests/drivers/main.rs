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

/// Each with both drivers.
macro_rules! with_both {
    ($($test:ident)+) => {
        mod af_packet {
            $(#[test]
            fn $test() {
                super::$test($crate::Kind::AfPacket);
            })+
        }
        mod af_xdp {
            $(#[test]
            fn $test() {
                super::$test($crate::Kind::AfXdp);
            })+
        }
    };
}

mod frames;
mod jumbo;
mod limits;

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
