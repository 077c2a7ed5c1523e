//! Packets as they pass: on an interface, at a node, or where they are dropped.
//!
//! ```text
//!   interface: ethernet-input (in), interface-output (out); a VLAN: behind and before its tags; a tunnel: ip4-input,
//!              ip6-input (in), esp-encrypt (out)
//!   node:      what it is given                                     drop: what is given up, with the reason
//!                     '--> filter --> | head | bytes | head | bytes | ...   a fixed piece of memory: what finds no
//!                                                                            room is counted
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_net::EtherType;

use super::filter::Filter;
use super::headers::Layer;
use super::{layer_at, layer_in};
use crate::buffer::{BufferPool, DATA, Metadata, Packet, flags};
use crate::clock;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector};
use crate::port::interface_of_tap;
use crate::tables::Tables;
use crate::vlan::Tags;

/// Bytes of an Ethernet header.
const LINK: usize = 14;
/// No frame is longer, with tags.
const LONGEST: usize = 16 << 10;

/// Which way a packet passes an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To us.
    In,
    /// From us.
    Out,
}

/// Where packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// An interface with frames.
    Link {
        /// Its index.
        interface: u32,
        /// Which way, or both.
        direction: Option<Direction>,
    },
    /// A VLAN on an interface: its frames without their tags.
    Vlan {
        /// Its index.
        interface: u32,
        /// Which way, or both.
        direction: Option<Direction>,
    },
    /// A tunnel: the packets inside.
    Tunnel {
        /// Its index.
        interface: u32,
        /// Which way, or both.
        direction: Option<Direction>,
    },
    /// What a node is given.
    Node(NodeId),
    /// What is given up, anywhere.
    Drop,
}

/// What is captured, the same for all workers.
#[derive(Debug)]
pub struct Order {
    /// Where.
    pub point: Point,
    /// Which packets.
    pub filter: Filter,
    /// Bytes of each packet at most.
    pub snaplen: u16,
    /// Packets at most, over all workers.
    pub packets: u64,
    taken: AtomicU64,
}

impl Order {
    /// Of nothing so far.
    pub fn new(point: Point, filter: Filter, snaplen: u16, packets: u64) -> Self {
        Self {
            point,
            filter,
            snaplen,
            packets,
            taken: AtomicU64::new(0),
        }
    }

    /// Packets that were captured or found no room.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed).min(self.packets)
    }

    fn take(&self) -> bool {
        self.taken() < self.packets && self.taken.fetch_add(1, Ordering::Relaxed) < self.packets
    }
}

/// What is known of a captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Bytes of the packet; what follows may be fewer.
    pub length: u16,
    /// Index of the interface that it came in by, or is to leave by.
    pub interface: u32,
    /// Which way it passes that interface.
    pub direction: Direction,
    /// With which header its bytes begin.
    pub layer: Layer,
    /// The node that was given it, or has given it up.
    pub node: NodeId,
    /// Why it was given up.
    pub reason: Option<DropReason>,
    /// Bytes that were kept.
    kept: u16,
    /// Where they begin in [`Captured::bytes`].
    at: u32,
}

/// What a worker has captured.
pub struct Captured {
    heads: Vec<Head>,
    bytes: Vec<u8>,
    /// Packets that passed and were wanted.
    pub matched: u64,
    /// Those among them for which there was no room.
    pub missed: u64,
}

impl Captured {
    /// Room for so many packets and bytes.
    pub fn with_room(packets: usize, bytes: usize) -> Self {
        Self {
            heads: Vec::with_capacity(packets),
            bytes: Vec::with_capacity(bytes),
            matched: 0,
            missed: 0,
        }
    }

    /// The packets in the order of time.
    pub fn packets(&self) -> impl Iterator<Item = (&Head, &[u8])> {
        self.heads.iter().map(|head| {
            let at = head.at as usize;
            let bytes = self.bytes.get(at..at + usize::from(head.kept));
            (head, bytes.unwrap_or_default())
        })
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.bytes.clear();
        self.matched = 0;
        self.missed = 0;
    }

    fn push(&mut self, head: Head, bytes: &[u8]) {
        self.matched += 1;
        let room = self.bytes.capacity() - self.bytes.len();
        if self.heads.len() == self.heads.capacity() || bytes.len() > room {
            self.missed += 1;
            return;
        }
        self.heads.push(Head {
            at: self.bytes.len() as u32,
            kept: bytes.len() as u16,
            ..head
        });
        self.bytes.extend_from_slice(bytes);
    }
}

