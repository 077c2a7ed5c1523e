//! `AF_PACKET`: works on every interface. Frames come in over a mapped ring and go out in batches of `sendmmsg`.
//!
//! ```text
//!   NIC -> kernel -> ring of slots (TPACKET_V2) -> copied into buffers -> graph -> sendmmsg -> NIC
//! ```
//!
//! Version 2 of the ring wakes the worker on the first frame; version 3 hands over blocks, and was measured to hold a
//! frame back for 0.5 to 3.5 ms. Sending by `sendmmsg` was measured faster than by a mapped ring.
//!
//! Every frame carries a virtio header in front (`PACKET_VNET_HDR`) in which the kernel says whether a sender on this
//! machine has left the L4 checksum to the hardware; it is completed before the packet leaves or is encrypted.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;
use culvert_net::MacAddr;
use thiserror::Error;

use super::offload::{self, Offloads};
use super::{DriverChoice, JUMBO_MTU, ORDINARY_MTU};
use crate::buffer::{BufferPool, flags};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector};
use crate::port::Port;

/// How a ring is made, in powers of two.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes of one slot: ring header, virtio header, frame.
    slot: usize,
    /// How many there are.
    slots: usize,
}

/// For frames of up to [`ORDINARY_MTU`]: 27 ms of 64-byte frames at 150,000 a second, a TCP burst of 6 MiB.
const ORDINARY: Shape = Shape {
    slot: 2048,
    slots: 4096,
};
/// For jumbo frames: as many as make a TCP burst of 9 MiB.
const JUMBO: Shape = Shape {
    slot: 16_384,
    slots: 1024,
};
/// Bytes of one block of slots, physically contiguous in the kernel.
const BLOCK: usize = 1 << 16;
/// Bytes of `struct virtio_net_hdr`.
const VNET: usize = 10;
/// Times a full transmit queue is tried again within one batch.
const TX_TRIES: u32 = 3;

/// Why an interface could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such interface in the dataplane's namespace.
    #[error("there is no interface {0} in the dataplane's namespace")]
    NoDevice(String),
    /// The kernel refused.
    #[error("{device}: {step}: {source}")]
    Kernel {
        /// Which interface.
        device: String,
        /// At what.
        step: &'static str,
        /// How.
        source: std::io::Error,
    },
}

/// An interface of the kernel that the dataplane owns: what its ports on all workers share.
pub struct Device {
    name: String,
    index: i32,
    mac: MacAddr,
    fanout: u16,
    /// Restored when the last port is gone.
    _offloads: Option<Offloads>,
}

impl Device {
    /// Takes an interface of the caller's network namespace over.
    pub fn take(name: &str) -> Result<Self, OpenError> {
        let index = nix::net::if_::if_nametoindex(name)
            .map_err(|_| OpenError::NoDevice(name.to_owned()))?;
        let mac = hardware_address(name)?;
        Ok(Self {
            name: name.to_owned(),
            index: index as i32,
            mac,
            fanout: index as u16,
            _offloads: Offloads::switch_off(name),
        })
    }

    /// Its MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its name in the kernel.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the kernel.
    pub fn index(&self) -> u32 {
        self.index.cast_unsigned()
    }

    fn error(&self, step: &'static str) -> OpenError {
        OpenError::Kernel {
            device: self.name.clone(),
            step,
            source: std::io::Error::last_os_error(),
        }
    }
}

/// Makes an interface of the caller's network namespace take packets of `mtu` bytes. That of one with more is lowered
/// only where a driver needs it.
pub fn make_mtu(device: &str, mtu: u16, driver: DriverChoice) -> Result<(), OpenError> {
    let now = offload::mtu(device).ok_or_else(|| OpenError::NoDevice(device.to_owned()))?;
    let wanted = u32::from(mtu);
    let most = if mtu > ORDINARY_MTU {
        JUMBO_MTU
    } else {
        ORDINARY_MTU
    };
    let too_large = driver == DriverChoice::AfXdp && now > u32::from(most);
    if now < wanted || (too_large && now != wanted) {
        offload::set_mtu(device, wanted).map_err(|source| OpenError::Kernel {
            device: device.to_owned(),
            step: "set its MTU",
            source,
        })?;
    }
    Ok(())
}

