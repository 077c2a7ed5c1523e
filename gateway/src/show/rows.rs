//! From the answers of the bus to what stands in a line.

use std::net::IpAddr;

use culvert_dataplane::sa::service;
use culvert_model::{bus, types};
use culvert_net::{AddressRange, MacAddr, PortRange, Protocol};
use serde::Serialize;

use super::table::Row;

/// A row whose cells are its fields, in order.
macro_rules! rows {
    ($($(#[doc = $doc:literal])+ $name:ident { $($heading:literal $field:ident: $kind:ty,)+ })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, PartialEq, Serialize)]
            pub(super) struct $name { $(pub(super) $field: $kind,)+ }

            impl Row for $name {
                const HEADINGS: &'static [&'static str] = &[$($heading,)+];

                fn cells(&self) -> Vec<String> {
                    vec![$(cell(&self.$field),)+]
                }
            }
        )+
    };
}

rows! {
    /// An interface or tunnel.
    Interface {
        "interface" name: String,
        "state" state: &'static str,
        "mac" mac: Option<String>,
        "#mtu" mtu: u32,
        "#rx packets" rx_packets: u64,
        "#rx bytes" rx_bytes: u64,
        "#tx packets" tx_packets: u64,
        "#tx bytes" tx_bytes: u64,
        "#drops" drops: u64,
        "driver" driver: Option<String>,
    }
    /// A route, for one reason.
    Route {
        "vrf" vrf: String,
        "destination" destination: String,
        "source" source: &'static str,
        "active" active: bool,
        "via" via: Vec<String>,
        "state" next_hops: Vec<NextHop>,
    }
    /// A neighbour.
    Neighbour {
        "interface" interface: String,
        "address" address: Option<String>,
        "mac" mac: Option<String>,
        "state" state: &'static str,
        "#age s" age_s: u32,
    }
    /// An `IKE_SA`.
    Ike {
        "connection" connection: String,
        "#id" unique_id: u64,
        "state" state: String,
        "local" local: String,
        "remote" remote: String,
        "proposal" proposal: String,
        "#age s" established_s: u64,
        "initiator" initiator: bool,
    }
    /// A `CHILD_SA`.
    Child {
        "connection" connection: String,
        "child" name: String,
        "state" state: String,
        "in" spi_in: String,
        "out" spi_out: String,
        "proposal" proposal: String,
        "local" local_selectors: Vec<String>,
        "remote" remote_selectors: Vec<String>,
    }
    /// A security association of the dataplane.
    Sa {
        "spi" spi: String,
        "direction" direction: &'static str,
        "source" source: Option<String>,
        "destination" destination: Option<String>,
        "algorithm" algorithm: String,
        "esn" esn: bool,
        "udp" udp: bool,
        "#from port" source_port: Option<u32>,
        "#to port" destination_port: Option<u32>,
        "#if_id" if_id: u32,
        "#packets" packets: u64,
        "#bytes" bytes: u64,
        "#replayed" replayed: u64,
        "#late" late: u64,
        "#lost" lost: u64,
        "#bad icv" bad_icv: u64,
    }
    /// A policy of the dataplane.
    Policy {
        "direction" direction: &'static str,
        "#if_id" if_id: u32,
        "source" source: String,
        "destination" destination: String,
        "action" action: &'static str,
        "#priority" priority: u32,
        "spi" spi: Option<String>,
    }
    /// What waits to be put together on one worker.
    Reassembly {
        "#worker" worker: u32,
        "#packets" packets: u64,
        "#of" most_packets: u32,
        "#fragments" fragments: u64,
        "#of" most_fragments: u32,
        "#timeout ms" timeout_ms: u32,
        "#of IPv6 ms" timeout6_ms: u32,
        "#put together" reassembled: u64,
        "#looked at" ports_packets: u64,
        "#awaiting ports" ports_fragments: u64,
    }
    /// A path that takes less than the link by which it begins.
    Path {
        "vrf" vrf: String,
        "peer" peer: Option<String>,
        "#mtu" mtu: u32,
        "#age s" age_s: u32,
    }
    /// Messages that a packet was too big of which the same became.
    Verdict {
        "outcome" outcome: String,
        "#messages" messages: u64,
        "meaning" meaning: String,
    }
    /// Packets dropped for one reason.
    Drop {
        "reason" reason: String,
        "#packets" packets: u64,
        "meaning" meaning: String,
    }
    /// What a node has cost on one worker.
    Node {
        "node" name: String,
        "#worker" worker: u32,
        "#vectors" vectors: u64,
        "#packets" packets: u64,
        "#packets/vector" packets_per_vector: Option<f64>,
        "#clocks/packet" clocks_per_packet: Option<f64>,
    }
}

