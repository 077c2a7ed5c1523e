//! `AF_XDP`: the kernel writes frames straight into packet buffers, and sends straight from them.
//!
//! ```text
//!   NIC queue 0 -- XDP program -- socket --.                          worker 0: queues 0, 2, ...
//!   NIC queue 1 -- XDP program -- socket --|-- UMEM = packet buffers  worker 1: queues 1, 3, ...
//!   NIC queue 2 -- XDP program -- socket --'                          one without a queue sends by a packet socket
//! ```
//!
//! The memory of a worker's buffers is registered as UMEM, in chunks of any alignment, so a buffer is lent to the kernel
//! as it is: its address goes into the fill ring, comes back in the receive ring with a frame in it, goes through the
//! graph, and leaves by the transmit ring. Nothing is copied between driver and graph. Between NIC and buffer the kernel
//! copies once, unless the NIC's driver does without (zero copy) and the buffers lie in huge pages.
//!
//! This talks to the kernel by system calls alone: what there is to libxdp and to crates like it is mostly the loading of
//! compiled programs and an allocator for UMEM, and here the program is six instructions and the allocator is ours.
//!
//! A frame fits one buffer behind the headroom that the kernel keeps: interfaces with a larger MTU stay with `AF_PACKET`.

mod program;
mod ring;
mod socket;
mod unfilled;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use thiserror::Error;

use self::program::{Attachment, Redirect, is_busy};
use self::socket::{COMPLETION, LARGEST, RECEIVE, Socket, Statistics};
use super::af_packet::{Device, OpenError, Sender};
use super::offload::{self, Offloads};
use crate::buffer::{BufferPool, Lent, Memory, Packet, flags};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, Vector};
use crate::port::Port;

/// The largest MTU: a frame has an Ethernet header and two VLAN tags besides, and as much room behind it as ESP needs:
/// 17 bytes of trailer, an ICV of 32.
const LARGEST_MTU: u32 = super::ORDINARY_MTU as u32;
const _: () = assert!(14 + 8 + LARGEST_MTU as usize + 17 + 32 <= LARGEST);
/// The kernel takes its time to give up the queue of a socket that was closed.
const BUSY: Duration = Duration::from_secs(2);
const BUSY_STEP: Duration = Duration::from_millis(10);
/// System calls within one batch that send nothing.
const TX_TRIES: u32 = 3;
/// Buffers lent for receiving when half of all are in use elsewhere.
const RECEIVE_SCARCE: usize = 512;
/// Shortest frame: an Ethernet header.
const SHORTEST: u32 = 14;

