//! One queue of an interface: its socket, and the buffers that the kernel has for it.
//!
//! ```text
//!   fill <- refill                          transmit -> kick, and cancel when the link is down
//!     '-> received -> receive [-> chain]          '-> completed -> reap
//! ```

use super::chain::Chain;
use super::socket::{COMPLETION, LARGEST, RECEIVE, Socket, Statistics};
use super::unfilled;
use crate::buffer::{AREA, BufferPool, HEADROOM, Lent, Memory, Packet, flags};
use crate::counters::WorkerCounters;
use crate::driver::ORDINARY_MTU;
use crate::drop_reason::DropReason;
use crate::graph::Vector;

/// Bytes of the largest frame that leaves room behind it for padding and ICV: an Ethernet header and two VLAN tags
/// before what the MTU allows.
const ROOMY: usize = 14 + 8 + ORDINARY_MTU as usize;
/// ESP needs 17 bytes of trailer, and an ICV of 32.
const _: () = assert!(ROOMY + 17 + 32 <= LARGEST);
/// System calls within one batch that send nothing.
const TX_TRIES: u32 = 3;
/// Buffers lent for receiving when half of all are in use elsewhere.
const RECEIVE_SCARCE: usize = 512;
/// Bytes of the largest piece: as a chunk of the UMEM. The largest frame has five of them; NICs take that many, and the
/// kernel's copy mode 18.
const PIECE: usize = AREA;
/// Shortest frame: an Ethernet header.
const SHORTEST: u32 = 14;

/// One queue.
pub struct Queue {
    socket: Socket,
    lent: Lent,
    /// Of those lent, how many to receive into.
    receiving: usize,
    counted: Statistics,
    /// Frames have come since the kernel's counters were last read.
    stirred: bool,
    /// Transmit descriptors that were made invalid, which the kernel counts and we have counted.
    cancelled: u64,
    /// Large buffers belong to the UMEM: they are sent in pieces.
    scattered: bool,
    chain: Chain,
}

impl Queue {
    /// The queue of this socket, whose kernel has no buffer yet. `memory` is what the socket was opened with.
    pub fn new(socket: Socket, memory: &Memory) -> Self {
        Self {
            socket,
            lent: memory.lend_none(),
            receiving: 0,
            counted: Statistics::default(),
            stirred: false,
            cancelled: 0,
            scattered: memory.has_large(),
            chain: Chain::default(),
        }
    }

    /// What frames come by.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Takes back what has been sent.
    #[inline]
    pub fn reap(&mut self, buffers: &mut BufferPool) {
        if self.lent.len() == self.receiving {
            return;
        }
        while let Some(address) = self.socket.completed.pop() {
            if let Some((packet, _)) = self.lent.take_back(address) {
                buffers.free(packet);
            }
        }
        self.socket.completed.release();
    }