/// A capture on one worker.
pub struct Capture {
    order: Arc<Order>,
    captured: Captured,
    node: NodeId,
    as_came: AsCame,
    /// A frame of a VLAN with its tags put in.
    tagged: Vec<u8>,
}

impl Capture {
    /// Captures as ordered.
    pub fn new(order: Arc<Order>, captured: Captured) -> Self {
        let as_came = match order.point {
            Point::Drop => AsCame::with_room(),
            _ => AsCame::default(),
        };
        Self {
            order,
            captured,
            node: NodeId::EthernetInput,
            as_came,
            tagged: Vec::with_capacity(LONGEST),
        }
    }

    /// Gives what was captured so far, and goes on in `fresh`.
    pub fn exchange(&mut self, fresh: Captured) -> Captured {
        std::mem::replace(&mut self.captured, fresh)
    }

    pub(super) fn before(
        &mut self,
        node: NodeId,
        vector: &Vector,
        buffers: &BufferPool,
        tables: &Tables,
    ) {
        self.node = node;
        let direction = match self.order.point {
            Point::Drop => {
                self.as_came.clear();
                if node == NodeId::EspDecrypt {
                    self.as_came.fill(vector, buffers);
                }
                return;
            }
            Point::Node(wanted) if wanted != node => return,
            Point::Node(NodeId::InterfaceOutput) => Direction::Out,
            Point::Node(_) => Direction::In,
            Point::Link { .. } => match node {
                NodeId::EthernetInput => Direction::In,
                NodeId::InterfaceOutput => Direction::Out,
                _ => return,
            },
            Point::Vlan { .. } => match node {
                NodeId::Ip4Input | NodeId::Ip6Input | NodeId::ArpInput => Direction::In,
                NodeId::InterfaceOutput => Direction::Out,
                _ => return,
            },
            Point::Tunnel { .. } => match node {
                NodeId::Ip4Input | NodeId::Ip6Input => Direction::In,
                NodeId::EspEncrypt => Direction::Out,
                _ => return,
            },
        };
        let time = clock::realtime_nanoseconds();
        for packet in vector {
            let meta = buffers.meta(packet);
            let mut interface = interface_of(meta, direction);
            let mut tags = None;
            let inside = direction == Direction::In && meta.flags & flags::DECRYPTED != 0;
            let wanted = match self.order.point {
                Point::Link {
                    interface: wanted,
                    direction: way,
                } => {
                    // Frames of VLANs get their tags in the node.
                    if direction == Direction::Out
                        && let Some(place) = tables.vlans.place(interface)
                    {
                        interface = place.parent;
                        tags = Some(place.tags);
                    }
                    interface == wanted && way.is_none_or(|way| way == direction)
                }
                Point::Vlan {
                    interface: wanted,
                    direction: way,
                } => interface == wanted && way.is_none_or(|way| way == direction) && !inside,
                Point::Tunnel {
                    interface: wanted,
                    direction: way,
                } => {
                    interface == wanted
                        && way.is_none_or(|way| way == direction)
                        && (direction == Direction::Out || inside)
                }
                Point::Node(_) | Point::Drop => true,
            };
            if wanted {
                let head = head(time, interface, direction, node);
                let behind_link =
                    matches!(self.order.point, Point::Vlan { .. }) && direction == Direction::In;
                let (layer, mut bytes) = match buffers.data_from(packet, LINK) {
                    Some(frame) if behind_link => (Layer::Link, frame),
                    _ => readable(node, layer_at(node), packet, buffers),
                };
                if let Some(tags) = tags
                    && with_tags(&mut self.tagged, bytes, tags)
                {
                    bytes = &self.tagged;
                }
                keep(&self.order, &mut self.captured, head, layer, bytes);
            }
        }
    }

    pub(super) fn tick(&mut self, node: NodeId) {
        self.node = node;
        self.as_came.clear();
    }