/// How a value stands in a table.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown_as_text {
    ($($kind:ty)+) => {
        $(impl Shown for $kind {
            fn shown(&self) -> String {
                self.to_string()
            }
        })+
    };
}

shown_as_text!(String &'static str u32 u64);

impl Shown for bool {
    fn shown(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

impl Shown for f64 {
    fn shown(&self) -> String {
        format!("{self:.1}")
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "-".to_owned(), Shown::shown)
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> String {
        self.join(" ")
    }
}

/// One way of a route.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct NextHop {
    gateway: Option<String>,
    interface: Option<String>,
    vrf: Option<String>,
    mac: Option<String>,
    /// What becomes of packets.
    state: String,
}

impl NextHop {
    /// As it is configured: who, by what, in whose routes.
    fn way(&self) -> String {
        let vrf = self.vrf.as_ref().map(|vrf| format!("vrf:{vrf}"));
        match (&self.gateway, &self.interface, vrf) {
            (Some(gateway), Some(interface), _) => format!("{gateway}%{interface}"),
            (Some(gateway), None, Some(vrf)) => format!("{gateway}@{vrf}"),
            (Some(gateway), None, None) => gateway.clone(),
            (None, Some(interface), _) => interface.clone(),
            (None, None, Some(vrf)) => vrf,
            // Nowhere; the state says why.
            (None, None, None) => "-".to_owned(),
        }
    }
}

impl Shown for Vec<NextHop> {
    fn shown(&self) -> String {
        let states = self.iter().map(|hop| match &hop.mac {
            Some(mac) => format!("{} ({mac})", hop.state),
            None => hop.state.clone(),
        });
        states.collect::<Vec<_>>().join(", ")
    }
}

fn cell(value: &impl Shown) -> String {
    value.shown()
}

fn mac(bytes: &[u8]) -> Option<String> {
    bytes
        .try_into()
        .ok()
        .map(|octets| MacAddr(octets).to_string())
}

fn address(address: Option<&types::IpAddress>) -> Option<String> {
    IpAddr::try_from(address?)
        .ok()
        .map(|address| address.to_string())
}

fn spi(number: u32) -> String {
    format!("{number:08x}")
}

pub(super) fn interfaces(reply: &bus::ShowInterfacesReply) -> Vec<Interface> {
    let mut rows: Vec<_> = reply
        .interfaces
        .iter()
        .map(|interface| Interface {
            name: interface.name.clone(),
            state: match (
                interface.admin_up,
                interface.link_up,
                interface.addresses_ready,
            ) {
                (false, ..) => "disabled",
                (true, false, _) => "no link",
                (true, true, false) => "duplicate detection",
                (true, true, true) => "up",
            },
            mac: mac(&interface.mac),
            mtu: interface.mtu,
            rx_packets: interface.rx_packets,
            rx_bytes: interface.rx_bytes,
            tx_packets: interface.tx_packets,
            tx_bytes: interface.tx_bytes,
            drops: interface.drops,
            driver: (!interface.driver.is_empty()).then(|| interface.driver.clone()),
        })
        .collect();
    rows.sort_by(|one, two| one.name.cmp(&two.name));
    rows
}

pub(super) fn routes(routes: &[bus::RouteState]) -> Vec<Route> {
    use bus::route_state::Source;
    let named = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    let route = |route: &bus::RouteState| {
        let next_hops: Vec<_> = route
            .hops
            .iter()
            .map(|hop| NextHop {
                gateway: address(hop.gateway.as_ref()),
                interface: named(&hop.interface),
                vrf: named(&hop.vrf),
                mac: mac(&hop.mac),
                state: hop.state.clone(),
            })
            .collect();
        Route {
            vrf: route.vrf.clone(),
            destination: network(route.destination.as_ref()),
            source: match route.source() {
                Source::Local => "local",
                Source::Connected => "connected",
                Source::Configured => "configured",
                Source::Learnt => "learnt",
                Source::Neighbour => "neighbour",
                Source::Unspecified => "-",
            },
            active: route.active,
            via: next_hops.iter().map(NextHop::way).collect(),
            next_hops,
        }
    };
    routes.iter().map(route).collect()
}

fn network(prefix: Option<&types::IpPrefix>) -> String {
    prefix.map_or_else(String::new, |prefix| {
        let network = address(prefix.address.as_ref()).unwrap_or_default();
        format!("{network}/{}", prefix.length)
    })
}

pub(super) fn neighbours(reply: &bus::ShowNeighboursReply) -> Vec<Neighbour> {
    use bus::neighbour_state::State;
    reply
        .neighbours
        .iter()
        .map(|neighbour| Neighbour {
            interface: neighbour.interface.clone(),
            address: address(neighbour.address.as_ref()),
            mac: mac(&neighbour.mac),
            state: match neighbour.state() {
                State::Incomplete => "incomplete",
                State::Reachable => "reachable",
                State::Delay => "delay",
                State::Probe => "probe",
                State::Unspecified => "-",
            },
            age_s: neighbour.age_s,
        })
        .collect()
}

pub(super) fn ikes(reply: &bus::ShowIkeReply) -> Vec<Ike> {
    let end = |address: &str, identity: &str| format!("{address} ({identity})");
    reply
        .ikes
        .iter()
        .map(|ike| Ike {
            connection: ike.connection.clone(),
            unique_id: ike.unique_id,
            state: ike.state.clone(),
            local: end(&ike.local_address, &ike.local_id),
            remote: end(&ike.remote_address, &ike.remote_id),
            proposal: ike.proposal.clone(),
            established_s: ike.established_s,
            initiator: ike.initiator,
        })
        .collect()
}

pub(super) fn children(reply: &bus::ShowIkeReply) -> Vec<Child> {
    reply
        .ikes
        .iter()
        .flat_map(|ike| ike.children.iter().map(move |child| (ike, child)))
        .map(|(ike, child)| Child {
            connection: ike.connection.clone(),
            name: child.name.clone(),
            state: child.state.clone(),
            spi_in: spi(child.spi_in),
            spi_out: spi(child.spi_out),
            proposal: child.proposal.clone(),
            local_selectors: child.local_selectors.clone(),
            remote_selectors: child.remote_selectors.clone(),
        })
        .collect()
}

pub(super) fn sas(reply: &bus::DumpSasReply) -> Vec<Sa> {
    let mut rows: Vec<_> = reply
        .sas
        .iter()
        .filter_map(|dump| {
            let (sa, usage) = (dump.sa.as_ref()?, dump.usage.as_ref()?);
            let key = sa.key.as_ref()?;
            Some(Sa {
                spi: spi(key.spi),
                direction: match key.direction() {
                    bus::Direction::Out => "out",
                    _ => "in",
                },
                source: address(sa.source.as_ref()),
                destination: address(key.destination.as_ref()),
                algorithm: service::sa_from_bus(sa)
                    .map_or_else(|error| error.to_string(), |spec| spec.suite.to_string()),
                esn: sa.esn,
                udp: sa.udp.is_some(),
                source_port: sa.udp.map(|udp| udp.source_port),
                destination_port: sa.udp.map(|udp| udp.destination_port),
                if_id: sa.if_id,
                packets: usage.packets,
                bytes: usage.bytes,
                replayed: usage.replayed,
                late: usage.late,
                lost: usage.lost,
                bad_icv: usage.bad_icv,
            })
        })
        .collect();
    rows.sort_by(|one, two| {
        (one.if_id, one.direction, &one.spi).cmp(&(two.if_id, two.direction, &two.spi))
    });
    rows
}

pub(super) fn policies(reply: &bus::DumpSasReply) -> Vec<Policy> {
    reply
        .policies
        .iter()
        .filter_map(|policy| {
            let key = policy.key.as_ref()?;
            let spec = service::policy_from_bus(policy).ok()?;
            let selector = spec.id.selector;
            let end = |range: AddressRange, ports| traffic(range, selector.protocol, ports);
            Some(Policy {
                direction: match key.direction() {
                    bus::policy_key::Direction::Out => "out",
                    bus::policy_key::Direction::Forward => "forward",
                    _ => "in",
                },
                if_id: key.if_id,
                source: end(selector.source, selector.source_ports),
                destination: end(selector.destination, selector.destination_ports),
                action: match policy.action() {
                    bus::policy::Action::Protect => "protect",
                    bus::policy::Action::Bypass => "bypass",
                    _ => "discard",
                },
                priority: policy.priority,
                spi: (key.spi != 0).then(|| spi(key.spi)),
            })
        })
        .collect()
}

/// As strongSwan writes it: `10.1.0.0/24[udp/500]`.
fn traffic(range: AddressRange, protocol: Option<Protocol>, ports: PortRange) -> String {
    let ports = match (ports.first(), ports.last()) {
        (0, u16::MAX) => None,
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    };
    match (protocol, ports) {
        (None, None) => range.to_string(),
        (Some(protocol), None) => format!("{range}[{protocol}]"),
        (None, Some(ports)) => format!("{range}[/{ports}]"),
        (Some(protocol), Some(ports)) => format!("{range}[{protocol}/{ports}]"),
    }
}

pub(super) fn reassembly(reply: &bus::ShowReassemblyReply) -> Vec<Reassembly> {
    reply
        .workers
        .iter()
        .map(|worker| Reassembly {
            worker: worker.worker,
            packets: worker.packets,
            most_packets: reply.most_packets,
            fragments: worker.fragments,
            most_fragments: reply.most_fragments,
            timeout_ms: reply.timeout_ms,
            timeout6_ms: reply.timeout6_ms,
            reassembled: worker.reassembled,
            ports_packets: worker.ports_packets,
            ports_fragments: worker.ports_fragments,
        })
        .collect()
}

pub(super) fn paths(reply: &bus::ShowPathsReply) -> Vec<Path> {
    reply
        .paths
        .iter()
        .map(|path| Path {
            vrf: path.vrf.clone(),
            peer: address(path.peer.as_ref()),
            mtu: path.mtu,
            age_s: path.age_s,
        })
        .collect()
}

pub(super) fn verdicts(reply: &bus::ShowPathsReply) -> Vec<Verdict> {
    reply
        .verdicts
        .iter()
        .map(|verdict| Verdict {
            outcome: verdict.verdict.clone(),
            messages: verdict.messages,
            meaning: verdict.meaning.clone(),
        })
        .collect()
}

pub(super) fn drops(reply: &bus::ShowDropsReply, all: bool) -> Vec<Drop> {
    let mut rows: Vec<_> = reply
        .drops
        .iter()
        .filter(|drop| all || drop.packets > 0)
        .map(|drop| Drop {
            reason: drop.reason.clone(),
            packets: drop.packets,
            meaning: drop.meaning.clone(),
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
    rows
}

pub(super) fn nodes(reply: &bus::ShowNodesReply, all: bool) -> Vec<Node> {
    let share = |of: u64, by: u64| (by > 0).then(|| of as f64 / by as f64);
    reply
        .nodes
        .iter()
        .filter(|node| all || node.packets > 0)
        .map(|node| Node {
            name: node.name.clone(),
            worker: node.worker,
            vectors: node.vectors,
            packets: node.packets,
            packets_per_vector: share(node.packets, node.vectors),
            clocks_per_packet: share(node.clocks, node.packets),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::table::render;

    #[test]
    fn a_route_says_by_whom_and_why_not() {
        let hop = |gateway: Option<[u8; 4]>, interface: &str, vrf: &str, state: &str| {
            let mac = if state == "resolved" {
                vec![2; 6]
            } else {
                Vec::new()
            };
            bus::RouteHop {
                gateway: gateway.map(|gateway| IpAddr::from(gateway).into()),
                interface: interface.to_owned(),
                vrf: vrf.to_owned(),
                mac,
                state: state.to_owned(),
            }
        };
        let route = |active, hops| bus::RouteState {
            vrf: "default".to_owned(),
            destination: Some(types::IpPrefix {
                address: Some(IpAddr::from([10, 2, 0, 0]).into()),
                length: 16,
            }),
            source: bus::route_state::Source::Configured.into(),
            active,
            hops,
        };
        let (near, far) = (Some([192, 0, 2, 1]), Some([192, 0, 2, 9]));
        let rows = routes(&[
            route(
                true,
                vec![
                    hop(near, "wan", "", "resolved"),
                    hop(far, "wan", "", "unresolved"),
                ],
            ),
            route(
                false,
                vec![
                    hop(far, "", "blue", "no-route"),
                    hop(None, "", "blue", "lookup"),
                ],
            ),
            route(true, vec![hop(None, "ipsec0", "", "tunnel")]),
        ]);
        assert_eq!(
            render(&rows),
            "vrf      destination  source      active  via                          state\n\
             default  10.2.0.0/16  configured  yes     192.0.2.1%wan 192.0.2.9%wan  resolved (02:02:02:02:02:02), unresolved\n\
             default  10.2.0.0/16  configured  no      192.0.2.9@vrf:blue vrf:blue  no-route, lookup\n\
             default  10.2.0.0/16  configured  yes     ipsec0                       tunnel\n"
        );
    }
}
