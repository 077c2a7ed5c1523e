//! Connections: who to negotiate with, what to protect, by which credentials.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::credentials::credential_key;
use super::eap::{self, Passwords};
use super::keys::RESOLVER;
use super::linux::source_address;
use super::ports::{Ports, default_vrf};
use super::routes::Routes;
use super::static_routes::Ways;
use super::{Before, Entry, Key, Part, PlanReason, Planned, Planner, unchanged};
use crate::bus::{self, value::Kind};
use crate::config::{
    Authentication, AuthenticationMethod, Child, ChildMode, Config, Connection, Credentials,
    IpTunnelMode, Proposal, StartAction, TrafficSelector,
};
use crate::decode::path;

/// A silent peer is asked after this many seconds unless said otherwise.
const DEFAULT_DPD_DELAY: u32 = 30;
/// RFC 4303 section 3.4.3 recommends 64 at least; several workers and several uplinks reorder more than that.
const DEFAULT_REPLAY_WINDOW: u32 = 1024;
/// All traffic of a route-based tunnel: the routes choose.
const ALL_TRAFFIC: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// All traffic of a GRE tunnel: protocol 47 between the two ends of the IKE_SA.
const BETWEEN_ENDS_GRE: [&str; 1] = ["dynamic[47]"];
/// All traffic of an IPIP tunnel: IPv4 and IPv6 between the two ends of the IKE_SA.
const BETWEEN_ENDS_IPIP: [&str; 2] = ["dynamic[4]", "dynamic[41]"];

/// The VRF that IKE runs in: there is one charon, so there is one.
pub(super) fn underlay_vrf(config: &Config, planner: &mut Planner) -> String {
    let tunnels = tunnels(config);
    let mut first: Option<(String, String)> = None;
    for connection in &config.connections {
        for child in &connection.children {
            let Some(tunnel) = tunnels.get(child.tunnel()) else {
                continue;
            };
            let vrf = tunnel.underlay_vrf.clone().unwrap_or_else(default_vrf);
            match &first {
                None => first = Some((vrf, child_path(connection, child))),
                Some((used, other)) if *used != vrf => planner.refuse(
                    path::field(&child_path(connection, child), "tunnel"),
                    PlanReason::SecondUnderlay {
                        first: used.clone(),
                        other: other.clone(),
                    },
                ),
                Some(_) => {}
            }
        }
    }
    first.map_or_else(default_vrf, |(vrf, _)| vrf)
}

/// Tunnels by name.
fn tunnels(config: &Config) -> HashMap<&str, ProtectedTunnel> {
    let ipsec = config.tunnels.iter().map(|tunnel| {
        let protected = ProtectedTunnel {
            if_id: tunnel.if_id,
            underlay_vrf: tunnel.underlay_vrf.clone(),
            carries: None,
        };
        (tunnel.name(), protected)
    });
    let ip = config.ip_tunnels.iter().map(|tunnel| {
        let protected = ProtectedTunnel {
            if_id: tunnel.if_id,
            underlay_vrf: tunnel.underlay_vrf.clone(),
            carries: Some(tunnel.mode()),
        };
        (tunnel.name(), protected)
    });
    ipsec.chain(ip).collect()
}

fn connection_path(connection: &Connection) -> String {
    path::item("connections", &[connection.name().to_owned()], 0)
}

fn child_path(connection: &Connection, child: &Child) -> String {
    let list = path::field(&connection_path(connection), "children");
    path::item(&list, &[child.name().to_owned()], 0)
}

/// What is offered and accepted for ESP where the configuration names nothing, best first.
const DEFAULT_ESP: [&str; 2] = [
    "aes128gcm16-aes192gcm16-aes256gcm16",
    "aes128-aes192-aes256-sha256-sha384-sha512-sha1",
];

/// What connections refer to, found by name: there are as many of each as there are peers.
struct Known<'a> {
    tunnels: HashMap<&'a str, ProtectedTunnel>,
    /// The addresses that IKE may speak from, with their keys.
    own: Vec<(IpAddr, Key)>,
    /// Names of pre-shared keys by whose they are.
    secrets: HashMap<&'a str, Vec<&'a str>>,
    passwords: Passwords<'a>,
    ways: Ways<'a>,
    routes: &'a Routes,
    underlay: &'a str,
    /// There is a resolver.
    resolved: bool,
}