/// The MAC address of an interface of the caller's network namespace.
pub fn hardware_address(device: &str) -> Result<MacAddr, OpenError> {
    use nix::ifaddrs::getifaddrs;
    let all = getifaddrs().map_err(|error| OpenError::Kernel {
        device: device.to_owned(),
        step: "read its MAC address",
        source: error.into(),
    })?;
    all.filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr()?.addr())
        .map(MacAddr)
        .ok_or_else(|| OpenError::NoDevice(device.to_owned()))
}

/// One worker's port on a device.
pub struct AfPacket {
    receiver: OwnedFd,
    sender: Sender,
    ring: Ring,
    next: usize,
    _device: Arc<Device>,
}

impl Shape {
    const fn bytes(self) -> usize {
        self.slot * self.slots
    }
}

const _: () = assert!(ORDINARY.slot.is_power_of_two() && ORDINARY.slots.is_power_of_two());
const _: () = assert!(JUMBO.slot.is_power_of_two() && JUMBO.slots.is_power_of_two());

/// The mapped ring.
struct Ring {
    base: NonNull<u8>,
    shape: Shape,
}

// SAFETY: the mapping belongs to the one port that holds it; nothing else in the process knows its address.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: made by `Ring::map` with this length, and unreachable from now on.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.shape.bytes()) };
    }
}

impl AfPacket {
    /// Opens a port for one of `workers` workers; with several, flows are spread over their ports by hash. It takes frames
    /// of an MTU of `mtu`.
    pub fn open(device: &Arc<Device>, workers: u32, mtu: u16) -> Result<Self, OpenError> {
        let shape = if mtu > ORDINARY_MTU { JUMBO } else { ORDINARY };
        // Protocol 0: receives nothing before the ring is ready and bound.
        let receiver = packet_socket().ok_or_else(|| device.error("open a packet socket"))?;
        let sender = Sender::open(device)?;
        let set = |fd: &OwnedFd, option: i32, value: i32, step| {
            set_option(fd, option, &value)
                .then_some(())
                .ok_or_else(|| device.error(step))
        };
        set(
            &receiver,
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V2 as i32,
            "ask for TPACKET_V2",
        )?;
        set(
            &receiver,
            libc::PACKET_VNET_HDR,
            1,
            "ask for PACKET_VNET_HDR",
        )?;
        set(
            &receiver,
            PACKET_IGNORE_OUTGOING,
            1,
            "leave out what we send",
        )?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (shape.bytes() / BLOCK) as u32,
            tp_frame_size: shape.slot as u32,
            tp_frame_nr: shape.slots as u32,
        };
        if !set_option(&receiver, libc::PACKET_RX_RING, &request) {
            return Err(device.error("make a receive ring"));
        }
        let ring =
            Ring::map(&receiver, shape).ok_or_else(|| device.error("map the receive ring"))?;
        bind(&receiver, device.index, libc::ETH_P_ALL as u16)
            .ok_or_else(|| device.error("bind"))?;
        if workers > 1 {
            let fanout = i32::from(device.fanout) | (libc::PACKET_FANOUT_HASH as i32) << 16;
            set(
                &receiver,
                libc::PACKET_FANOUT,
                fanout,
                "spread flows over workers",
            )?;
        }
        let membership = libc::packet_mreq {
            mr_ifindex: device.index,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        if !set_option(&receiver, libc::PACKET_ADD_MEMBERSHIP, &membership) {
            return Err(device.error("listen to multicast"));
        }
        Ok(Self {
            receiver,
            sender,
            ring,
            next: 0,
            _device: Arc::clone(device),
        })
    }
}

