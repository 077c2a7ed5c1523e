//! From the answers of the bus to what is told of the gateway.

use std::net::IpAddr;

use culvert_model::state::{
    ChildState, ClockState, DhcpClientState, DropState, IkeState, InterfaceState, NeighbourState,
    NextHopState, NodeState, NtpServerState, PathState, PolicyState, ProcessState, ReassemblyState,
    RouteState, SaState, Standing, SystemState, TooBigState, ValueState,
};
use culvert_model::{bus, types};
use culvert_net::{AddressRange, Flow, MacAddr, Protocol};

fn mac(bytes: &[u8]) -> Option<String> {
    let octets = bytes.try_into().ok()?;
    Some(MacAddr(octets).to_string())
}

fn address(address: Option<&types::IpAddress>) -> Option<String> {
    Some(IpAddr::try_from(address?).ok()?.to_string())
}

fn network(prefix: Option<&types::IpPrefix>) -> Option<String> {
    let prefix = prefix?;
    let network = address(prefix.address.as_ref())?;
    Some(format!("{network}/{}", prefix.length))
}

fn spi(number: u32) -> String {
    format!("{number:08x}")
}

/// What is not known is absent.
fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn system(processes: bus::ShowProcessesReply, plan: &bus::ShowPlanReply) -> SystemState {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| Some(part.to_string_lossy().into_owned());
    SystemState {
        host_name: text(uname.nodename()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kernel: text(uname.release()),
        uptime: Some(processes.uptime_s),
        ready: Some(processes.ready),
        healthy: Some(processes.healthy),
        stopping: Some(processes.stopping),
        revision: Some(plan.revision),
        wanted: Some(plan.wanted.into()),
        applied: Some(plan.applied.into()),
        processes: processes
            .processes
            .into_iter()
            .map(|process| ProcessState {
                name: Some(process.name),
                state: Some(process.state),
                pid: process.pid,
                restarts: Some(process.restarts),
            })
            .collect(),
        ..SystemState::default()
    }
}

pub(super) fn clock(reply: bus::ShowClockReply) -> ClockState {
    use bus::clock_source::State;
    let synchronised = reply.synchronised;
    let server = |server: bus::ClockSource| {
        let state = match server.state() {
            State::Selected => "selected",
            State::Combined => "combined",
            State::NotCombined => "not combined",
            State::Unusable => "unusable",
            State::Falseticker => "falseticker",
            State::Unsteady => "unsteady",
            State::Unspecified => "-",
        };
        // Of what was never heard nothing is known.
        let heard = server.last_heard_s.is_some();
        NtpServerState {
            host: Some(server.host),
            state: Some(state.to_owned()),
            stratum: heard.then_some(server.stratum),
            reach: Some(server.reach),
            last_heard: server.last_heard_s,
            offset: heard.then_some(server.offset_ns),
            ahead: heard.then_some(server.ahead),
            error: heard.then_some(server.error_ns),
        }
    };
    ClockState {
        synchronised: Some(synchronised),
        source: some(reply.source),
        stratum: synchronised.then_some(reply.stratum),
        offset: synchronised.then_some(reply.offset_ns),
        ahead: synchronised.then_some(reply.ahead),
        ntp_servers: reply.sources.into_iter().map(server).collect(),
    }
}

pub(super) fn values(unsettled: Vec<bus::Unsettled>) -> Vec<ValueState> {
    use bus::unsettled::Standing as Is;
    let value = |value: bus::Unsettled| ValueState {
        standing: Some(
            match value.standing() {
                Is::Pending => Standing::Pending,
                Is::Failed => Standing::Failed,
                Is::Invalid => Standing::Invalid,
                Is::Retrying => Standing::Retrying,
                Is::Applying | Is::Unspecified => Standing::Applying,
                Is::Removing => Standing::Removing,
                Is::Discovered => Standing::Discovered,
                Is::PartAway => Standing::Away,
                Is::Configured => Standing::Configured,
                Is::Obtained => Standing::Obtained,
                Is::Removed => Standing::Removed,
            }
            .into(),
        ),
        key: Some(value.key),
        reason: Some(if value.missing.is_empty() {
            value.reason
        } else {
            format!("waits for {}", value.missing.join(", "))
        }),
        origins: value.origins,
        fields: value.fields,
    };
    unsettled.into_iter().map(value).collect()
}

/// What was counted since it was cleared.
fn since(now: u64, cleared: u64) -> u64 {
    now.saturating_sub(cleared)
}

pub(super) fn interfaces(reply: bus::ShowInterfacesReply) -> Vec<InterfaceState> {
    let mut rows: Vec<_> = reply
        .interfaces
        .into_iter()
        .map(|interface| {
            let state = match (
                interface.admin_up,
                interface.link_up,
                interface.addresses_ready,
            ) {
                (false, ..) => "disabled",
                (true, false, _) => "no link",
                (true, true, false) => "duplicate detection",
                (true, true, true) => "up",
            };
            let cleared = interface.cleared.unwrap_or_default();
            InterfaceState {
                name: Some(interface.name),
                state: Some(state.to_owned()),
                mac: mac(&interface.mac),
                mtu: Some(interface.mtu),
                rx_packets: Some(since(interface.rx_packets, cleared.rx_packets)),
                rx_bytes: Some(since(interface.rx_bytes, cleared.rx_bytes)),
                tx_packets: Some(since(interface.tx_packets, cleared.tx_packets)),
                tx_bytes: Some(since(interface.tx_bytes, cleared.tx_bytes)),
                drops: Some(since(interface.drops, cleared.drops)),
                driver: some(interface.driver),
                addresses: interface
                    .addresses
                    .iter()
                    .filter_map(|one| network(Some(one)))
                    .collect(),
            }
        })
        .collect();
    rows.sort_by(|one, two| one.name.cmp(&two.name));
    rows
}

/// As a way is configured: who, by what, in whose routes.
fn way(hop: &NextHopState) -> String {
    let vrf = hop.vrf.as_ref().map(|vrf| format!("vrf:{vrf}"));
    match (&hop.gateway, &hop.interface, vrf) {
        (Some(gateway), Some(interface), _) => format!("{gateway}%{interface}"),
        (Some(gateway), None, Some(vrf)) => format!("{gateway}@{vrf}"),
        (Some(gateway), None, None) => gateway.clone(),
        (None, Some(interface), _) => interface.clone(),
        (None, None, Some(vrf)) => vrf,
        // Nowhere; the state says why.
        (None, None, None) => "-".to_owned(),
    }
}

pub(super) fn routes(routes: Vec<bus::RouteState>) -> Vec<RouteState> {
    use bus::route_state::Source;
    let route = |route: bus::RouteState| {
        let source = match route.source() {
            Source::Local => "local",
            Source::Connected => "connected",
            Source::Configured => "configured",
            Source::Learnt => "learnt",
            Source::Neighbour => "neighbour",
            Source::Unspecified => "-",
        };
        let next_hops: Vec<_> = route
            .hops
            .into_iter()
            .map(|hop| NextHopState {
                gateway: address(hop.gateway.as_ref()),
                interface: some(hop.interface),
                vrf: some(hop.vrf),
                mac: mac(&hop.mac),
                state: Some(hop.state),
            })
            .collect();
        RouteState {
            vrf: Some(route.vrf),
            destination: network(route.destination.as_ref()),
            source: Some(source.to_owned()),
            active: Some(route.active),
            via: next_hops.iter().map(way).collect(),
            next_hops,
        }
    };
    routes.into_iter().map(route).collect()
}

pub(super) fn neighbours(reply: bus::ShowNeighboursReply) -> Vec<NeighbourState> {
    use bus::neighbour_state::State;
    let neighbour = |neighbour: bus::NeighbourState| NeighbourState {
        address: address(neighbour.address.as_ref()),
        mac: mac(&neighbour.mac),
        state: Some(
            match neighbour.state() {
                State::Incomplete => "incomplete",
                State::Reachable => "reachable",
                State::Delay => "delay",
                State::Probe => "probe",
                State::Unspecified => "-",
            }
            .to_owned(),
        ),
        age_s: Some(neighbour.age_s),
        interface: Some(neighbour.interface),
    };
    reply.neighbours.into_iter().map(neighbour).collect()
}

pub(super) fn dhcp(reply: bus::ShowDhcpReply) -> Vec<DhcpClientState> {
    use bus::dhcp_client_state::State;
    let route = |route: &bus::DhcpRoute| {
        let destination = network(route.destination.as_ref())?;
        Some(match address(route.gateway.as_ref()) {
            Some(gateway) => format!("{destination} via {gateway}"),
            None => destination,
        })
    };
    let client = |client: bus::DhcpClientState| {
        let state = match client.state() {
            State::Init => "init",
            State::Selecting => "selecting",
            State::Requesting => "requesting",
            State::Rebooting => "rebooting",
            State::Bound => "bound",
            State::Renewing => "renewing",
            State::Rebinding => "rebinding",
            State::Unspecified => "-",
        };
        let lease = client.lease.as_ref();
        let seconds = |part: fn(&bus::DhcpLease) -> u32| lease.map(part);
        DhcpClientState {
            interface: Some(client.interface.clone()),
            state: Some(state.to_owned()),
            address: lease.and_then(|lease| network(lease.address.as_ref())),
            server: lease.and_then(|lease| address(lease.server.as_ref())),
            routes: lease.map_or_else(Vec::new, |lease| {
                lease.routes.iter().filter_map(route).collect()
            }),
            dns_servers: lease.map_or_else(Vec::new, |lease| {
                let servers = lease.dns_servers.iter();
                servers.filter_map(|server| address(Some(server))).collect()
            }),
            domain: lease.and_then(|lease| some(lease.domain.clone())),
            duration_s: seconds(|lease| lease.duration_s),
            renew_s: seconds(|lease| lease.renew_s),
            rebind_s: seconds(|lease| lease.rebind_s),
            expire_s: seconds(|lease| lease.expire_s),
            sent: Some(client.sent),
            received: Some(client.received),
            refused: client
                .refusals
                .iter()
                .map(|refusal| format!("{} {}", refusal.count, refusal.reason))
                .collect(),
        }
    };
    reply.clients.into_iter().map(client).collect()
}

pub(super) fn ikes(reply: &bus::ShowIkeReply) -> Vec<IkeState> {
    let end = |address: &str, identity: &str| Some(format!("{address} ({identity})"));
    let ike = |ike: &bus::IkeState| IkeState {
        connection: Some(ike.connection.clone()),
        unique_id: Some(ike.unique_id),
        state: Some(ike.state.clone()),
        local: end(&ike.local_address, &ike.local_id),
        remote: end(&ike.remote_address, &ike.remote_id),
        proposal: Some(ike.proposal.clone()),
        established_s: Some(ike.established_s),
        initiator: Some(ike.initiator),
    };
    reply.ikes.iter().map(ike).collect()
}

pub(super) fn children(reply: bus::ShowIkeReply) -> Vec<ChildState> {
    let mut children = Vec::new();
    for ike in reply.ikes {
        children.extend(ike.children.into_iter().map(|child| ChildState {
            connection: Some(ike.connection.clone()),
            name: Some(child.name),
            state: Some(child.state),
            spi_in: Some(spi(child.spi_in)),
            spi_out: Some(spi(child.spi_out)),
            proposal: Some(child.proposal),
            local_selectors: child.local_selectors,
            remote_selectors: child.remote_selectors,
        }));
    }
    children
}

/// As strongSwan names it in a proposal.
fn algorithm(sa: &bus::Sa) -> String {
    use bus::{EncryptionAlgorithm as Encryption, IntegrityAlgorithm as Integrity};
    let bits = sa.encryption_key_bits;
    let cipher = match sa.encryption() {
        Encryption::AesGcm16 => format!("aes{bits}gcm16"),
        Encryption::AesGcm12 => format!("aes{bits}gcm12"),
        Encryption::AesGcm8 => format!("aes{bits}gcm8"),
        Encryption::AesGmac => format!("aes{bits}gmac"),
        Encryption::AesCbc => format!("aes{bits}"),
        Encryption::AesCtr => format!("aes{bits}ctr"),
        Encryption::Null => "null".to_owned(),
        Encryption::Chacha20Poly1305 => "chacha20poly1305".to_owned(),
        Encryption::Unspecified => "-".to_owned(),
    };
    let integrity = match sa.integrity() {
        Integrity::Aead | Integrity::Unspecified => "",
        Integrity::HmacSha196 => "-sha1",
        Integrity::HmacSha2256128 => "-sha256",
        Integrity::HmacSha2384192 => "-sha384",
        Integrity::HmacSha2512256 => "-sha512",
    };
    cipher + integrity
}

pub(super) fn sas(reply: &bus::DumpSasReply) -> Vec<SaState> {
    let mut rows: Vec<_> = reply
        .sas
        .iter()
        .filter_map(|dump| {
            let (sa, usage) = (dump.sa.as_ref()?, dump.usage.as_ref()?);
            let key = sa.key.as_ref()?;
            let cleared = dump.cleared.clone().unwrap_or_default();
            let direction = match key.direction() {
                bus::Direction::Out => "out",
                _ => "in",
            };
            Some(SaState {
                spi: Some(spi(key.spi)),
                direction: Some(direction.to_owned()),
                source: address(sa.source.as_ref()),
                destination: address(key.destination.as_ref()),
                algorithm: Some(algorithm(sa)),
                esn: Some(sa.esn),
                udp: Some(sa.udp.is_some()),
                source_port: sa.udp.map(|udp| udp.source_port),
                destination_port: sa.udp.map(|udp| udp.destination_port),
                if_id: Some(sa.if_id),
                packets: Some(since(usage.packets, cleared.packets)),
                bytes: Some(since(usage.bytes, cleared.bytes)),
                replayed: Some(since(usage.replayed, cleared.replayed)),
                late: Some(since(usage.late, cleared.late)),
                lost: Some(since(usage.lost, cleared.lost)),
                bad_icv: Some(since(usage.bad_icv, cleared.bad_icv)),
            })
        })
        .collect();
    rows.sort_by(|one, two| {
        (one.if_id, &one.direction, &one.spi).cmp(&(two.if_id, &two.direction, &two.spi))
    });
    rows
}

pub(super) fn policies(reply: &bus::DumpSasReply) -> Vec<PolicyState> {
    let policy = |policy: &bus::Policy| {
        let key = policy.key.as_ref()?;
        let (source, destination) = (key.source.as_ref()?, key.destination.as_ref()?);
        // Each end may leave the protocol to the other.
        let protocol = match (source.protocol, destination.protocol) {
            (0, any) | (any, _) => u8::try_from(any).ok()?,
        };
        let protocol = (protocol != 0).then_some(Protocol(protocol));
        let direction = match key.direction() {
            bus::policy_key::Direction::Out => "out",
            bus::policy_key::Direction::Forward => "forward",
            _ => "in",
        };
        let action = match policy.action() {
            bus::policy::Action::Protect => "protect",
            bus::policy::Action::Bypass => "bypass",
            _ => "discard",
        };
        Some(PolicyState {
            direction: Some(direction.to_owned()),
            if_id: Some(key.if_id),
            source: Some(traffic(source, protocol)?),
            destination: Some(traffic(destination, protocol)?),
            action: Some(action.to_owned()),
            priority: Some(policy.priority),
            spi: (key.spi != 0).then(|| spi(key.spi)),
        })
    };
    reply.policies.iter().filter_map(policy).collect()
}

/// As strongSwan writes it: `10.1.0.0/24[udp/500]`.
fn traffic(selector: &types::Selector, protocol: Option<Protocol>) -> Option<String> {
    let end = |address: Option<&types::IpAddress>| IpAddr::try_from(address?).ok();
    let range =
        AddressRange::new(end(selector.first.as_ref())?, end(selector.last.as_ref())?).ok()?;
    let ports = match (selector.first_port, selector.last_port) {
        (0, 65535) => None,
        // What has no ports is given with zeros by some.
        (0, 0) if !protocol.is_some_and(Flow::has_ports) => None,
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    };
    Some(match (protocol, ports) {
        (None, None) => range.to_string(),
        (Some(protocol), None) => format!("{range}[{protocol}]"),
        (None, Some(ports)) => format!("{range}[/{ports}]"),
        (Some(protocol), Some(ports)) => format!("{range}[{protocol}/{ports}]"),
    })
}

pub(super) fn reassembly(reply: &bus::ShowReassemblyReply) -> Vec<ReassemblyState> {
    let worker = |worker: &bus::ReassemblyState| ReassemblyState {
        worker: Some(worker.worker),
        packets: Some(worker.packets),
        most_packets: Some(reply.most_packets),
        fragments: Some(worker.fragments),
        most_fragments: Some(reply.most_fragments),
        timeout_ms: Some(reply.timeout_ms),
        timeout6_ms: Some(reply.timeout6_ms),
        reassembled: Some(worker.reassembled),
        ports_packets: Some(worker.ports_packets),
        ports_fragments: Some(worker.ports_fragments),
    };
    reply.workers.iter().map(worker).collect()
}

pub(super) fn paths(reply: &bus::ShowPathsReply) -> Vec<PathState> {
    let path = |path: &bus::PathState| PathState {
        vrf: Some(path.vrf.clone()),
        peer: address(path.peer.as_ref()),
        mtu: Some(path.mtu),
        age_s: Some(path.age_s),
    };
    reply.paths.iter().map(path).collect()
}

pub(super) fn too_big(reply: bus::ShowPathsReply) -> Vec<TooBigState> {
    let verdict = |verdict: bus::PathVerdict| TooBigState {
        outcome: Some(verdict.verdict),
        messages: Some(since(verdict.messages, verdict.cleared)),
        meaning: Some(verdict.meaning),
    };
    reply.verdicts.into_iter().map(verdict).collect()
}

pub(super) fn drops(reply: bus::ShowDropsReply) -> Vec<DropState> {
    let drop = |drop: bus::DropCounter| DropState {
        reason: Some(drop.reason),
        packets: Some(since(drop.packets, drop.cleared)),
        meaning: Some(drop.meaning),
    };
    let mut rows: Vec<_> = reply.drops.into_iter().map(drop).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
    rows
}

pub(super) fn nodes(reply: bus::ShowNodesReply) -> Vec<NodeState> {
    let node = |node: bus::NodeCounters| NodeState {
        name: Some(node.name),
        worker: Some(node.worker),
        vectors: Some(node.vectors),
        packets: Some(node.packets),
        clocks: Some(node.clocks),
    };
    reply.nodes.into_iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn selector(first: &str, last: &str, protocol: u32, ports: (u32, u32)) -> types::Selector {
        types::Selector {
            first: Some(first.parse::<IpAddr>().unwrap().into()),
            last: Some(last.parse::<IpAddr>().unwrap().into()),
            protocol,
            first_port: ports.0,
            last_port: ports.1,
        }
    }

    #[test]
    fn each_standing_has_its_own_name() {
        use bus::unsettled::Standing as Is;
        let standing = |standing: Is| {
            let rows = values(vec![bus::Unsettled {
                standing: standing.into(),
                fields: vec!["mtu".to_owned()],
                ..bus::Unsettled::default()
            }]);
            assert_eq!(rows[0].fields, ["mtu"]);
            rows[0].standing()
        };
        for (is, told) in [
            (Is::Invalid, Standing::Invalid),
            (Is::Failed, Standing::Failed),
            (Is::Discovered, Standing::Discovered),
            (Is::Removing, Standing::Removing),
            (Is::Obtained, Standing::Obtained),
            (Is::Removed, Standing::Removed),
        ] {
            assert_eq!(standing(is), told);
        }
    }

    #[test]
    fn a_policy_is_written_as_strongswan_does() {
        let policy = bus::Policy {
            key: Some(bus::PolicyKey {
                direction: bus::policy_key::Direction::Out.into(),
                if_id: 3,
                source: Some(selector("10.1.0.0", "10.1.0.255", 17, (0, 65535))),
                destination: Some(selector("10.2.0.1", "10.2.0.9", 17, (500, 500))),
                spi: 0xc1,
            }),
            action: bus::policy::Action::Protect.into(),
            ..bus::Policy::default()
        };
        let reply = bus::DumpSasReply {
            policies: vec![policy],
            ..bus::DumpSasReply::default()
        };
        let rows = policies(&reply);
        assert_eq!(rows[0].source(), "10.1.0.0/24[udp]");
        assert_eq!(rows[0].destination(), "10.2.0.1-10.2.0.9[udp/500]");
        assert_eq!((rows[0].direction(), rows[0].spi()), ("out", "000000c1"));
    }

    #[test]
    fn ways_say_who_by_what_and_in_whose_routes() {
        let hop = |gateway: &str, interface: &str, vrf: &str| bus::RouteHop {
            gateway: gateway.parse::<IpAddr>().ok().map(Into::into),
            interface: interface.to_owned(),
            vrf: vrf.to_owned(),
            ..bus::RouteHop::default()
        };
        let route = bus::RouteState {
            hops: vec![
                hop("192.0.2.1", "wan", ""),
                hop("192.0.2.9", "", "blue"),
                hop("", "ipsec0", ""),
                hop("", "", "blue"),
                hop("", "", ""),
            ],
            ..bus::RouteState::default()
        };
        let rows = routes(vec![route]);
        assert_eq!(
            rows[0].via,
            [
                "192.0.2.1%wan",
                "192.0.2.9@vrf:blue",
                "ipsec0",
                "vrf:blue",
                "-"
            ]
        );
    }

    #[test]
    fn counters_are_shown_since_they_were_cleared() {
        let interface = |cleared| bus::InterfaceState {
            rx_packets: 100,
            rx_bytes: 1000,
            drops: 7,
            cleared,
            ..bus::InterfaceState::default()
        };
        let base = bus::InterfaceCounters {
            rx_packets: 90,
            rx_bytes: 1000,
            drops: 2,
            ..bus::InterfaceCounters::default()
        };
        let rows = interfaces(bus::ShowInterfacesReply {
            interfaces: vec![interface(None), interface(Some(base))],
            ..bus::ShowInterfacesReply::default()
        });
        let seen = |at: usize| {
            let row: &InterfaceState = &rows[at];
            [
                row.rx_packets(),
                row.rx_bytes(),
                row.tx_packets(),
                row.drops(),
            ]
        };
        assert_eq!(seen(0), [100, 1000, 0, 7]);
        assert_eq!(seen(1), [10, 0, 0, 5]);

        let rows = drops(bus::ShowDropsReply {
            drops: vec![bus::DropCounter {
                packets: 5,
                cleared: 5,
                ..bus::DropCounter::default()
            }],
        });
        assert_eq!(rows[0].packets(), 0);

        let usage = |packets, bad_icv| bus::SaUsage {
            packets,
            bad_icv,
            ..bus::SaUsage::default()
        };
        let sa = bus::Sa {
            key: Some(bus::SaKey::default()),
            ..bus::Sa::default()
        };
        let rows = sas(&bus::DumpSasReply {
            sas: vec![bus::SaDump {
                sa: Some(sa),
                usage: Some(usage(50, 3)),
                cleared: Some(usage(20, 3)),
                ..bus::SaDump::default()
            }],
            ..bus::DumpSasReply::default()
        });
        assert_eq!((rows[0].packets(), rows[0].bad_icv()), (30, 0));
    }

    #[test]
    fn algorithms_are_named_as_in_proposals() {
        use bus::{EncryptionAlgorithm as E, IntegrityAlgorithm as I};
        let sa =
            |encryption: bus::EncryptionAlgorithm, integrity: bus::IntegrityAlgorithm| bus::Sa {
                encryption: encryption.into(),
                encryption_key_bits: 256,
                integrity: integrity.into(),
                ..bus::Sa::default()
            };
        assert_eq!(algorithm(&sa(E::AesGcm16, I::Aead)), "aes256gcm16");
        assert_eq!(
            algorithm(&sa(E::AesCbc, I::HmacSha2256128)),
            "aes256-sha256"
        );
        assert_eq!(algorithm(&sa(E::Null, I::HmacSha2512256)), "null-sha512");
    }
}
