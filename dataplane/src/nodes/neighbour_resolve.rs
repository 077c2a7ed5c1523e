//! Packets whose next hop's MAC address is not known yet (RFC 826, RFC 1122 section 2.3.2.2, RFC 4861 section 7.2).
//!
//! ```text
//!   ip4-lookup, ip6-lookup -> neighbour-resolve -> interface-output    the question, at once and then each second
//!                                |    |    '-----> ip4-lookup, ip6-lookup   when the answer is in the tables
//!                                |    '----------> icmp-error          after three questions without answer
//!                                '-> events: the neighbour is wanted
//! ```
//!
//! The answer comes to arp-input or nd-input of any worker, goes through the control thread and comes back in the
//! tables. While packets wait the node looks each millisecond.
//!
//! Somebody may send packets to addresses that nobody has, by the thousand (RFC 6583). Where no room is left, what has
//! waited longer than a station on a link takes to answer makes room, and one interface never has all of it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::{icmp_error, link_frames};
use crate::buffer::{BufferPool, IcmpCause, Packet};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::tables::{AdjacencyKind, Interface, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::NeighbourResolve,
    next: &[
        NodeId::InterfaceOutput,
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::IcmpError,
    ],
};

/// Packets that wait for one neighbour; the newest are kept (RFC 4861 section 7.2.2 asks for one at least).
const PER_NEIGHBOUR: usize = 16;
/// Packets that wait in all, a quarter of a worker's buffers at most.
const IN_ALL: usize = 1024;
/// Packets that wait for neighbours on one interface (of those whose indexes fall together, see [`share`]).
const OF_ONE: u16 = 768;
/// Interfaces whose packets are counted together are so far apart.
const SHARES: usize = 256;
/// A neighbour that has not answered by then makes room for another: many times what a station on a link takes. With
/// [`IN_ALL`] it bounds the neighbours that one worker asks for in a second, too.
const PATIENCE_NS: u64 = 250_000_000;
/// Neighbours that are looked at to find one that makes room.
const TRIES: usize = 8;
/// Questions before a neighbour counts as unreachable: `MAX_MULTICAST_SOLICIT`, RFC 4861 section 10.
const QUESTIONS: u32 = 3;
/// Between two of them: `RETRANS_TIMER` there; RFC 1122 section 2.3.2.1 asks for no more than one ARP a second.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Until the next try when the interface has no address to ask from, since it is being checked for duplicates.
const NO_SOURCE_NS: u64 = 50_000_000;
/// Between two looks at the tables while something waits.
const LOOK_NS: u64 = 1_000_000;

struct Pending {
    packets: ArrayVec<Packet, PER_NEIGHBOUR>,
    asked: u32,
    next_question: u64,
    deadline: u64,
    since: u64,
}

type Key = (u32, IpAddr);

/// See the module.
pub struct NeighbourResolve {
    pending: HashMap<Key, Pending>,
    /// By age, with the time at which each was begun; some are not pending any more.
    order: VecDeque<(Key, u64)>,
    held: usize,
    held_of: [u16; SHARES],
    looked: u64,
}

impl Default for NeighbourResolve {
    fn default() -> Self {
        Self {
            // The packet path does not allocate: there are never more neighbours than packets.
            pending: HashMap::with_capacity(IN_ALL),
            order: VecDeque::with_capacity(2 * IN_ALL),
            held: 0,
            held_of: [0; SHARES],
            looked: 0,
        }
    }
}

impl Node for NeighbourResolve {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        self.looked = context.now;
        for packet in vector.drain(..) {
            match neighbour(context.tables, context.buffers, &packet) {
                Some(key) => self.hold(context, packet, key),
                None => context.drop(packet, DropReason::NeighbourUnresolved),
            }
        }
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.looked = context.now;
        let tables = context.tables;
        self.pending.retain(|key, pending| {
            let (now, before) = (context.now, pending.packets.len());
            if tables.neighbours.contains_key(key) {
                for packet in pending.packets.drain(..) {
                    context.send(lookup(key.1), packet);
                }
            } else if now >= pending.deadline {
                for packet in pending.packets.drain(..) {
                    let v6 = key.1.is_ipv6();
                    icmp_error::refuse(context, packet, IcmpCause::host_unreachable(v6));
                }
            } else if now >= pending.next_question {
                pending.ask(context, *key);
            }
            let gone = before - pending.packets.len();
            self.held -= gone;
            self.held_of[share(key.0)] -= gone as u16;
            !pending.packets.is_empty()
        });
        self.forget_done();
    }

    fn next_tick(&self) -> Option<u64> {
        (!self.pending.is_empty()).then_some(self.looked + LOOK_NS)
    }

    fn held(&self) -> usize {
        self.held
    }

    fn release(&mut self, buffers: &mut BufferPool) {
        for (_, pending) in self.pending.drain() {
            buffers.free_all(pending.packets);
        }
        self.order.clear();
        self.held = 0;
        self.held_of = [0; SHARES];
    }
}

