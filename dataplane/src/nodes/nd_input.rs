//! Neighbour discovery (RFC 4861) and IPv6 address conflicts (RFC 4862 section 5.4).
//!
//! ```text
//!   ip6-local -> nd-input -> interface-output      (the advertisement, in the solicitation's buffer)
//!                       '--> events: who has shown which MAC address; who claims an address of ours
//! ```
//!
//! The dataplane alone answers for the box. Router solicitations, advertisements and redirects are used up: the box is a
//! router whose addresses are configured.

use std::net::{IpAddr, Ipv6Addr};

use culvert_net::nd::{HOP_LIMIT, NeighbourAdvert, NeighbourSolicit, solicited_node};
use culvert_net::{Icmpv6Type, Icmpv6View, Ipv6View, MacAddr};

use super::link_frames;
use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::tables::{Interface, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::NdInput,
    next: &[NodeId::InterfaceOutput],
};

/// See the module.
#[derive(Default)]
pub struct NdInput;

impl Node for NdInput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            take(context, packet);
        }
    }
}

/// What a valid message says.
enum Message {
    Solicit(NeighbourSolicit),
    Advert(NeighbourAdvert),
    Other,
}

/// A message whose packet fulfils RFC 4861 sections 6.1 and 7.1.
struct Heard {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Of the frame.
    sender: MacAddr,
    message: Message,
}

/// What is done about it.
enum Verdict {
    Answer {
        to: Ipv6Addr,
        at: MacAddr,
        target: Ipv6Addr,
    },
    Drop(DropReason),
}

fn take(context: &mut Context<'_>, mut packet: Packet) {
    let tables = context.tables;
    let index = context.buffers.meta(&packet).rx_interface;
    // A peer at the far end of a tunnel is not on a link: whatever its hop limit, it is nobody's neighbour.
    let Some((interface, mac)) = tables
        .interfaces
        .get(index)
        .and_then(|interface| Some((interface, interface.mac()?)))
    else {
        return context.drop(packet, DropReason::NdMalformed);
    };
    let Some(heard) = hear(context.buffers, &mut packet) else {
        return context.drop(packet, DropReason::NdMalformed);
    };
    if heard.sender == mac {
        // Our own, come back by a loop in the link (RFC 4862 section 5.4.3).
        return context.drop(packet, DropReason::NdNotForUs);
    }
    let mut report = |event| {
        let _ = context.events.try_send(event);
    };
    let verdict = match heard.message {
        Message::Solicit(solicit) => on_solicit(tables, interface, &heard, &solicit, &mut report),
        Message::Advert(advert) => on_advert(tables, interface, &heard, &advert, &mut report),
        Message::Other => Verdict::Drop(DropReason::NdConsumed),
    };
    match verdict {
        Verdict::Drop(reason) => context.drop(packet, reason),
        Verdict::Answer { to, at, target } => {
            let asker = (!to.is_unspecified()).then_some((to, at));
            let answer = link_frames::advertisement(mac, target, asker);
            if link_frames::put(context, &mut packet, index, &answer).is_ok() {
                context.send(NodeId::InterfaceOutput, packet);
            } else {
                context.drop(packet, DropReason::NoRoom);
            }
        }
    }
}

fn hear(buffers: &BufferPool, packet: &mut Packet) -> Option<Heard> {
    let (meta, area) = buffers.area_mut(packet);
    let start = meta.offset();
    let view = Ipv6View::parse(area.get(start..start + meta.len())?).ok()?;
    let before = start.checked_sub(8)?;
    let sender = MacAddr(*area.get(before..)?.first_chunk()?);
    let (source, destination) = (view.source(), view.destination());
    let layer = view.upper_layer().ok()?;
    if view.hop_limit() != HOP_LIMIT || layer.fragment.is_some() {
        return None;
    }
    let icmp = Icmpv6View::verify(layer.payload, source, destination).ok()?;
    let message = match icmp.kind() {
        Icmpv6Type::NEIGHBOUR_SOLICIT => {
            let solicit = NeighbourSolicit::parse(layer.payload).ok()?;
            let probe = source.is_unspecified();
            if probe
                && (solicit.source_link.is_some() || destination != solicited_node(solicit.target))
            {
                return None;
            }
            Message::Solicit(solicit)
        }
        Icmpv6Type::NEIGHBOUR_ADVERT => {
            let advert = NeighbourAdvert::parse(layer.payload).ok()?;
            if destination.is_multicast() && advert.solicited || source.is_unspecified() {
                return None;
            }
            Message::Advert(advert)
        }
        other if other.code == 0 => Message::Other,
        _ => return None,
    };
    Some(Heard {
        source,
        destination,
        sender,
        message,
    })
}