impl<'a> Known<'a> {
    fn of(
        config: &'a Config,
        ports: &'a Ports,
        routes: &'a Routes,
        underlay: &'a str,
        resolved: bool,
    ) -> Self {
        let own = ports
            .values()
            .filter(|port| port.vrf == underlay && port.tap)
            // What comes out of a tunnel of its own IKE does not see.
            .filter(|port| !port.is_tunnel())
            .flat_map(|port| {
                let addresses = port.addresses.iter();
                addresses.map(|address| (address.prefix.addr(), address.linux_key.clone()))
            })
            .collect();
        let mut secrets: HashMap<&str, Vec<&str>> = HashMap::new();
        let credentials = config.credentials.iter();
        for psk in credentials.flat_map(|credentials| &credentials.pre_shared_keys) {
            for owner in &psk.identities {
                secrets
                    .entry(owner.identity())
                    .or_default()
                    .push(psk.name());
            }
        }
        Self {
            tunnels: tunnels(config),
            own,
            secrets,
            passwords: Passwords::of(config.credentials.as_ref()),
            ways: Ways::new(ports, &routes.known),
            routes,
            underlay,
            resolved,
        }
    }

    /// The key of the Linux address from which a peer is reached.
    fn source_address(&self, remote: IpAddr) -> Option<Key> {
        source_address(&self.ways, self.underlay, remote)
    }

    /// The pre-shared keys that charon may choose between these two. It looks at the other's name first: where a key bears
    /// that, none of the many that bear only our own is chosen.
    fn psk_keys(&self, local: &str, remote: &str) -> Vec<Key> {
        let one_peer = !remote.is_empty() && !remote.contains(['%', '*']);
        if let Some(names) = self.secrets.get(remote).filter(|_| one_peer) {
            return names.iter().map(|name| credential_key(name)).collect();
        }
        ["%any", remote, local]
            .into_iter()
            .enumerate()
            .filter(|(place, owner)| *place < 2 || !owner.is_empty())
            .filter_map(|(_, owner)| self.secrets.get(owner))
            .flatten()
            .map(|name| credential_key(name))
            .collect()
    }
}

/// The connections of a plan.
#[derive(Debug)]
pub(super) struct Connections {
    /// As they stand in the configuration.
    values: Vec<Entry>,
    /// A resolver was planned.
    resolved: bool,
}

/// Plans all connections, and gives their values.
pub(super) fn plan(
    config: &Config,
    ports: &Ports,
    routes: &Routes,
    underlay: &str,
    before: Option<Before<'_>>,
    planner: &mut Planner,
) -> Connections {
    check_child_names(config, planner);
    let resolved = planner.values.contains_key(&Key::from(RESOLVER));
    // What connections refer to is that of before.
    let kept = before.filter(|before| {
        routes.as_before
            && before.kept.connections.resolved == resolved
            && before.config.tunnels == config.tunnels
            && before.config.ip_tunnels == config.ip_tunnels
            && before.config.credentials == config.credentials
    });
    let old = kept.map_or(&[][..], |before| &before.config.connections);
    let same = unchanged(old, &config.connections, Connection::name);
    let known = Known::of(config, ports, routes, underlay, resolved);
    let mut values = Vec::with_capacity(config.connections.len());
    for (connection, same) in config.connections.iter().zip(same) {
        let taken_over = kept
            .zip(same)
            .and_then(|(before, place)| before.kept.connections.values.get(place));
        let own = match taken_over {
            Some(own) => own.clone(),
            None => plan_connection(config, connection, &known, planner),
        };
        planner.share(&own);
        values.push(own);
    }
    Connections { values, resolved }
}