    pub(super) fn dropped(&mut self, packet: &Packet, reason: DropReason, buffers: &BufferPool) {
        if self.order.point != Point::Drop {
            return;
        }
        let meta = buffers.meta(packet);
        let head = Head {
            reason: Some(reason),
            ..head(
                clock::realtime_nanoseconds(),
                interface_of(meta, Direction::In),
                Direction::In,
                self.node,
            )
        };
        let (layer, bytes) = match self.as_came.of(packet) {
            Some(bytes) => (Layer::Network, bytes),
            None => readable(self.node, layer_in(self.node, meta), packet, buffers),
        };
        keep(&self.order, &mut self.captured, head, layer, bytes);
    }
}

/// Packets as they came to a node that may leave neither cipher text nor plain text in those that it drops.
#[derive(Default)]
struct AsCame {
    /// Numbers of their buffers, and where their bytes begin.
    places: Vec<(u32, usize)>,
    bytes: Vec<u8>,
}

impl AsCame {
    /// Room for a vector; what is beyond it is shown as it is when it is dropped.
    fn with_room() -> Self {
        Self {
            places: Vec::with_capacity(VECTOR),
            bytes: Vec::with_capacity(VECTOR * DATA),
        }
    }

    fn fill(&mut self, vector: &Vector, buffers: &BufferPool) {
        for packet in vector {
            let bytes = buffers.data(packet);
            if self.places.len() < self.places.capacity()
                && bytes.len() <= self.bytes.capacity() - self.bytes.len()
            {
                self.places.push((packet.number(), self.bytes.len()));
                self.bytes.extend_from_slice(bytes);
            }
        }
    }

    fn clear(&mut self) {
        self.places.clear();
        self.bytes.clear();
    }

    fn of(&self, packet: &Packet) -> Option<&[u8]> {
        let number = packet.number();
        let at = self.places.iter().position(|place| place.0 == number)?;
        let (_, start) = *self.places.get(at)?;
        let end = self
            .places
            .get(at + 1)
            .map_or(self.bytes.len(), |next| next.1);
        self.bytes.get(start..end)
    }
}

/// Keeps a packet if it is wanted.
fn keep(order: &Order, captured: &mut Captured, head: Head, layer: Layer, bytes: &[u8]) {
    if order.filter.matches(bytes, layer) && order.take() {
        let head = Head {
            layer,
            length: bytes.len() as u16,
            ..head
        };
        let kept = bytes.len().min(usize::from(order.snaplen));
        captured.push(head, bytes.get(..kept).unwrap_or_default());
    }
}

/// Writes a frame with tags behind its addresses; false: it is longer than any.
fn with_tags(to: &mut Vec<u8>, frame: &[u8], tags: Tags) -> bool {
    const ADDRESSES: usize = 12;
    to.clear();
    let Some((addresses, rest)) = frame.split_at_checked(ADDRESSES) else {
        return false;
    };
    if frame.len() + 8 > to.capacity() {
        return false;
    }
    to.extend_from_slice(addresses);
    let outer = tags.outer.map(|outer| (EtherType::SERVICE_VLAN, outer));
    for (kind, vlan) in outer.into_iter().chain([(EtherType::VLAN, tags.vlan)]) {
        to.extend_from_slice(&kind.0.to_be_bytes());
        to.extend_from_slice(&vlan.get().to_be_bytes());
    }
    to.extend_from_slice(rest);
    true
}

fn head(time: u64, interface: u32, direction: Direction, node: NodeId) -> Head {
    Head {
        time,
        length: 0,
        interface,
        direction,
        layer: Layer::Network,
        node,
        reason: None,
        kept: 0,
        at: 0,
    }
}

fn interface_of(meta: &Metadata, direction: Direction) -> u32 {
    match direction {
        Direction::In => interface_of_tap(meta.rx_interface).unwrap_or(meta.rx_interface),
        Direction::Out => meta.tx_interface,
    }
}

/// The bytes of a packet as others can read them: what is not IP has no link type of its own, and gets its Ethernet
/// header back where that still stands before it.
fn readable<'b>(
    node: NodeId,
    layer: Layer,
    packet: &'b Packet,
    buffers: &'b BufferPool,
) -> (Layer, &'b [u8]) {
    let bytes = buffers.data(packet);
    let is_ip = matches!(bytes.first().map(|first| first >> 4), Some(4 | 6));
    if layer == Layer::Network
        && !is_ip
        && matches!(node, NodeId::EthernetInput | NodeId::ArpInput)
        && let Some(frame) = buffers.data_from(packet, LINK)
    {
        return (Layer::Link, frame);
    }
    (layer, bytes)
}