fn on_solicit(
    tables: &Tables,
    interface: &Interface,
    heard: &Heard,
    solicit: &NeighbourSolicit,
    report: &mut impl FnMut(Event),
) -> Verdict {
    let target = solicit.target;
    let probe = heard.source.is_unspecified();
    match own(interface, target) {
        None => Verdict::Drop(DropReason::NdNotForUs),
        Some(true) => {
            // Two probe for one address at the same time: neither gets it (RFC 4862 section 5.4.3).
            if probe {
                report(Event::AddressConflict {
                    interface: interface.index,
                    address: target.into(),
                    mac: heard.sender,
                });
            }
            Verdict::Drop(DropReason::NdConsumed)
        }
        Some(false) => {
            let asker = solicit.source_link.unwrap_or(heard.sender);
            if !probe && solicit.source_link.is_some() {
                see(tables, interface, heard.source, asker, false, report);
            }
            Verdict::Answer {
                to: heard.source,
                at: asker,
                target,
            }
        }
    }
}

fn on_advert(
    tables: &Tables,
    interface: &Interface,
    heard: &Heard,
    advert: &NeighbourAdvert,
    report: &mut impl FnMut(Event),
) -> Verdict {
    let target = advert.target;
    if own(interface, target).is_some() {
        report(Event::AddressConflict {
            interface: interface.index,
            address: target.into(),
            mac: heard.sender,
        });
        return Verdict::Drop(DropReason::NdConsumed);
    }
    let key = (interface.index, IpAddr::V6(target));
    let known = tables.neighbours.get(&key).copied();
    // An answer to one may leave its link-layer address out: the asker has it (RFC 4861 section 4.4).
    if let Some(mac) = advert.target_link.or(known) {
        // Without the override flag, what is known stays (section 7.2.5).
        let keeps = known.is_some_and(|known| known != mac) && !advert.overrides;
        if !keeps && mac.is_unicast() {
            let solicited = advert.solicited && !heard.destination.is_multicast();
            see(tables, interface, target, mac, solicited, report);
        }
    }
    Verdict::Drop(DropReason::NdConsumed)
}

/// Reports a neighbour that is on the link, if that is news or a sign of life.
fn see(
    tables: &Tables,
    interface: &Interface,
    address: Ipv6Addr,
    mac: MacAddr,
    solicited: bool,
    report: &mut impl FnMut(Event),
) {
    let on_link = interface.addresses6.iter().any(|own| {
        let differ = (own.address.to_bits() ^ address.to_bits()).leading_zeros();
        differ >= u32::from(own.length)
    });
    let key = (interface.index, IpAddr::V6(address));
    if on_link && (solicited || tables.neighbours.get(&key) != Some(&mac)) {
        report(Event::NeighbourSeen {
            interface: interface.index,
            address: address.into(),
            mac,
            solicited,
        });
    }
}