/// A packet socket that sends, and hears nothing.
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens one on a device.
    pub fn open(device: &Device) -> Result<Self, OpenError> {
        // Protocol 0: nothing is received.
        let socket = packet_socket().ok_or_else(|| device.error("open a packet socket"))?;
        if !set_option(&socket, libc::PACKET_QDISC_BYPASS, &1_i32) {
            return Err(device.error("bypass the queueing discipline"));
        }
        bind(&socket, device.index, 0).ok_or_else(|| device.error("bind"))?;
        Ok(Self { socket })
    }

    /// Never readable.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends the frames and frees the packets, as [`Port::transmit`].
    pub fn transmit(
        &self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        let mut pieces = ArrayVec::<libc::iovec, VECTOR>::new();
        for packet in vector.iter() {
            let data = buffers.data(packet);
            pieces.push(libc::iovec {
                iov_base: data.as_ptr().cast_mut().cast(),
                iov_len: data.len(),
            });
        }
        let mut messages: ArrayVec<libc::mmsghdr, VECTOR> = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: an all-zero mmsghdr is a valid one: no name, no data, no control.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = piece;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let (mut sent, mut tries) = (0, 0);
        while let Some(rest) = messages.get_mut(sent..)
            && !rest.is_empty()
        {
            // SAFETY: each message points to one iovec, each iovec to the bytes of a packet that we hold until the
            // end of this function; the kernel only reads them.
            let result = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    0,
                )
            };
            match usize::try_from(result) {
                Ok(count) if count > 0 => sent += count,
                _ => {
                    let error = std::io::Error::last_os_error().raw_os_error();
                    let busy = matches!(error, Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR));
                    tries += 1;
                    if busy && tries < TX_TRIES {
                        continue;
                    }
                    // One frame is the kernel's reason to stop: the others may pass.
                    let reason = if busy {
                        DropReason::TxQueueFull
                    } else {
                        DropReason::TxError
                    };
                    let lost = if busy { rest.len() } else { 1 };
                    counters.drop(reason).add(lost as u64);
                    sent += lost;
                }
            }
        }
        buffers.free_all(vector.drain(..));
    }
}

/// Since Linux 4.20.
const PACKET_IGNORE_OUTGOING: i32 = 23;

fn packet_socket() -> Option<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    // SAFETY: the descriptor is new and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T>(fd: &OwnedFd, option: i32, value: &T) -> bool {
    // SAFETY: the value lives through the call and is as long as said; each caller passes the type that the kernel
    // documents for the option (packet(7)).
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    result == 0
}

fn bind(fd: &OwnedFd, index: i32, protocol: u16) -> Option<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole sockaddr_ll and lives through the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    (result == 0).then_some(())
}

/// What the kernel says of one received frame, copied out of its slot.
struct Received {
    status: u32,
    length: u32,
    captured: u32,
    frame: usize,
    vlan: u16,
    vlan_type: u16,
    vnet: [u8; VNET],
}

impl Ring {
    fn map(fd: &OwnedFd, shape: Shape) -> Option<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice, of the size that the ring was made with.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                shape.bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            None
        } else {
            NonNull::new(base.cast()).map(|base| Self { base, shape })
        }
    }

    /// Where a slot begins, of which there are as many as numbers.
    #[inline(always)]
    fn start(&self, slot: usize) -> *mut u8 {
        let number = slot & (self.shape.slots - 1);
        // SAFETY: the number is below that of the slots that are mapped.
        unsafe { self.base.as_ptr().add(number * self.shape.slot) }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(slot < self.shape.slots);
        // SAFETY: every slot begins with a tpacket2_hdr, whose first field is the status, a u32 aligned to 16; the
        // kernel and we hand the slot to each other by atomic stores to it.
        unsafe { AtomicU32::from_ptr(self.start(slot).cast()) }
    }

    /// What is in a slot that the kernel has handed over.
    #[allow(clippy::cast_ptr_alignment, reason = "a slot is aligned to its size")]
    fn read(&self, slot: usize) -> Option<Received> {
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot is ours until its status says otherwise, and begins with a tpacket2_hdr.
        let header = unsafe { self.start(slot).cast::<libc::tpacket2_hdr>().read() };
        let frame = usize::from(header.tp_mac);
        let mut vnet = [0; VNET];
        // The kernel puts both inside the slot; checked all the same, for the bytes that follow are read by it.
        if let Some(start) = frame.checked_sub(VNET)
            && frame + header.tp_snaplen as usize <= self.shape.slot
        {
            vnet.copy_from_slice(self.bytes(slot, start, VNET));
        }
        Some(Received {
            status,
            length: header.tp_len,
            captured: header.tp_snaplen,
            frame,
            vlan: header.tp_vlan_tci,
            vlan_type: header.tp_vlan_tpid,
            vnet,
        })
    }

    /// Bytes of a slot that the kernel has handed over; `start + length` is at most that of a slot.
    fn bytes(&self, slot: usize, start: usize, length: usize) -> &[u8] {
        let slot_bytes = self.shape.slot;
        let start = start.min(slot_bytes);
        let length = length.min(slot_bytes - start);
        // SAFETY: inside the slot by the line above, and the kernel does not write to a slot that is ours.
        unsafe { std::slice::from_raw_parts(self.start(slot).add(start), length) }
    }

    fn give_back(&self, slot: usize) {
        self.status(slot)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

impl Port for AfPacket {
    fn input_node(&self) -> NodeId {
        NodeId::EthernetInput
    }

    fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        while !vector.is_full()
            && let Some(received) = self.ring.read(self.next)
        {
            let slot = self.next;
            self.next = (self.next + 1) & (self.ring.shape.slots - 1);
            if received.status & libc::TP_STATUS_LOSING != 0 {
                counters.drop(DropReason::RxRingFull).add(self.lost());
            }
            match self.copy(slot, &received, buffers, vector) {
                Ok(()) => {}
                Err(reason) => counters.drop(reason).add(1),
            }
            self.ring.give_back(slot);
        }
    }

    fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        self.sender.transmit(buffers, counters, vector);
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.receiver.as_fd())
    }
}

