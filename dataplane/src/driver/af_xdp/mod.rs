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
//! A frame of an ordinary MTU fits one buffer behind the headroom that the kernel keeps. A jumbo frame comes in several,
//! from which it is copied together, and leaves in several pieces of its large buffer, which is then part of
//! the UMEM: that needs a kernel (6.6) and a NIC that know frames in several buffers. Interfaces for which they do not
//! stay with `AF_PACKET`.

mod chain;
mod program;
mod queue;
mod ring;
mod socket;
mod unfilled;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use thiserror::Error;

use self::program::{Attachment, Redirect, is_busy};
use self::queue::Queue;
use self::socket::Socket;
use super::af_packet::{Device, OpenError, Sender};
use super::offload::{self, Offloads};
use super::{JUMBO_MTU, ORDINARY_MTU};
use crate::buffer::{BufferPool, Memory};
use crate::counters::WorkerCounters;
use crate::graph::{NodeId, Vector};
use crate::port::Port;

/// The kernel takes its time to give up the queue of a socket that was closed.
const BUSY: Duration = Duration::from_secs(2);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// Why `AF_XDP` does not work on an interface.
#[derive(Debug, Error)]
pub enum XdpError {
    /// It does not work for any driver.
    #[error(transparent)]
    Device(#[from] OpenError),
    /// Frames do not fit into a large buffer.
    #[error("{device}: AF_XDP takes an MTU of {JUMBO_MTU} bytes at most, not {mtu}")]
    Mtu {
        /// Which interface.
        device: String,
        /// Its MTU.
        mtu: u32,
    },
    /// Frames need several buffers, and the kernel or the NIC's driver does not know that (before Linux 6.6).
    #[error(
        "{device}: an MTU of {mtu} bytes needs multi-buffer XDP, which this kernel or driver does not have: {step}: {source}"
    )]
    MultiBuffer {
        /// Which interface.
        device: String,
        /// Its MTU.
        mtu: u32,
        /// At what it was refused.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
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

/// What a kernel or a driver says that does not know what is asked of it.
fn is_unknown(error: &std::io::Error) -> bool {
    let unknown = [libc::EINVAL, libc::EOPNOTSUPP, libc::ERANGE, libc::E2BIG];
    error
        .raw_os_error()
        .is_some_and(|code| unknown.contains(&code))
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
        let scattered = mtu > u32::from(ORDINARY_MTU);
        if mtu > u32::from(JUMBO_MTU) {
            let device = name.to_owned();
            return Err(XdpError::Mtu { device, mtu });
        }
        let device = Device::take(name)?;
        let refused = |(step, source): (&'static str, std::io::Error)| {
            let device = name.to_owned();
            if is_busy(&source) {
                XdpError::Busy { device, source }
            } else if scattered && is_unknown(&source) {
                XdpError::MultiBuffer {
                    device,
                    mtu,
                    step,
                    source,
                }
            } else {
                XdpError::Device(OpenError::Kernel {
                    device,
                    step,
                    source,
                })
            }
        };
        let count = offload::receive_queues(name);
        let redirect = Redirect::attach(device.index(), count, scattered).map_err(refused)?;
        let shared = Arc::new(Shared {
            unfilled: offload::driver(name).as_deref() == Some("veth"),
            redirect,
            _tags: Offloads::leave_tags(name),
            device,
        });
        let mut zero_copy = true;
        let mut ports = Vec::new();
        for (worker, memory) in workers.iter().enumerate() {
            let memory = &if scattered {
                memory.with_large()
            } else {
                memory.clone()
            };
            let mut queues = Vec::new();
            for queue in (0..count).skip(worker).step_by(workers.len()) {
                let socket = Socket::open(shared.device.index(), queue, memory).map_err(refused)?;
                zero_copy &= socket.is_zero_copy();
                shared
                    .redirect
                    .direct(queue, socket.as_fd())
                    .map_err(|source| refused(("direct a queue to its socket", source)))?;
                queues.push(Queue::new(socket, memory));
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
        waiter.add(queue.socket(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
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
            if queue.socket().transmit.waiting() > 0 {
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
            (None, Some(queue)) => queue.socket().as_fd(),
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