fn check_child_names(config: &Config, planner: &mut Planner) {
    let mut names: HashMap<&str, (&Connection, &Child)> = HashMap::new();
    for connection in &config.connections {
        for child in &connection.children {
            if let Some((other, namesake)) = names.insert(child.name(), (connection, child)) {
                let reason = PlanReason::Taken {
                    what: child.name().to_owned(),
                    other: child_path(other, namesake),
                };
                planner.refuse(path::field(&child_path(connection, child), "name"), reason);
            }
        }
    }
}

fn plan_connection(
    config: &Config,
    connection: &Connection,
    known: &Known<'_>,
    planner: &mut Planner,
) -> Entry {
    let origin = connection_path(connection);
    let named = named_address(connection, known, &origin, planner);
    let mut needs: Vec<Key> = named.into_iter().collect();
    let local = connection.local.clone().unwrap_or_default();
    let remote = connection.remote.clone().unwrap_or_default();
    let remote_address: Option<IpAddr> = connection.remote_address().parse().ok();
    let local_id = identity(&local, connection.local_address.as_deref());
    let remote_id = identity(&remote, remote_address.map(|ip| ip.to_string()).as_deref());
    if remote.method() == AuthenticationMethod::Psk && remote_id.is_empty() {
        let at = path::field(&path::field(&origin, "remote"), "identity");
        planner.refuse(at, PlanReason::NoIdentity);
    }
    needs.extend(eap::plan(connection, &origin, &known.passwords, planner));
    let (reauth, rekey) = (connection.reauth_time(), connection.rekey_time());
    if reauth != 0 && rekey >= reauth {
        let at = path::field(&origin, "reauth_time");
        planner.refuse(at, PlanReason::ReauthBelowRekey { reauth, rekey });
    }
    let rounds = [("local", &local), ("remote", &remote)];
    needs.extend(proofs(
        config,
        rounds,
        [&local_id, &remote_id],
        known,
        &origin,
        planner,
    ));
    needs.sort();
    needs.dedup();
    let children = connection
        .children
        .iter()
        .map(|child| plan_child(connection, child, known, planner))
        .collect();
    let value = bus::Connection {
        name: connection.name().to_owned(),
        local_addresses: connection.local_address.iter().cloned().collect(),
        remote_addresses: connection.remote_address.iter().cloned().collect(),
        ike_proposals: proposals(&connection.proposals),
        local: Some(auth_round(&local, local_id, true)),
        remote: Some(auth_round(&remote, remote_id, false)),
        dpd_delay: connection.dpd_delay.unwrap_or(DEFAULT_DPD_DELAY),
        dpd_timeout: connection.dpd_timeout.unwrap_or(0),
        rekey_time: connection.rekey_time,
        over_time: connection.over_time,
        mobike: connection.mobike.unwrap_or(true),
        force_encap: connection.force_encap.unwrap_or(false),
        children,
        reauth_time: reauth,
    };
    let mut after = vec![Key::from("forwarding")];
    if let Some(remote) = remote_address
        && connection.local_address.is_none()
    {
        after.extend(known.source_address(remote));
    }
    if remote_address.is_none() && known.resolved {
        after.push(Key::from(RESOLVER));
    }
    // IKE begun before the route that leads to the peer would find no way.
    after.extend(remote_address.and_then(|remote| known.routes.linux_key(known.underlay, remote)));
    let key = Key::from(format!("connection/{}", connection.name()));
    let own = Planned {
        needs,
        after,
        ..Planned::new(Kind::Connection(value), Part::Iked, &origin)
    };
    (key, Arc::new(own))
}