impl NeighbourResolve {
    fn hold(&mut self, context: &mut Context<'_>, packet: Packet, key: Key) {
        let now = context.now;
        let is_new = !self.pending.contains_key(&key);
        if is_new && self.is_full(key.0) && !self.make_room(context, key.0) {
            return context.drop(packet, DropReason::NeighbourQueueFull);
        }
        let is_full = self.is_full(key.0);
        let pending = self.pending.entry(key).or_insert_with(|| Pending {
            packets: ArrayVec::new(),
            asked: 0,
            next_question: now,
            deadline: now + u64::from(QUESTIONS) * INTERVAL_NS,
            since: now,
        });
        if (pending.packets.is_full() || is_full)
            && let Some(oldest) = pending.packets.pop_at(0)
        {
            context.drop(oldest, DropReason::NeighbourQueueFull);
            self.held -= 1;
            self.held_of[share(key.0)] -= 1;
        }
        if let Err(full) = pending.packets.try_push(packet) {
            return context.drop(full.element(), DropReason::NeighbourQueueFull);
        }
        self.held += 1;
        self.held_of[share(key.0)] += 1;
        if is_new {
            pending.ask(context, key);
            if self.order.len() == self.order.capacity() {
                let pending = &self.pending;
                self.order
                    .retain(|(key, since)| is_pending(pending, key, *since));
            }
            self.order.push_back((key, now));
        }
    }

    fn is_full(&self, interface: u32) -> bool {
        self.held >= IN_ALL || self.held_of[share(interface)] >= OF_ONE
    }

    fn is_pending(&self, key: &Key, since: u64) -> bool {
        is_pending(&self.pending, key, since)
    }

    /// Gives up the neighbour that has been waited for longest, on this interface if it has its share. Whether there is
    /// room now.
    fn make_room(&mut self, context: &mut Context<'_>, interface: u32) -> bool {
        self.forget_done();
        let crowded = self.held_of[share(interface)] >= OF_ONE;
        let oldest = self.order.iter().take(TRIES).position(|(key, since)| {
            let concerned = !crowded || share(key.0) == share(interface);
            let patient = context.now.saturating_sub(*since) < PATIENCE_NS;
            concerned && !patient && self.is_pending(key, *since)
        });
        let oldest = oldest.and_then(|place| self.order.remove(place));
        let Some((key, pending)) =
            oldest.and_then(|(key, _)| Some((key, self.pending.remove(&key)?)))
        else {
            return false;
        };
        self.held -= pending.packets.len();
        self.held_of[share(key.0)] -= pending.packets.len() as u16;
        for packet in pending.packets {
            context.drop(packet, DropReason::NeighbourQueueFull);
        }
        !self.is_full(interface)
    }

    /// Takes those that nothing waits for any more from the front of the order.
    fn forget_done(&mut self) {
        while let Some((key, since)) = self.order.front()
            && !self.is_pending(key, *since)
        {
            self.order.pop_front();
        }
    }
}

/// Where the packets that wait on an interface are counted.
fn share(interface: u32) -> usize {
    interface as usize % SHARES
}

fn is_pending(pending: &HashMap<Key, Pending>, key: &Key, since: u64) -> bool {
    pending.get(key).is_some_and(|found| found.since == since)
}

impl Pending {
    /// Sends the question if there is an address to ask from, a buffer to ask in, and a question left.
    fn ask(&mut self, context: &mut Context<'_>, (index, target): Key) {
        // Each time: it may have been lost, or forgotten among many.
        let _ = context.events.try_send(Event::NeighbourWanted {
            interface: index,
            address: target,
        });
        let question = context.tables.interfaces.get(index).and_then(|interface| {
            let mac = interface.mac()?;
            Some(match target {
                IpAddr::V4(target) => {
                    link_frames::arp_request(mac, source4(interface, target)?, target, None)
                }
                IpAddr::V6(target) => {
                    link_frames::solicitation(mac, source6(interface)?, target, None)
                }
            })
        });
        let Some((question, mut packet)) =
            question.and_then(|question| Some((question, context.buffers.allocate()?)))
        else {
            self.next_question = context.now + NO_SOURCE_NS;
            return;
        };
        self.asked += 1;
        self.next_question = context.now + INTERVAL_NS;
        self.deadline = self.deadline.max(self.next_question);
        if self.asked >= QUESTIONS {
            self.next_question = u64::MAX;
        }
        if link_frames::put(context, &mut packet, index, &question).is_ok() {
            context.send(NodeId::InterfaceOutput, packet);
        } else {
            context.buffers.free(packet);
        }
    }
}