/// Why `AF_XDP` does not work on an interface.
#[derive(Debug, Error)]
pub enum XdpError {
    /// It does not work for any driver.
    #[error(transparent)]
    Device(#[from] OpenError),
    /// Frames do not fit into one buffer.
    #[error("{device}: AF_XDP takes an MTU of {LARGEST_MTU} bytes at most, not {mtu}")]
    Mtu {
        /// Which interface.
        device: String,
        /// Its MTU.
        mtu: u32,
    },
    /// Another program is attached, or another socket is bound.
    #[error("{device}: another program has it: {source}")]
    Busy {
        /// Which interface.
        device: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// How frames come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// The program runs in the NIC's driver, else in the kernel's common receive path.
    pub native: bool,
    /// The NIC reads and writes packet buffers itself.
    pub zero_copy: bool,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.native { "native" } else { "generic" };
        let copies = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{path}, {copies}")
    }
}

/// What the ports of an interface share.
struct Shared {
    redirect: Redirect,
    /// Restored before what the device restores, which was changed before.
    _tags: Option<Offloads>,
    device: Device,
    /// The peer's kernel leaves checksums to hardware that is not there.
    unfilled: bool,
}

/// One worker's port on an interface: its share of the queues.
pub struct AfXdp {
    queues: Vec<Queue>,
    /// Who is first in the next round.
    turn: usize,
    sender: Sender,
    /// Of several queues.
    waiter: Option<Epoll>,
    shared: Arc<Shared>,
}

/// One queue.
struct Queue {
    socket: Socket,
    lent: Lent,
    /// Of those lent, how many to receive into.
    receiving: usize,
    counted: Statistics,
    /// Frames have come since the kernel's counters were last read.
    stirred: bool,
    /// Transmit descriptors that were made invalid, which the kernel counts and we have counted.
    cancelled: u64,
}

impl AfXdp {
    /// Opens the interface for workers with these buffers: a port each. Waits for a socket that was just closed.
    pub fn open(name: &str, workers: &[Memory]) -> Result<(Vec<Self>, Mode), XdpError> {
        let until = Instant::now() + BUSY;
        loop {
            match Self::try_open(name, workers) {
                Err(XdpError::Busy { .. }) if Instant::now() < until => {
                    std::thread::sleep(BUSY_STEP);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_open(name: &str, workers: &[Memory]) -> Result<(Vec<Self>, Mode), XdpError> {
        let mtu = offload::mtu(name).unwrap_or_default();
        if mtu > LARGEST_MTU {
            let device = name.to_owned();
            return Err(XdpError::Mtu { device, mtu });
        }
        let device = Device::take(name)?;
        let refused = |(step, source): (&'static str, std::io::Error)| {
            let device = name.to_owned();
            if is_busy(&source) {
                XdpError::Busy { device, source }
            } else {
                XdpError::Device(OpenError::Kernel {
                    device,
                    step,
                    source,
                })
            }
        };
        let count = offload::receive_queues(name);
        let redirect = Redirect::attach(device.index(), count).map_err(refused)?;
        let shared = Arc::new(Shared {
            unfilled: offload::driver(name).as_deref() == Some("veth"),
            redirect,
            _tags: Offloads::leave_tags(name),
            device,
        });
        let mut zero_copy = true;
        let mut ports = Vec::new();
        for (worker, memory) in workers.iter().enumerate() {
            let mut queues = Vec::new();
            for queue in (0..count).skip(worker).step_by(workers.len()) {
                let socket = Socket::open(shared.device.index(), queue, memory).map_err(refused)?;
                zero_copy &= socket.is_zero_copy();
                shared
                    .redirect
                    .direct(queue, socket.as_fd())
                    .map_err(|source| refused(("direct a queue to its socket", source)))?;
                queues.push(Queue {
                    socket,
                    lent: memory.lend_none(),
                    receiving: 0,
                    counted: Statistics::default(),
                    stirred: false,
                    cancelled: 0,
                });
            }
            ports.push(Self {
                waiter: waiter(&queues)
                    .map_err(|errno| refused(("wait for queues", errno.into())))?,
                queues,
                turn: 0,
                sender: Sender::open(&shared.device)?,
                shared: Arc::clone(&shared),
            });
        }
        let mode = Mode {
            native: shared.redirect.attachment() == Attachment::Native,
            zero_copy,
        };
        Ok((ports, mode))
    }
}

/// One descriptor for several.
fn waiter(queues: &[Queue]) -> nix::Result<Option<Epoll>> {
    if queues.len() < 2 {
        return Ok(None);
    }
    let waiter = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for queue in queues {
        waiter.add(&queue.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(Some(waiter))
}

impl Port for AfXdp {
    fn input_node(&self) -> NodeId {
        NodeId::EthernetInput
    }

    fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        let count = self.queues.len();
        self.turn = (self.turn + 1) % count.max(1);
        for at in 0..count {
            let Some(queue) = self.queues.get_mut((self.turn + at) % count) else {
                continue;
            };
            queue.reap(buffers);
            // What the kernel could not send at once.
            if queue.socket.transmit.waiting() > 0 {
                queue.kick(buffers, counters);
            }
            queue.receive(buffers, counters, vector, self.shared.unfilled);
            queue.refill(buffers);
        }
    }

    fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        match self.queues.first_mut() {
            Some(queue) => queue.transmit(buffers, counters, vector),
            None => self.sender.transmit(buffers, counters, vector),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(match (&self.waiter, self.queues.first()) {
            (Some(waiter), _) => waiter.0.as_fd(),
            (None, Some(queue)) => queue.socket.as_fd(),
            // Receives nothing, ever.
            (None, None) => self.sender.descriptor(),
        })
    }

    fn release(self: Box<Self>, buffers: &mut BufferPool) {
        let this = *self;
        // No new frames.
        drop(this.shared);
        for queue in this.queues {
            queue.release(buffers);
        }
    }
}

impl Queue {
    /// Takes back what has been sent.
    #[inline]
    fn reap(&mut self, buffers: &mut BufferPool) {
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

    fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
        unfilled: bool,
    ) {
        let before = vector.len();
        while !vector.is_full()
            && let Some(frame) = self.socket.received.pop()
        {
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
            if !fits || frame.len < SHORTEST {
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
        if vector.len() > before {
            self.socket.received.release();
            self.stirred = true;
        } else if self.stirred {
            self.socket.received.release();
            self.stirred = false;
            self.count(counters);
        }
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
    fn refill(&mut self, buffers: &mut BufferPool) {
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

    fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        self.reap(buffers);
        let mut full = 0;
        for packet in vector.drain(..) {
            let Some(packet) = ordinary(buffers, counters, packet) else {
                continue;
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

    /// Lets the kernel send what waits.
    fn kick(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
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
        let mut lost = 0;
        let lent = &mut self.lent;
        self.socket.transmit.change_waiting(|entry| {
            if let Some((packet, _)) = lent.take_back(entry.addr) {
                buffers.free(packet);
                lost += 1;
            }
            entry.len = u32::MAX;
        });
        self.cancelled += lost;
        counters.drop(DropReason::TxError).add(lost);
    }

    /// Closes the socket. The kernel has let go of the buffers then: in copy mode it touches them in the calls of
    /// receivers and senders only, which are over. A NIC may still write to those that it has been given: they are not
    /// used again.
    fn release(mut self, buffers: &mut BufferPool) {
        self.reap(buffers);
        let zero_copy = self.socket.is_zero_copy();
        drop(self.socket);
        if !zero_copy {
            buffers.free_all(self.lent.take_all_back());
        }
    }
}

/// The packet in an ordinary buffer: the kernel does not know the large ones.
#[inline]
fn ordinary(buffers: &mut BufferPool, counters: &WorkerCounters, packet: Packet) -> Option<Packet> {
    if !buffers.is_large(&packet) {
        return Some(packet);
    }
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
