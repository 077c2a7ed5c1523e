//! A TAP as a port of the graph: what is sent here reaches Linux, what Linux sends is received here.
//!
//! Frames carry a virtio header in front. No offload is switched on, so that it is empty both ways: Linux fills
//! checksums in and cuts segments to size before it writes.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use culvert_dataplane::buffer::{BufferPool, DATA, LARGE_DATA, Packet};
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::{NodeId, Vector};
use culvert_dataplane::port::Port;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::{readv, writev};

use crate::device::{Tap, VNET_HEADER_BYTES};

/// Frames taken in one round: self-traffic must not starve what is forwarded.
const READS: usize = 64;

/// One worker's end of a TAP. All workers write; one reads.
pub struct TapPort {
    tap: Arc<Tap>,
    /// Never readable: what a worker that only writes waits for.
    idle: Option<EventFd>,
    /// Where the rest of a frame goes that is longer than an ordinary buffer.
    rest: Box<[u8]>,
}

impl TapPort {
    /// The port of the worker that reads.
    pub fn reader(tap: Arc<Tap>) -> Self {
        Self {
            tap,
            idle: None,
            rest: vec![0; LARGE_DATA - DATA].into(),
        }
    }

    /// The port of a worker that only writes.
    pub fn writer(tap: Arc<Tap>) -> Result<Self, Errno> {
        let idle = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Self {
            tap,
            idle: Some(idle),
            rest: Box::default(),
        })
    }
}

impl TapPort {
    /// The frame of this length in one piece: in the buffer that it was read into, or with its rest in a large one.
    fn whole(
        &self,
        buffers: &mut BufferPool,
        mut packet: Packet,
        length: usize,
    ) -> Result<Packet, DropReason> {
        if length <= DATA && buffers.meta_mut(&mut packet).set_len(length).is_ok() {
            return Ok(packet);
        }
        let large = self.join(buffers, &packet, length);
        buffers.free(packet);
        large
    }

    #[cold]
    fn join(
        &self,
        buffers: &mut BufferPool,
        packet: &Packet,
        length: usize,
    ) -> Result<Packet, DropReason> {
        // A frame that fills all of it may have been cut off.
        let rest = length
            .checked_sub(DATA)
            .filter(|rest| *rest < self.rest.len())
            .and_then(|rest| self.rest.get(..rest))
            .ok_or(DropReason::FrameTooLarge)?;
        let mut large = buffers.allocate_large().ok_or(DropReason::NoBuffer)?;
        if buffers.meta_mut(&mut large).set_len(length).is_err() {
            buffers.free(large);
            return Err(DropReason::FrameTooLarge);
        }
        let (front, back) = buffers.data_mut(&mut large).split_at_mut(DATA);
        front.copy_from_slice(buffers.data(packet));
        back.copy_from_slice(rest);
        Ok(large)
    }
}

impl Port for TapPort {
    fn input_node(&self) -> NodeId {
        NodeId::Inject
    }

    fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        if self.idle.is_some() {
            return;
        }
        for _ in 0..READS {
            if vector.is_full() {
                break;
            }
            let Some(mut packet) = buffers.allocate() else {
                counters.drop(DropReason::NoBuffer).add(1);
                break;
            };
            if buffers.meta_mut(&mut packet).set_len(DATA).is_err() {
                buffers.free(packet);
                break;
            }
            let mut header = [0; VNET_HEADER_BYTES];
            let mut pieces = [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(buffers.data_mut(&mut packet)),
                IoSliceMut::new(&mut self.rest),
            ];
            let length = match readv(self.tap.as_fd(), &mut pieces) {
                Ok(length) => length.saturating_sub(VNET_HEADER_BYTES),
                Err(_) => {
                    buffers.free(packet);
                    break;
                }
            };
            match self.whole(buffers, packet, length) {
                Ok(packet) => {
                    if let Err(full) = vector.try_push(packet) {
                        buffers.free(full.element());
                    }
                }
                Err(reason) => counters.drop(reason).add(1),
            }
        }
    }

    fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        let header = [0; VNET_HEADER_BYTES];
        for packet in vector.drain(..) {
            let written = writev(
                self.tap.as_fd(),
                &[IoSlice::new(&header), IoSlice::new(buffers.data(&packet))],
            );
            match written {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    counters.drop(DropReason::PuntQueueFull).add(1);
                }
                // EIO: Linux has the TAP down.
                Err(_) => counters.drop(DropReason::PuntNoTap).add(1),
            }
            buffers.free(packet);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(
            self.idle
                .as_ref()
                .map_or_else(|| self.tap.as_fd(), AsFd::as_fd),
        )
    }
}