/// Which neighbour a packet waits for.
fn neighbour(tables: &Tables, buffers: &BufferPool, packet: &Packet) -> Option<(u32, IpAddr)> {
    let adjacency = tables.adjacencies.get(buffers.meta(packet).adjacency)?;
    let address = match &adjacency.kind {
        AdjacencyKind::Unresolved(address) => *address,
        AdjacencyKind::Glean => destination(buffers.data(packet))?,
        _ => return None,
    };
    Some((adjacency.interface, address))
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    if packet.first()? >> 4 == 4 {
        let octets: [u8; 4] = *packet.get(16..)?.first_chunk()?;
        Some(octets.into())
    } else {
        let octets: [u8; 16] = *packet.get(24..)?.first_chunk()?;
        Some(octets.into())
    }
}

/// The next node of packets that waited for an address; their own family is the same, but for IPv4 over an IPv6 next
/// hop, which no route here has.
fn lookup(neighbour: IpAddr) -> NodeId {
    match neighbour {
        IpAddr::V4(_) => NodeId::Ip4Lookup,
        IpAddr::V6(_) => NodeId::Ip6Lookup,
    }
}

/// The address that shares the longest subnet with the target, else any.
fn source4(interface: &Interface, target: Ipv4Addr) -> Option<Ipv4Addr> {
    interface
        .addresses4
        .iter()
        .filter(|own| !own.tentative)
        .find(|own| {
            let differ = (own.address.to_bits() ^ target.to_bits()).leading_zeros();
            differ >= u32::from(own.length)
        })
        .map(|own| own.address)
        .or_else(|| interface.source4())
}

