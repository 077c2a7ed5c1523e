//! ARP (RFC 826) and IPv4 address conflicts (RFC 5227).
//!
//! ```text
//!   ethernet-input -> arp-input -> interface-output      (the answer, in the request's buffer)
//!                         '-> events: who has shown which MAC address; who claims an address of ours
//! ```
//!
//! The dataplane alone answers for the box. An address under duplicate detection is not answered for, but whoever else
//! uses or probes for it is reported.

use std::net::{IpAddr, Ipv4Addr};

use culvert_net::{ArpOperation, ArpPacket};

use super::link_frames;
use crate::buffer::{Packet, flags};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::tables::Interface;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::ArpInput,
    next: &[NodeId::InterfaceOutput],
};

/// See the module.
#[derive(Default)]
pub struct ArpInput;

impl Node for ArpInput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            take(context, packet);
        }
    }
}

fn take(context: &mut Context<'_>, mut packet: Packet) {
    let meta = context.buffers.meta(&packet);
    let (index, to_us) = (meta.rx_interface, meta.flags & flags::LINK_MULTICAST == 0);
    let tables = context.tables;
    let Some((interface, mac)) = tables
        .interfaces
        .get(index)
        .and_then(|interface| Some((interface, interface.mac()?)))
    else {
        return context.drop(packet, DropReason::InterfaceDown);
    };
    let arp = match ArpPacket::parse(context.buffers.data(&packet)) {
        Ok(arp) if arp.sender_mac.is_unicast() && possible_sender(arp.sender_ip) => arp,
        _ => return context.drop(packet, DropReason::ArpMalformed),
    };
    if arp.sender_mac == mac {
        // Our own, come back by a loop in the link.
        return context.drop(packet, DropReason::ArpNotForUs);
    }
    let about = own(interface, arp.target_ip);
    let rival = own(interface, arp.sender_ip)
        .map(|_| arp.sender_ip)
        .or_else(|| (arp.is_probe() && about == Some(true)).then_some(arp.target_ip));
    if let Some(address) = rival {
        let _ = context.events.try_send(Event::AddressConflict {
            interface: index,
            address: address.into(),
            mac: arp.sender_mac,
        });
    } else if on_link(interface, arp.sender_ip) {
        let solicited = arp.operation == ArpOperation::Reply && to_us;
        let address = IpAddr::V4(arp.sender_ip);
        // What is known already is news only as a sign of life.
        if solicited || tables.neighbours.get(&(index, address)) != Some(&arp.sender_mac) {
            let _ = context.events.try_send(Event::NeighbourSeen {
                interface: index,
                address,
                mac: arp.sender_mac,
                solicited,
            });
        }
    }
    match (arp.operation, about) {
        (ArpOperation::Request, Some(false)) => {
            let answer = link_frames::arp(arp.sender_mac, &arp.reply_from(mac));
            if link_frames::put(context, &mut packet, index, &answer).is_ok() {
                context.send(NodeId::InterfaceOutput, packet);
            } else {
                context.drop(packet, DropReason::NoRoom);
            }
        }
        (ArpOperation::Request, None) => context.drop(packet, DropReason::ArpNotForUs),
        _ => context.drop(packet, DropReason::ArpConsumed),
    }
}

/// The address is one of the interface's: whether it is tentative.
fn own(interface: &Interface, address: Ipv4Addr) -> Option<bool> {
    interface
        .addresses4
        .iter()
        .find(|own| own.address == address)
        .map(|own| own.tentative)
}

/// The unspecified address is that of a probe.
fn possible_sender(address: Ipv4Addr) -> bool {
    !(address.is_multicast() || address.is_broadcast() || address.is_loopback())
}

/// The address lies in a subnet of the interface.
fn on_link(interface: &Interface, address: Ipv4Addr) -> bool {
    interface.addresses4.iter().any(|own| {
        let differ = (own.address.to_bits() ^ address.to_bits()).leading_zeros();
        differ >= u32::from(own.length) && !address.is_unspecified()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::MacAddr;

    use super::*;
    use crate::nodes::workbench::{HOST_MAC, LAN, LAN_IP, LAN_MAC, Workbench, frame};

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

    fn arp(operation: ArpOperation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut bytes = [0; ArpPacket::LEN];
        let packet = ArpPacket {
            operation,
            sender_mac: HOST_MAC,
            sender_ip: sender,
            target_mac: MacAddr::ZERO,
            target_ip: target,
        };
        packet.write(&mut bytes);
        let to = if operation == ArpOperation::Request {
            MacAddr::BROADCAST
        } else {
            LAN_MAC
        };
        let mut frame = frame(to.0, HOST_MAC.0, 0x0806, &bytes);
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_request_for_our_address_is_answered_and_its_sender_reported() {
        let mut bench = Workbench::layer3();
        bench.receive(LAN, &arp(ArpOperation::Request, HOST, LAN_IP));
        bench.receive(
            LAN,
            &arp(ArpOperation::Request, HOST, Ipv4Addr::new(10, 1, 0, 7)),
        );
        bench.run();
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 1);
        let mut expected = HOST_MAC.0.to_vec();
        expected.extend(LAN_MAC.0);
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        expected.extend(LAN_MAC.0);
        expected.extend(LAN_IP.octets());
        expected.extend(HOST_MAC.0);
        expected.extend(HOST.octets());
        assert_eq!(sent[0], expected);
        assert_eq!(bench.drops(DropReason::ArpNotForUs), 1);
        let seen = Event::NeighbourSeen {
            interface: LAN,
            address: HOST.into(),
            mac: HOST_MAC,
            solicited: false,
        };
        assert_eq!(bench.events(), [seen.clone(), seen]);
        bench.finish();
    }

    #[test]
    fn an_answer_to_us_is_solicited_news_and_strangers_are_not() {
        let mut bench = Workbench::layer3();
        bench.receive(LAN, &arp(ArpOperation::Reply, HOST, LAN_IP));
        bench.receive(
            LAN,
            &arp(ArpOperation::Reply, Ipv4Addr::new(10, 99, 0, 1), LAN_IP),
        );
        bench.receive(LAN, &arp(ArpOperation::Reply, Ipv4Addr::BROADCAST, LAN_IP));
        bench.run();
        assert_eq!(
            bench.events(),
            [Event::NeighbourSeen {
                interface: LAN,
                address: HOST.into(),
                mac: HOST_MAC,
                solicited: true
            }]
        );
        assert_eq!(bench.drops(DropReason::ArpConsumed), 2);
        assert_eq!(bench.drops(DropReason::ArpMalformed), 1);
        bench.finish();
    }

    #[test]
    fn whoever_uses_our_address_is_reported_and_a_tentative_one_is_not_answered_for() {
        let mut bench = Workbench::layer3();
        let conflict = Event::AddressConflict {
            interface: LAN,
            address: LAN_IP.into(),
            mac: HOST_MAC,
        };
        bench.receive(LAN, &arp(ArpOperation::Request, LAN_IP, LAN_IP));
        bench.run();
        assert_eq!(bench.events(), std::slice::from_ref(&conflict));
        bench.sent(LAN);
        bench.change_interface(LAN, |interface| {
            let mut own = interface.addresses4.to_vec();
            own[0].tentative = true;
            interface.addresses4 = own.into();
        });
        // Another probes for it at the same time (RFC 5227 section 2.1.1).
        bench.receive(
            LAN,
            &arp(ArpOperation::Request, Ipv4Addr::UNSPECIFIED, LAN_IP),
        );
        bench.run();
        assert_eq!(bench.events(), [conflict]);
        assert!(bench.sent(LAN).is_empty());
        bench.finish();
    }
}