/// The address is one of the interface's: whether it is tentative.
fn own(interface: &Interface, address: Ipv6Addr) -> Option<bool> {
    interface
        .addresses6
        .iter()
        .find(|own| own.address == address)
        .map(|own| own.tentative)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::EthernetView;

    use super::*;
    use crate::nodes::workbench::{
        HOST_IP6, HOST_MAC, LAN, LAN_IP6, LAN_MAC, Workbench, from_host, packet6,
    };

    fn advert(bytes: &[u8]) -> (MacAddr, Ipv6Addr, NeighbourAdvert) {
        let frame = EthernetView::parse(bytes).unwrap();
        assert_eq!(frame.source(), LAN_MAC);
        let ip = Ipv6View::parse(frame.payload()).unwrap();
        assert_eq!(ip.hop_limit(), 255);
        Icmpv6View::verify(ip.payload(), ip.source(), ip.destination()).unwrap();
        (
            frame.destination(),
            ip.destination(),
            NeighbourAdvert::parse(ip.payload()).unwrap(),
        )
    }

    fn tentative(bench: &mut Workbench) {
        bench.change_interface(LAN, |interface| {
            let mut own = interface.addresses6.to_vec();
            own.iter_mut()
                .filter(|own| own.address == LAN_IP6)
                .for_each(|own| own.tentative = true);
            interface.addresses6 = own.into();
        });
    }

    #[test]
    fn a_solicitation_is_answered_and_its_sender_reported() {
        let mut bench = Workbench::layer3();
        bench.receive(
            LAN,
            &link_frames::solicitation(HOST_MAC, HOST_IP6, LAN_IP6, None),
        );
        bench.run();
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 1);
        let (at, to, answer) = advert(&sent[0]);
        assert_eq!((at, to), (HOST_MAC, HOST_IP6));
        assert_eq!(
            answer,
            NeighbourAdvert {
                target: LAN_IP6,
                target_link: Some(LAN_MAC),
                router: true,
                solicited: true,
                overrides: true
            }
        );
        assert_eq!(
            bench.events(),
            [Event::NeighbourSeen {
                interface: LAN,
                address: HOST_IP6.into(),
                mac: HOST_MAC,
                solicited: false
            }]
        );
        // For the link-local address too.
        let own = LAN_MAC.link_local();
        bench.receive(
            LAN,
            &link_frames::solicitation(HOST_MAC, HOST_MAC.link_local(), own, Some(LAN_MAC)),
        );
        bench.run();
        assert_eq!(advert(&bench.sent(LAN)[0]).2.target, own);
        bench.finish();
    }

    #[test]
    fn a_probe_is_answered_to_all_unless_we_probe_too() {
        let mut bench = Workbench::layer3();
        let probe = link_frames::solicitation(HOST_MAC, Ipv6Addr::UNSPECIFIED, LAN_IP6, None);
        bench.receive(LAN, &probe);
        bench.run();
        let (at, to, answer) = advert(&bench.sent(LAN)[0]);
        assert_eq!(
            (at.0, to),
            ([0x33, 0x33, 0, 0, 0, 1], "ff02::1".parse().unwrap())
        );
        assert!(!answer.solicited);
        assert!(bench.events().is_empty());
        tentative(&mut bench);
        bench.receive(LAN, &probe);
        bench.receive(
            LAN,
            &link_frames::solicitation(HOST_MAC, HOST_IP6, LAN_IP6, None),
        );
        bench.run();
        assert!(bench.sent(LAN).is_empty());
        let conflict = Event::AddressConflict {
            interface: LAN,
            address: LAN_IP6.into(),
            mac: HOST_MAC,
        };
        assert_eq!(bench.events(), std::slice::from_ref(&conflict));
        bench.receive(LAN, &link_frames::advertisement(HOST_MAC, LAN_IP6, None));
        bench.run();
        assert_eq!(bench.events(), [conflict]);
        bench.finish();
    }

    #[test]
    fn advertisements_teach_and_respect_the_override_flag() {
        let mut bench = Workbench::layer3();
        let answer = link_frames::advertisement(HOST_MAC, HOST_IP6, Some((LAN_IP6, LAN_MAC)));
        let seen = Event::NeighbourSeen {
            interface: LAN,
            address: HOST_IP6.into(),
            mac: HOST_MAC,
            solicited: true,
        };
        bench.receive(LAN, &answer);
        bench.run();
        assert_eq!(bench.events(), std::slice::from_ref(&seen));
        // Somebody else's MAC address is known; without the flag (bit 5 of the message's flags) it stays.
        bench.resolve(LAN, HOST_IP6.into(), MacAddr([2; 6]));
        let mut weak = answer.to_vec();
        weak[14 + 40 + 4] &= !0x20;
        let sum = u16::from_be_bytes([weak[56], weak[57]]);
        weak[56..58]
            .copy_from_slice(&culvert_net::checksum::update(sum, 0x6000, 0x4000).to_be_bytes());
        bench.receive(LAN, &weak);
        bench.run();
        assert!(bench.events().is_empty());
        assert_eq!(bench.drops(DropReason::NdConsumed), 2);
        bench.receive(LAN, &answer);
        bench.run();
        assert_eq!(bench.events(), [seen]);
        bench.finish();
    }

    #[test]
    fn what_came_from_beyond_the_link_or_is_damaged_is_refused() {
        let mut bench = Workbench::layer3();
        let good = link_frames::solicitation(HOST_MAC, HOST_IP6, LAN_IP6, None);
        let mut far = good.clone();
        far[14 + 7] = 254;
        bench.receive(LAN, &far);
        let mut damaged = good.clone();
        damaged[14 + 40 + 20] ^= 1;
        bench.receive(LAN, &damaged);
        let mut redirect = vec![137, 1, 0, 0, 0, 0, 0, 0];
        redirect.resize(40, 0);
        bench.receive(
            LAN,
            &from_host(&packet6(HOST_MAC.link_local(), LAN_IP6, 58, 255, &redirect)),
        );
        bench.run();
        assert_eq!(bench.drops(DropReason::NdMalformed), 3);
        assert!(bench.sent(LAN).is_empty() && bench.events().is_empty());
        bench.receive(
            LAN,
            &link_frames::solicitation(
                HOST_MAC,
                HOST_IP6,
                "2001:db8:1::1:0:1".parse().unwrap(),
                None,
            ),
        );
        bench.run();
        assert_eq!(bench.drops(DropReason::NdNotForUs), 1);
        bench.finish();
    }
}