/// The credentials that both rounds of authentication stand on.
fn proofs(
    config: &Config,
    rounds: [(&str, &Authentication); 2],
    [local_id, remote_id]: [&String; 2],
    known: &Known<'_>,
    origin: &str,
    planner: &mut Planner,
) -> Vec<Key> {
    let mut needs = Vec::new();
    let none = Credentials::default();
    let credentials = config.credentials.as_ref().unwrap_or(&none);
    for (side, round) in rounds {
        needs.extend(
            round
                .certificates
                .iter()
                .map(|item| credential_key(item.name())),
        );
        needs.extend(
            round
                .ca_certificates
                .iter()
                .map(|item| credential_key(item.name())),
        );
        let at = path::field(origin, side);
        let own = side == "local";
        match round.method() {
            AuthenticationMethod::Psk => {
                let found = known.psk_keys(local_id, remote_id);
                if found.is_empty() {
                    planner.refuse(
                        at,
                        PlanReason::NoPreSharedKey {
                            local: local_id.clone(),
                            remote: remote_id.clone(),
                        },
                    );
                }
                needs.extend(found);
            }
            AuthenticationMethod::Certificate | AuthenticationMethod::EapTls if own => {
                if round.certificates.is_empty() {
                    planner.refuse(path::field(&at, "certificates"), PlanReason::NoCertificate);
                }
                if credentials.private_keys.is_empty() {
                    planner.refuse(path::field(&at, "method"), PlanReason::NoPrivateKey);
                }
                // charon finds the key that belongs to the certificate by itself.
                let keys = credentials.private_keys.iter();
                needs.extend(keys.map(|key| credential_key(key.name())));
            }
            AuthenticationMethod::Certificate | AuthenticationMethod::EapTls => {
                // Without a name any authority that is configured will do.
                if round.certificates.is_empty() && round.ca_certificates.is_empty() {
                    let authorities = credentials.ca_certificates.iter();
                    needs.extend(authorities.map(|item| credential_key(item.name())));
                }
            }
            AuthenticationMethod::EapMschapv2
            | AuthenticationMethod::EapMd5
            | AuthenticationMethod::Unspecified => {}
        }
    }
    needs
}

/// The key of the Linux address that a connection names.
fn named_address(
    connection: &Connection,
    known: &Known<'_>,
    origin: &str,
    planner: &mut Planner,
) -> Option<Key> {
    let text = connection.local_address.as_ref()?;
    let at = path::field(origin, "local_address");
    let Ok(local) = text.parse::<IpAddr>() else {
        let (given, expected) = (text.clone(), "an address");
        planner.refuse(at, PlanReason::Malformed { given, expected });
        return None;
    };
    if let Ok(remote) = connection.remote_address().parse::<IpAddr>()
        && remote.is_ipv4() != local.is_ipv4()
    {
        planner.refuse(
            path::field(origin, "remote_address"),
            PlanReason::OtherFamily {
                gateway: remote.to_string(),
                destination: local.to_string(),
            },
        );
    }
    if let Some((_, key)) = known.own.iter().find(|(address, _)| *address == local) {
        return Some(key.clone());
    }
    let own = known.own.iter();
    let reason = PlanReason::NoSuchAddress {
        address: text.clone(),
        vrf: known.underlay.to_owned(),
        known: own.map(|(address, _)| address.to_string()).collect(),
    };
    planner.refuse(at, reason);
    None
}

/// The identity that a side says, or by default its address; of a certificate charon takes the subject.
fn identity(round: &Authentication, address: Option<&str>) -> String {
    match (&round.identity, round.method()) {
        (Some(identity), _) => identity.clone(),
        (None, AuthenticationMethod::Psk) => address.unwrap_or_default().to_owned(),
        (None, _) => String::new(),
    }
}

fn auth_round(round: &Authentication, identity: String, own: bool) -> bus::AuthRound {
    let method = match round.method() {
        AuthenticationMethod::Certificate => "pubkey",
        _ => eap::method(round).unwrap_or("psk"),
    };
    bus::AuthRound {
        method: method.to_owned(),
        eap_identity: eap::user_name(round, own),
        aaa_identity: round.aaa_identity.clone().unwrap_or_default(),
        identity,
        certificates: round
            .certificates
            .iter()
            .map(|item| item.name().to_owned())
            .collect(),
        ca_certificates: round
            .ca_certificates
            .iter()
            .map(|item| item.name().to_owned())
            .collect(),
    }
}

fn proposals(list: &[Proposal]) -> Vec<String> {
    list.iter().map(|item| item.proposal().to_owned()).collect()
}

