//! Ports: where packets enter and leave a worker. Each driver (`AF_PACKET`, TAP, packet generator) is one kind.

use std::os::fd::BorrowedFd;

use crate::buffer::{BufferPool, Packet};
use crate::counters::{MAX_INTERFACES, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector, empty_into};

/// Where the TAP of an interface stands among the ports: the upper half of the indexes.
pub const fn tap_port(interface: u32) -> u32 {
    MAX_INTERFACES as u32 / 2 + interface
}

/// The interface whose TAP stands at this index.
pub const fn interface_of_tap(port: u32) -> Option<u32> {
    port.checked_sub(MAX_INTERFACES as u32 / 2)
}

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

    /// Closes the port; buffers that it holds are given back.
    fn release(self: Box<Self>, buffers: &mut BufferPool) {
        let _ = buffers;
    }
}

struct Slot {
    port: Box<dyn Port>,
    interface: u32,
    pending: Box<Vector>,
}

/// The ports of one worker, by interface index, with the frames that wait for the end of the round.
#[derive(Default)]
pub struct Ports {
    slots: Vec<Slot>,
    /// Interface index to place in `slots`, plus one; 0: no port.
    places: Vec<u16>,
}

impl Ports {
    /// Puts a port at `interface`; gives the one that was there.
    pub fn insert(&mut self, interface: u32, port: Box<dyn Port>) -> Option<Box<dyn Port>> {
        if let Some(place) = self.place(interface)
            && let Some(slot) = self.slots.get_mut(place)
        {
            return Some(std::mem::replace(&mut slot.port, port));
        }
        self.slots.push(Slot {
            port,
            interface,
            pending: Box::default(),
        });
        self.renumber();
        None
    }

    /// Takes the port of `interface` away; the frames that waited are freed.
    pub fn remove(&mut self, interface: u32, buffers: &mut BufferPool) -> Option<Box<dyn Port>> {
        let mut slot = self.slots.swap_remove(self.place(interface)?);
        buffers.free_all(slot.pending.drain(..));
        self.renumber();
        Some(slot.port)
    }

    /// Closes all ports.
    pub fn release(&mut self, buffers: &mut BufferPool) {
        for mut slot in self.slots.drain(..) {
            buffers.free_all(slot.pending.drain(..));
            slot.port.release(buffers);
        }
        self.renumber();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Receives by the port at `place`, which is below [`Ports::len`]. Gives the node that takes the packets; every one
    /// of them carries the interface's index.
    #[inline]
    pub fn receive(
        &mut self,
        place: usize,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) -> Option<NodeId> {
        let slot = self.slots.get_mut(place)?;
        slot.port.receive(buffers, counters, vector);
        for packet in vector.iter_mut() {
            buffers.meta_mut(packet).rx_interface = slot.interface;
        }
        (!vector.is_empty()).then(|| slot.port.input_node())
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
        let slot = self
            .place(interface)
            .and_then(|place| self.slots.get_mut(place));
        let Some(slot) = slot else {
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

    /// Lets all frames of a vector wait, in order; the vector is empty after. Cheaper than one by one.
    #[inline]
    pub fn transmit_all(
        &mut self,
        interface: u32,
        vector: &mut Vector,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
    ) {
        let slot = self
            .place(interface)
            .and_then(|place| self.slots.get_mut(place));
        if let Some(slot) = slot
            && slot.pending.is_empty()
        {
            empty_into(vector, &mut slot.pending);
            return;
        }
        for packet in vector.drain(..) {
            self.transmit(interface, packet, buffers, counters);
        }
    }

    /// Sends all frames that wait.
    pub fn flush(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        for slot in &mut self.slots {
            if !slot.pending.is_empty() {
                slot.flush(buffers, counters);
            }
        }
    }

    /// Each port with its interface index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &dyn Port)> {
        self.slots
            .iter()
            .map(|slot| (slot.interface, slot.port.as_ref()))
    }

    /// The frames that wait for the end of the round, each with the index of its port.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (u32, &Packet)> {
        self.slots
            .iter()
            .flat_map(|slot| slot.pending.iter().map(|packet| (slot.interface, packet)))
    }

    #[inline(always)]
    fn place(&self, interface: u32) -> Option<usize> {
        usize::from(*self.places.get(interface as usize)?).checked_sub(1)
    }

    fn renumber(&mut self) {
        let highest = self
            .slots
            .iter()
            .map(|slot| slot.interface as usize + 1)
            .max();
        self.places.clear();
        self.places.resize(highest.unwrap_or_default(), 0);
        for (place, slot) in self.slots.iter().enumerate() {
            if let Some(number) = self.places.get_mut(slot.interface as usize) {
                *number = place as u16 + 1;
            }
        }
    }
}

impl Slot {
    fn flush(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        self.port.transmit(buffers, counters, &mut self.pending);
        debug_assert!(self.pending.is_empty());
        buffers.free_all(self.pending.drain(..));
    }
}