impl AfPacket {
    /// Frames for which the ring had no slot since the last call; the kernel then no longer says that it is losing.
    fn lost(&self) -> u64 {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the structure is the one that packet(7) documents for the option and a ring of version 2, it lives
        // through the call, and the length is its own.
        let result = unsafe {
            libc::getsockopt(
                self.receiver.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            u64::from(statistics.tp_drops)
        } else {
            0
        }
    }

    /// Copies a received frame into a buffer, its VLAN tag put back.
    fn copy(
        &self,
        slot: usize,
        received: &Received,
        buffers: &mut BufferPool,
        vector: &mut Vector,
    ) -> Result<(), DropReason> {
        const NEEDS_CHECKSUM: u8 = 1;
        let [vnet_flags, segmentation, _, _, _, _, s0, s1, o0, o1] = received.vnet;
        let length = received.captured as usize;
        if segmentation != 0
            || received.captured < received.length
            || received.frame + length > self.ring.shape.slot
        {
            return Err(DropReason::FrameTooLarge);
        }
        let frame = self.ring.bytes(slot, received.frame, length);
        let tagged = received.status & libc::TP_STATUS_VLAN_VALID != 0;
        let shift = if tagged { 4 } else { 0 };
        let mut packet = buffers
            .allocate_for(length + shift)
            .ok_or(DropReason::NoBuffer)?;
        if buffers
            .meta_mut(&mut packet)
            .set_len(length + shift)
            .is_err()
            || length < 14
        {
            buffers.free(packet);
            return Err(if length < 14 {
                DropReason::EthernetTruncated
            } else {
                DropReason::FrameTooLarge
            });
        }
        let (meta, data) = buffers.parts_mut(&mut packet);
        if tagged {
            let (addresses, rest) = frame.split_at(12);
            data[..12].copy_from_slice(addresses);
            data[12..14].copy_from_slice(&received.vlan_type.to_be_bytes());
            data[14..16].copy_from_slice(&received.vlan.to_be_bytes());
            data[16..].copy_from_slice(rest);
        } else {
            data.copy_from_slice(frame);
        }
        if vnet_flags & NEEDS_CHECKSUM != 0 {
            meta.flags |= flags::CHECKSUM_PARTIAL;
            meta.checksum_start = u16::from_ne_bytes([s0, s1]) + shift as u16;
            meta.checksum_offset = u16::from_ne_bytes([o0, o1]);
        }
        if let Err(full) = vector.try_push(packet) {
            buffers.free(full.element());
            return Err(DropReason::NoBuffer);
        }
        Ok(())
    }
}