/// Those of strongSwan, said outright: its own default offers AES-XCBC-96 as well, which the dataplane does not have, so
/// that a peer which picked it would get an SA that cannot be installed.
fn esp_proposals(list: &[Proposal]) -> Vec<String> {
    let default = || DEFAULT_ESP.iter().map(|&proposal| proposal.to_owned());
    if list.is_empty() {
        return default().collect();
    }
    let mut all = Vec::new();
    for item in list {
        match item.proposal() {
            "default" => all.extend(default()),
            proposal => all.push(proposal.to_owned()),
        }
    }
    all
}

fn selectors(list: &[TrafficSelector], carries: Option<IpTunnelMode>) -> Vec<String> {
    if list.is_empty() {
        let all: &[&str] = match carries {
            None | Some(IpTunnelMode::Unspecified) => &ALL_TRAFFIC,
            Some(IpTunnelMode::Gre) => &BETWEEN_ENDS_GRE,
            Some(IpTunnelMode::Ipip) => &BETWEEN_ENDS_IPIP,
        };
        return all.iter().map(|&selector| selector.to_owned()).collect();
    }
    list.iter().map(|item| item.selector().to_owned()).collect()
}

fn plan_child(
    connection: &Connection,
    child: &Child,
    known: &Known<'_>,
    planner: &mut Planner,
) -> bus::Child {
    let origin = child_path(connection, child);
    let limits = [
        (
            child.life_time.map(u64::from),
            child.rekey_time.map(u64::from),
            "life_time",
            "rekey_time",
        ),
        (
            child.life_bytes,
            child.rekey_bytes,
            "life_bytes",
            "rekey_bytes",
        ),
        (
            child.life_packets,
            child.rekey_packets,
            "life_packets",
            "rekey_packets",
        ),
    ];
    for (life, rekey, life_field, field) in limits {
        // Zero is no limit.
        let (Some(life @ 1..), Some(rekey @ 1..)) = (life, rekey) else {
            continue;
        };
        if life <= rekey {
            let reason = PlanReason::LifeBelowRekey { life, rekey, field };
            planner.refuse(path::field(&origin, life_field), reason);
        }
    }
    // Without a tunnel policies alone say what it carries.
    let tunnel = known.tunnels.get(child.tunnel());
    let transport = child.mode() == ChildMode::Transport;
    let refusal = match tunnel {
        Some(ProtectedTunnel {
            carries: Some(_),
            if_id: None,
            ..
        }) => Some(PlanReason::Unprotected {
            tunnel: child.tunnel().to_owned(),
        }),
        Some(ProtectedTunnel { carries: None, .. }) if transport => {
            Some(PlanReason::TransportOfNetworks {
                tunnel: child.tunnel().to_owned(),
            })
        }
        _ => None,
    };
    if let Some(reason) = refusal {
        planner.refuse(path::field(&origin, "tunnel"), reason);
    }
    let carries = tunnel.and_then(|tunnel| tunnel.carries);
    bus::Child {
        name: child.name().to_owned(),
        if_id: tunnel.and_then(|tunnel| tunnel.if_id).unwrap_or(0),
        local_selectors: selectors(&child.local_selectors, carries),
        remote_selectors: selectors(&child.remote_selectors, carries),
        esp_proposals: esp_proposals(&child.proposals),
        start_action: match child.start_action() {
            StartAction::Unspecified | StartAction::None => bus::StartAction::None,
            StartAction::Start => bus::StartAction::Start,
            StartAction::Trap => bus::StartAction::Trap,
        }
        .into(),
        replay_window: Some(child.replay_window.unwrap_or(DEFAULT_REPLAY_WINDOW)),
        rekey_time: child.rekey_time,
        life_time: child.life_time,
        rekey_bytes: child.rekey_bytes,
        life_bytes: child.life_bytes,
        rekey_packets: child.rekey_packets,
        life_packets: child.life_packets,
        tunnel: child.tunnel().to_owned(),
        tfc_padding: child.tfc_padding.clone().unwrap_or_default(),
        transport,
    }
}

/// The tunnel that a CHILD_SA is bound to.
struct ProtectedTunnel {
    if_id: Option<u32>,
    underlay_vrf: Option<String>,
    /// What is encrypted, of a tunnel of GRE or IPIP.
    carries: Option<IpTunnelMode>,
}