    /// Takes the frames that have come. `unfilled`: the sender may have left checksums to the hardware.
    pub fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
        unfilled: bool,
    ) {
        let mut came = false;
        while !vector.is_full()
            && let Some(frame) = self.socket.received.pop()
        {
            came = true;
            // In the upper bits how far behind the beginning of the buffer the frame begins.
            let address = (frame.addr & libc::XSK_UNALIGNED_BUF_ADDR_MASK)
                + (frame.addr >> libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT);
            let Some((mut packet, offset)) = self.lent.take_back(address) else {
                continue;
            };
            self.receiving -= 1;
            buffers.renew(&mut packet);
            let meta = buffers.meta_mut(&mut packet);
            let fits = meta.set_view(offset, frame.len as usize).is_ok();
            if frame.len > ROOMY as u32 || frame.options != 0 || self.chain.is_open() {
                match self.receive_long(buffers, counters, packet, fits, frame.options) {
                    Some(whole) => packet = whole,
                    None => continue,
                }
            } else if !fits || frame.len < SHORTEST {
                buffers.free(packet);
                counters.drop(DropReason::EthernetTruncated).add(1);
                continue;
            }
            if unfilled && let Some((start, field)) = unfilled::unfilled(buffers.data(&packet)) {
                let meta = buffers.meta_mut(&mut packet);
                meta.flags |= flags::CHECKSUM_PARTIAL;
                meta.checksum_start = start;
                meta.checksum_offset = field;
            }
            if let Err(full) = vector.try_push(packet) {
                buffers.free(full.element());
            }
        }
        if came {
            // Also where none of it became a packet: the ring would stay full.
            self.socket.received.release();
            self.stirred = true;
        } else if self.stirred {
            self.stirred = false;
            self.count(counters);
        }
    }

    /// Takes a buffer that is not a frame of an ordinary MTU: it leaves no room behind it, or is a part of a frame.
    #[cold]
    #[inline(never)]
    fn receive_long(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        mut packet: Packet,
        fits: bool,
        options: u32,
    ) -> Option<Packet> {
        let last = options & libc::XDP_PKT_CONTD == 0;
        if !last || self.chain.is_open() {
            if !fits {
                self.chain.spoil(buffers, counters);
            }
            return self.chain.add(buffers, counters, packet, last);
        }
        if !fits {
            buffers.free(packet);
            counters.drop(DropReason::EthernetTruncated).add(1);
            return None;
        }
        let (meta, area) = buffers.area_mut(&mut packet);
        let (offset, length) = (meta.offset(), meta.len());
        if offset > HEADROOM && meta.set_view(HEADROOM, length).is_ok() {
            area.copy_within(offset..offset + length, HEADROOM);
        }
        Some(packet)
    }

    /// Reads the kernel's counters: once after each burst.
    fn count(&mut self, counters: &WorkerCounters) {
        let Some(now) = self.socket.statistics() else {
            return;
        };
        let before = std::mem::replace(&mut self.counted, now);
        counters
            .drop(DropReason::RxRingFull)
            .add(now.no_room.saturating_sub(before.no_room));
        counters
            .drop(DropReason::FrameTooLarge)
            .add(now.refused.saturating_sub(before.refused));
        let invalid = now.invalid.saturating_sub(before.invalid);
        let ours = invalid.min(self.cancelled);
        self.cancelled -= ours;
        counters.drop(DropReason::TxError).add(invalid - ours);
    }

    /// Lends the kernel buffers to receive into, fewer when they are scarce.
    #[inline]
    pub fn refill(&mut self, buffers: &mut BufferPool) {
        let (free, all) = (buffers.available_ordinary(), buffers.ordinary());
        let most = if free > all / 2 {
            RECEIVE as usize
        } else if free > all / 8 {
            RECEIVE_SCARCE
        } else {
            return;
        };
        if self.receiving >= most {
            return;
        }
        let wanted = (most - self.receiving).min(self.socket.fill.room() as usize);
        for _ in 0..wanted {
            let Some(packet) = buffers.allocate() else {
                break;
            };
            match self.lent.lend(packet) {
                Ok(address) => {
                    self.socket.fill.push(address);
                    self.receiving += 1;
                }
                Err(packet) => buffers.free(packet),
            }
        }
        self.socket.fill.submit();
        if self.socket.fill.needs_wakeup() {
            self.socket.wake_receiver();
        }
    }

    /// Sends frames, as [`Port::transmit`](crate::port::Port::transmit).
    pub fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        self.reap(buffers);
        let mut full = 0;
        for packet in vector.drain(..) {
            let packet = if buffers.is_large(&packet) {
                match self.transmit_large(buffers, counters, packet) {
                    Some(copy) => copy,
                    None => continue,
                }
            } else {
                packet
            };
            // What is under way has room in the completion ring.
            let under_way = self.lent.len() - self.receiving;
            if self.socket.transmit.room() == 0 || under_way >= COMPLETION as usize {
                full += 1;
                buffers.free(packet);
                continue;
            }
            let meta = buffers.meta(&packet);
            let (offset, length) = (meta.offset(), meta.len());
            match self.lent.lend(packet) {
                Ok(address) => self.socket.transmit.push(libc::xdp_desc {
                    addr: address + offset as u64,
                    len: length as u32,
                    options: 0,
                }),
                Err(packet) => buffers.free(packet),
            }
        }
        counters.drop(DropReason::TxQueueFull).add(full);
        self.socket.transmit.submit();
        self.kick(buffers, counters);
        self.reap(buffers);
    }

    /// Puts the pieces of a large buffer into the transmit ring, all or none. Where large buffers do not belong to the
    /// UMEM, gives the packet in an ordinary one.
    #[cold]
    #[inline(never)]
    fn transmit_large(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        packet: Packet,
    ) -> Option<Packet> {
        if !self.scattered {
            return ordinary(buffers, counters, packet);
        }
        let meta = buffers.meta(&packet);
        let (offset, length) = (meta.offset(), meta.len());
        let count = length.div_ceil(PIECE).max(1);
        let under_way = self.lent.len() - self.receiving;
        if (self.socket.transmit.room() as usize) < count || under_way + count > COMPLETION as usize
        {
            counters.drop(DropReason::TxQueueFull).add(1);
            buffers.free(packet);
            return None;
        }
        match self.lent.lend_large(packet, count) {
            Ok(address) => {
                for piece in pieces(address + offset as u64, length) {
                    self.socket.transmit.push(piece);
                }
            }
            Err(packet) => buffers.free(packet),
        }
        None
    }

    /// Lets the kernel send what waits.
    pub fn kick(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        if !self.socket.transmit.needs_wakeup() {
            return;
        }
        if self.socket.is_zero_copy() {
            // The NIC's driver sends by itself, later.
            let _ = self.socket.send();
            return;
        }
        let mut idle = 0;
        let mut waiting = self.socket.transmit.waiting();
        while waiting > 0 && idle < TX_TRIES {
            if let Err(error) = self.socket.send() {
                let again = [libc::EAGAIN, libc::EBUSY, libc::ENOBUFS, libc::EINTR];
                if !error
                    .raw_os_error()
                    .is_some_and(|code| again.contains(&code))
                {
                    return self.cancel(buffers, counters);
                }
            }
            let left = self.socket.transmit.waiting();
            idle = if left < waiting { 0 } else { idle + 1 };
            waiting = left;
        }
    }

    /// Takes everything back that waits for an interface that does not send (its link is down): by the time it does,
    /// it would be stale. The kernel skips what it finds invalid, and reads in our calls alone (copy mode).
    fn cancel(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        let (mut lost, mut cancelled) = (0, 0);
        let lent = &mut self.lent;
        self.socket.transmit.change_waiting(|entry| {
            // With its first piece go those behind it, and those before it that the kernel has taken: it gives none back
            // of a frame that does not end well.
            if let Some((packet, pieces)) = lent.take_whole_back(entry.addr) {
                buffers.free(packet);
                lost += 1;
                cancelled += pieces as u64;
            }
            entry.len = u32::MAX;
        });
        self.cancelled += cancelled;
        counters.drop(DropReason::TxError).add(lost);
    }

    /// Closes the socket. The kernel has let go of the buffers then: in copy mode it touches them in the calls of
    /// receivers and senders only, which are over. A NIC may still write to those that it has been given: they are not
    /// used again.
    pub fn release(mut self, buffers: &mut BufferPool) {
        self.reap(buffers);
        self.chain.release(buffers);
        let zero_copy = self.socket.is_zero_copy();
        drop(self.socket);
        if !zero_copy {
            buffers.free_all(self.lent.take_all_back());
        }
    }
}

/// The packet of a large buffer in an ordinary one: the kernel does not know the large ones.
fn ordinary(buffers: &mut BufferPool, counters: &WorkerCounters, packet: Packet) -> Option<Packet> {
    let copy = buffers.allocate().and_then(|mut copy| {
        let bytes = buffers.data(&packet);
        let fits = buffers.meta_mut(&mut copy).set_len(bytes.len()).is_ok();
        if fits {
            buffers.data_mut(&mut copy).copy_from_slice(bytes);
            return Some(copy);
        }
        buffers.free(copy);
        None
    });
    buffers.free(packet);
    if copy.is_none() {
        counters.drop(DropReason::TxError).add(1);
    }
    copy
}

/// The descriptors of a frame of `length` bytes at this address.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = libc::xdp_desc> {
    (0..length).step_by(PIECE).map(move |from| {
        let left = length - from;
        libc::xdp_desc {
            addr: address + from as u64,
            len: left.min(PIECE) as u32,
            options: if left > PIECE { libc::XDP_PKT_CONTD } else { 0 },
        }
    })
}
