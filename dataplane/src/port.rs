//! Ports: where packets enter and leave a worker. Each driver (`AF_PACKET`, TAP, packet generator) is one kind.

use std::os::fd::BorrowedFd;

use crate::buffer::{BufferPool, Packet};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector};

/// One interface on one worker.
pub trait Port: Send {
    /// The node that takes what this port receives.
    fn input_node(&self) -> NodeId;

    /// Fills `vector` (empty before) with what has come in, at most 256 packets, without waiting. Sets each packet's
    /// view to the frame, and the checksum fields of its metadata; frames it cannot take are counted as drops.
    fn receive(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters, vector: &mut Vector);

    /// Sends the frames and frees the packets, all of them; what could not be sent is counted as a drop.
    /// The vector is empty after.
    fn transmit(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    );

    /// Readable when [`Port::receive`] has something; `None`: the port is polled in every round (packet generator).
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

struct Slot {
    port: Box<dyn Port>,
    interface: u32,
    pending: Box<Vector>,
}

/// The ports of one worker, by interface index, with the frames that wait for the end of the round.
#[derive(Default)]
pub struct Ports {
    slots: Vec<Option<Slot>>,
}

impl Ports {
    /// Puts a port at `interface`; gives the one that was there.
    pub fn insert(&mut self, interface: u32, port: Box<dyn Port>) -> Option<Box<dyn Port>> {
        let place = interface as usize;
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        let slot = Slot {
            port,
            interface,
            pending: Box::default(),
        };
        self.slots.get_mut(place)?.replace(slot).map(|old| old.port)
    }

    /// Takes the port of `interface` away, with the frames that waited.
    pub fn remove(&mut self, interface: u32, buffers: &mut BufferPool) -> Option<Box<dyn Port>> {
        let mut slot = self.slots.get_mut(interface as usize)?.take()?;
        buffers.free_all(slot.pending.drain(..));
        Some(slot.port)
    }

    /// Lets a frame wait for transmission by `interface` at the end of the round (at once when 256 wait).
    #[inline]
    pub fn transmit(
        &mut self,
        interface: u32,
        packet: Packet,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
    ) {
        let Some(Some(slot)) = self.slots.get_mut(interface as usize) else {
            counters.drop(DropReason::InterfaceDown).add(1);
            counters.interface(interface).drops.add(1);
            buffers.free(packet);
            return;
        };
        if slot.pending.len() == VECTOR {
            slot.flush(buffers, counters);
        }
        if let Err(full) = slot.pending.try_push(packet) {
            counters.drop(DropReason::TxQueueFull).add(1);
            buffers.free(full.element());
        }
    }

    /// Sends all frames that wait.
    pub fn flush(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        for slot in self.slots.iter_mut().flatten() {
            if !slot.pending.is_empty() {
                slot.flush(buffers, counters);
            }
        }
    }

    /// Each port with its interface index.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Box<dyn Port>)> {
        self.slots
            .iter_mut()
            .flatten()
            .map(|slot| (slot.interface, &mut slot.port))
    }

    /// Each port with its interface index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &dyn Port)> {
        self.slots
            .iter()
            .flatten()
            .map(|slot| (slot.interface, slot.port.as_ref()))
    }
}

impl Slot {
    fn flush(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        self.port.transmit(buffers, counters, &mut self.pending);
        debug_assert!(self.pending.is_empty());
        buffers.free_all(self.pending.drain(..));
    }
}