fn source6(interface: &Interface) -> Option<Ipv6Addr> {
    interface.link_local().or_else(|| interface.source6())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{ArpPacket, EthernetView, Ipv4Prefix, Ipv4View, MacAddr};

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, HOST_MAC, LAN, LAN_IP, LAN_MAC, TO_HOST, WAN,
        Workbench, from_host, packet4, packet6,
    };

    const NEW: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);

    fn to_new(bench: &mut Workbench, number: u8) {
        bench.receive(LAN, &from_host(&packet4(FAR_IP, NEW, 17, &[number; 8])));
        bench.run();
    }

    #[test]
    fn the_first_packet_asks_and_the_answer_sets_all_free_in_order() {
        let mut bench = Workbench::layer3();
        for number in 0..3 {
            to_new(&mut bench, number);
        }
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 1, "one question for three packets");
        let frame = EthernetView::parse(&sent[0]).unwrap();
        assert_eq!(frame.destination(), MacAddr::BROADCAST);
        assert_eq!(
            ArpPacket::parse(frame.payload()),
            Ok(ArpPacket::request(LAN_MAC, LAN_IP, NEW))
        );
        assert_eq!(
            bench.events(),
            [Event::NeighbourWanted {
                interface: LAN,
                address: NEW.into()
            }]
        );
        assert_eq!(bench.graph.held(), 3);
        assert_eq!(bench.graph.next_tick(), Some(bench.now + LOOK_NS));
        bench.tick();
        assert_eq!(bench.graph.held(), 3);
        bench
            .fib4
            .insert("10.1.0.9/32".parse().unwrap(), TO_HOST)
            .unwrap();
        bench.resolve(LAN, NEW.into(), HOST_MAC);
        bench.tick();
        let sent = bench.sent(LAN);
        let payloads: Vec<_> = sent
            .iter()
            .map(|frame| Ipv4View::verify(&frame[14..]).unwrap().payload()[0])
            .collect();
        assert_eq!(payloads, [0, 1, 2]);
        assert_eq!((bench.graph.held(), bench.graph.next_tick()), (0, None));
        bench.finish();
    }

    #[test]
    fn three_questions_a_second_apart_and_then_the_sender_is_told() {
        let mut bench = Workbench::layer3();
        bench.receive(LAN, &from_host(&packet4(HOST_IP, NEW, 17, &[1; 8])));
        bench.run();
        let mut questions = bench.sent(LAN).len();
        let mut wanted = bench.events().len();
        for _ in 0..29 {
            bench.now += 100_000_000;
            bench.tick();
            questions += bench.sent(LAN).len();
            wanted += bench.events().len();
        }
        assert_eq!((questions, wanted), (3, 3));
        bench.now += 100_000_000;
        bench.tick();
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 1);
        let error = Ipv4View::verify(&sent[0][14..]).unwrap();
        assert_eq!(
            (error.destination(), error.payload()[..2].to_vec()),
            (HOST_IP, vec![3, 1])
        );
        assert_eq!(bench.drops(DropReason::NeighbourUnresolved), 1);
        assert_eq!(bench.graph.held(), 0);
        bench.finish();
    }

    #[test]
    fn the_newest_packets_are_kept_and_there_is_a_bound_for_all() {
        let mut bench = Workbench::layer3();
        for number in 0..20 {
            to_new(&mut bench, number);
        }
        assert_eq!(bench.drops(DropReason::NeighbourQueueFull), 4);
        assert_eq!(bench.graph.held(), PER_NEIGHBOUR);
        for host in 0..2000u32 {
            bench.receive(LAN, &to_silent(host));
            bench.run();
        }
        assert_eq!(bench.graph.held(), usize::from(OF_ONE));
        assert_eq!(
            bench.drops(DropReason::NeighbourQueueFull),
            4 + 2000 - u64::from(OF_ONE - 16)
        );
        bench.finish();
    }

    fn to_silent(host: u32) -> Vec<u8> {
        let to = Ipv6Addr::from_bits(HOST_IP6.to_bits() + 0x1_0000 + u128::from(host));
        from_host(&packet6(FAR_IP6, to, 17, 64, &[0; 8]))
    }

    /// Two thousand addresses a second that nobody has, and one that somebody has: it is asked for and its packet waits
    /// long enough for an answer, now on the flooded link, now on another.
    #[test]
    fn a_scan_of_silent_addresses_keeps_nobody_from_those_that_answer() {
        let mut bench = Workbench::layer3();
        let mut host = 0;
        for second in 0..8u8 {
            for millisecond in 0..1000 {
                for _ in 0..2 {
                    host += 1;
                    bench.receive(LAN, &to_silent(host));
                }
                bench.run();
                bench.now += 1_000_000;
                bench.tick();
                bench.sent(LAN);
                bench.events();
                if second >= 4 && millisecond == 500 {
                    let (interface, to) = if second % 2 == 0 {
                        (LAN, Ipv4Addr::new(10, 1, 0, 100 + second))
                    } else {
                        (WAN, Ipv4Addr::new(203, 0, 113, 100 + second))
                    };
                    bench.receive(LAN, &from_host(&packet4(FAR_IP, to, 17, &[second; 8])));
                    bench.run();
                    let question = bench.sent(interface).pop().expect("it is asked for");
                    let question = EthernetView::parse(&question).unwrap();
                    let question = ArpPacket::parse(question.payload()).unwrap();
                    assert_eq!(question.target_ip, to);
                    // The answer takes a tenth of a second.
                    for _ in 0..100 {
                        host += 2;
                        bench.receive(LAN, &to_silent(host));
                        bench.receive(LAN, &to_silent(host + 1));
                        bench.run();
                        bench.now += 1_000_000;
                        bench.tick();
                        bench.sent(LAN);
                    }
                    bench.resolve(interface, to.into(), HOST_MAC);
                    bench.fib4.insert(Ipv4Prefix::host(to), TO_HOST).unwrap();
                    bench.now += 1_000_000;
                    bench.tick();
                    let sent = bench.sent(LAN);
                    let payload = |frame: &Vec<u8>| frame[frame.len() - 8..].to_vec();
                    assert!(sent.iter().map(payload).any(|bytes| bytes == [second; 8]));
                }
                assert!(bench.graph.held() <= usize::from(OF_ONE) + 1);
            }
        }
        assert!(bench.drops(DropReason::NeighbourQueueFull) > 8000);
        bench.now += 4_000_000_000;
        bench.tick();
        assert_eq!((bench.graph.held(), bench.graph.next_tick()), (0, None));
        bench.graph.release(&mut bench.buffers);
        bench.sent(LAN);
        bench.finish();
    }

    #[test]
    fn ipv6_asks_the_group_and_without_an_address_it_waits() {
        let mut bench = Workbench::layer3();
        bench.change_interface(LAN, |interface| {
            interface.addresses6 = interface
                .addresses6
                .iter()
                .map(|own| crate::tables::InterfaceAddress {
                    tentative: true,
                    ..*own
                })
                .collect();
        });
        let target: Ipv6Addr = "2001:db8:1::abcd".parse().unwrap();
        bench.receive(LAN, &from_host(&packet6(FAR_IP6, target, 17, 64, &[0; 8])));
        bench.run();
        assert!(bench.sent(LAN).is_empty());
        bench.change_interface(LAN, |interface| {
            interface.addresses6 = interface
                .addresses6
                .iter()
                .map(|own| crate::tables::InterfaceAddress {
                    tentative: false,
                    ..*own
                })
                .collect();
        });
        bench.now += NO_SOURCE_NS;
        bench.tick();
        let sent = bench.sent(LAN);
        let expected = link_frames::solicitation(LAN_MAC, LAN_MAC.link_local(), target, None);
        assert_eq!(sent, [expected.to_vec()]);
        bench.finish();
    }
}
