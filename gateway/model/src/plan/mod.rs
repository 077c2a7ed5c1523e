//! From a configuration to the values that the parts of a gateway must hold.
//!
//! ```text
//!                         +-- dataplane: vrf, interface, loopback, address, route, tunnel, policy, forwarding
//! Config --> plan() ------+-- linux:     linux/link, linux/address, linux/route
//!   (pure: no I/O)        +-- iked:      credential, connection
//!                         +-- lte:       wwan
//! ```
//!
//! A value is what a part can change on its own. It has a key, knows what it depends on, and remembers the
//! paths of the configuration that it came from. Two kinds of dependency: a value cannot exist without what
//! it *needs*; it is created *after* other values but stays when one of those goes away for a while.
//!
//! | key | part | needs | after |
//! | --- | --- | --- | --- |
//! | `vrf/NAME` | dataplane | | |
//! | `interface/NAME` | dataplane | its VRF, and of a sub-interface its parent | |
//! | `loopback/NAME` | dataplane | its VRF | |
//! | `tunnel/NAME` | dataplane | its VRF and its underlay VRF | |
//! | `ip_tunnel/NAME` | dataplane | its VRF and its underlay VRF | its local address |
//! | `address/INTERFACE/PREFIX` | dataplane | its interface, loopback or tunnel | |
//! | `route/VRF/PREFIX` | dataplane | its VRF, interfaces and the addresses its gateways are reached by | |
//! | `guard/CHILD`, `policy/NAME` | dataplane | the tunnel `policies`, which there is for them | |
//! | `forwarding` | dataplane | | every other value of the dataplane |
//! | `linux/link/TAP` | linux | | its interface, loopback or tunnel |
//! | `linux/address/TAP/PREFIX` | linux | its link | the same address of the dataplane |
//! | `linux/resolver`, `linux/ntp`, `linux/host_name` | linux | | |
//! | `linux/route/PREFIX` | linux | its link, the address its gateway is reached by | |
//! | `credential/NAME` | iked | | |
//! | `connection/NAME` | iked | its credentials, and in Linux the local address it names | forwarding, and in Linux the way to the peer |
//! | `wwan/NAME` | lte | `modem/DEVICE`, which the part that finds the modem holds, and its VRF | |
//!
//! A TAP is called as its interface. `linux_link.mac` is empty here: the supervisor learns it from the
//! device and fills it in.

mod credentials;
mod dhcp;
mod digest;
mod eap;
mod ike;
mod ip_tunnels;
pub mod keys;
mod linux;
mod network;
mod pieces;
mod policies;
mod ports;
mod routes;
mod static_routes;
mod system;
mod users;
mod value;
mod vlan;
mod wwan;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use credentials::private_key_der;
pub use digest::DigestKey;
pub use pieces::{Assembled, Assembly, Base, PieceError, pieces};
pub use value::{same, updates_in_place};

use crate::bus;
use crate::config::Config;

/// The key of a value: `route/default/10.2.0.0/24`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of value it names: `route`, `linux/route`.
    pub fn kind(&self) -> &str {
        let own = self.0.strip_prefix("linux/").unwrap_or(&self.0);
        let skipped = self.0.len() - own.len();
        let end = own.find('/').map_or(self.0.len(), |at| skipped + at);
        self.0.get(..end).unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

/// Who holds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The dataplane process.
    Dataplane,
    /// The supervisor's netlink mirror in the namespace of the TAPs.
    Linux,
    /// iked-bridge.
    Iked,
    /// The process that speaks DHCP.
    Dhcp,
    /// Who has the modems.
    Lte,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dataplane => "dataplane",
            Self::Linux => "linux",
            Self::Iked => "iked",
            Self::Dhcp => "dhcp",
            Self::Lte => "lte",
        })
    }
}

/// One value, and how it stands to the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned<K = Key, P = Part, V = bus::Value> {
    /// What the part is told.
    pub value: V,
    /// Who holds it.
    pub part: P,
    /// What it cannot exist without.
    pub needs: Vec<K>,
    /// What must have been there when it is created.
    pub after: Vec<K>,
    /// The paths of the configuration that it comes from; empty: it is always there.
    pub origins: Vec<String>,
}

impl Planned {
    fn new(kind: bus::value::Kind, part: Part, origin: &str) -> Self {
        Self {
            value: bus::Value { kind: Some(kind) },
            part,
            needs: Vec::new(),
            after: Vec::new(),
            origins: if origin.is_empty() {
                Vec::new()
            } else {
                vec![origin.to_owned()]
            },
        }
    }
}

/// All values of a gateway by key. A plan shares with the one before it what is the same in both.
pub type Plan = BTreeMap<Key, Arc<Planned>>;

/// A value with its key.
type Entry = (Key, Arc<Planned>);

/// One thing that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// Where: a path of the configuration.
    pub path: String,
    /// What.
    pub reason: PlanReason,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Everything that does not fit together; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanErrors(pub Vec<PlanError>);

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {}

/// Why a configuration cannot be planned although each of its fields is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanReason {
    /// The configuration did not come through the strict decoder.
    #[error("{given:?} is not {expected}")]
    Malformed {
        /// As written.
        given: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Linux gives the name a meaning of its own.
    #[error("{name:?} means something else to Linux; choose another name")]
    ReservedName {
        /// As written.
        name: String,
    },
    /// A name that the tz database does not have.
    #[error("{given:?} is not in the tz database; there is {near}")]
    NoTimeZone {
        /// As written.
        given: String,
        /// The name most like it.
        near: String,
    },
    /// Two things share what each must have for itself.
    #[error("{what} is also that of {other}; each has its own")]
    Taken {
        /// The value both have.
        what: String,
        /// The path of the other.
        other: String,
    },
    /// IP in IP has no place for a key.
    #[error("only a tunnel of mode gre has a key")]
    KeyWithoutGre,
    /// A CHILD_SA for a tunnel that travels in the clear.
    #[error("{tunnel} has no if_id: it is not protected, and no CHILD_SA can be bound to it")]
    Unprotected {
        /// The tunnel.
        tunnel: String,
    },
    /// Transport mode for what is not between the two ends themselves.
    #[error("{tunnel} is an IPsec tunnel; transport mode is for those of ip_tunnels")]
    TransportOfNetworks {
        /// The tunnel.
        tunnel: String,
    },
    /// Two networks overlap where packets could not be told apart.
    #[error("{network} overlaps {other_network} of {other}")]
    Overlap {
        /// This network.
        network: String,
        /// The network before it.
        other_network: String,
        /// The path of the other.
        other: String,
    },
    /// Two VRFs use the same network, and both hand it to the one Linux namespace there is.
    #[error(
        "{network} overlaps that of {other} in another VRF; set self_traffic to false on one of the two"
    )]
    LinuxOverlap {
        /// This network.
        network: String,
        /// The path of the other.
        other: String,
    },
    /// An address that no interface can have.
    #[error("{address} is {what}; an interface has an address of its own")]
    NotAnInterfaceAddress {
        /// As written.
        address: String,
        /// What it is instead.
        what: &'static str,
    },
    /// A DHCP client that no packet reaches.
    #[error("needs the TAP that self_traffic false takes away")]
    DhcpWithoutTap,
    /// Not text, and not bytes either.
    #[error(
        "{given:?} is not bytes: 0x is followed by pairs of hexadecimal digits, 1 to 64 of them"
    )]
    ClientId {
        /// As written.
        given: String,
    },
    /// A VLAN without the interface whose link it is on, or the other way round.
    #[error("has an effect only together with {0}")]
    Without(&'static str),
    /// A device of a sub-interface.
    #[error(
        "a sub-interface uses the device of its parent {parent} and how that is driven; leave this out"
    )]
    DeviceOfSubInterface {
        /// The interface whose device it is.
        parent: String,
    },
    /// A VLAN within a sub-interface.
    #[error(
        "{parent} is a VLAN itself; name its parent, and its vlan as outer_vlan where frames have two tags"
    )]
    NestedVlan {
        /// The sub-interface.
        parent: String,
    },
    /// Longer packets than the link of the parent takes with the tags.
    #[error("{mtu} bytes do not fit {parent}, which takes {most} with these tags")]
    MtuAboveParent {
        /// As written.
        mtu: u32,
        /// The interface whose link it is.
        parent: String,
        /// What fits.
        most: u32,
    },
    /// A network behind an interface that leads nowhere.
    #[error("{address}: nothing is behind a loopback; its addresses have the length {whole}")]
    LoopbackNetwork {
        /// As written.
        address: String,
        /// Of the family.
        whole: u8,
    },
    /// IPv6 does not work below 1280 bytes (RFC 8200, section 5).
    #[error("{mtu} bytes with an IPv6 address; IPv6 needs at least 1280")]
    MtuBelowIpv6 {
        /// As written.
        mtu: u32,
    },
    /// A segment size without the clamp that uses it.
    #[error("has no effect without mss_clamp; set mss_clamp to true")]
    MssWithoutClamp,
    /// PAP or CHAP without what they prove.
    #[error("must be given: pap and chap prove a user name by a password")]
    NoLogin,
    /// An interface of another VRF.
    #[error(
        "{interface} is in VRF {actual}, not in {expected}; a next hop in another VRF than its route's names it as vrf"
    )]
    OtherVrf {
        /// The interface.
        interface: String,
        /// Its VRF.
        actual: String,
        /// The next hop's.
        expected: String,
    },
    /// The hosts on a link are known in the VRF of the link only.
    #[error(
        "the hosts on {interface} are found by the routes of VRF {vrf}: leave the interface out, or name a gateway"
    )]
    LeakWithoutGateway {
        /// The interface.
        interface: String,
        /// Its VRF.
        vrf: String,
    },
    /// A next hop that says nothing, or sends the packets of a VRF back to its own routes.
    #[error("names neither a gateway nor an interface nor another VRF than that of the route")]
    LeadsNowhere,
    /// A route that forwards and has no next hop.
    #[error(
        "a route that forwards needs a next hop; one that drops has the action blackhole, unreachable or prohibit"
    )]
    NoNextHop,
    /// A route that drops and has next hops.
    #[error("a route that drops packets has no next hops")]
    IdleNextHops,
    /// IPv4 by way of IPv6 or the other way round.
    #[error("{gateway} is not of the same family as {destination}")]
    OtherFamily {
        /// The gateway or peer.
        gateway: String,
        /// The destination or local address.
        destination: String,
    },
    /// A gateway that nothing leads to.
    #[error(
        "{gateway} is on no network of VRF {vrf}; name its interface, or add an address or route that reaches it"
    )]
    Unreachable {
        /// As written.
        gateway: String,
        /// Where it was looked for.
        vrf: String,
    },
    /// A link-local gateway without an interface.
    #[error("{gateway} is link-local; name the interface that it is on")]
    LinkLocalGateway {
        /// As written.
        gateway: String,
    },
    /// A route to a network that an interface is on.
    #[error("{network} is on the link of {interface} already")]
    Connected {
        /// The network.
        network: String,
        /// The interface.
        interface: String,
    },
    /// IKE in two underlay VRFs.
    #[error("IKE runs in VRF {first} already, because of {other}; one underlay VRF is supported")]
    SecondUnderlay {
        /// The underlay VRF in use.
        first: String,
        /// Who uses it.
        other: String,
    },
    /// IKE from an address that the gateway does not have.
    #[error(
        "no interface of VRF {vrf} with self_traffic has {address}; there is {}",
        or_nothing(known)
    )]
    NoSuchAddress {
        /// As written.
        address: String,
        /// The underlay VRF.
        vrf: String,
        /// The addresses there are.
        known: Vec<String>,
    },
    /// Many peers and a pre-shared key, but no identity.
    #[error("must be given: the address of the peer is not known")]
    NoIdentity,
    /// No pre-shared key for these two.
    #[error("no pre-shared key belongs to {local:?} or {remote:?}")]
    NoPreSharedKey {
        /// This gateway's identity.
        local: String,
        /// The peer's.
        remote: String,
    },
    /// EAP, and nothing to say who this gateway is.
    #[error("must be given, or the identity: the user name by which this gateway proves who it is")]
    NoUserName,
    /// No password for this user name.
    #[error("no EAP secret belongs to {user:?}")]
    NoPassword {
        /// The user name; `%any`: there is none at all.
        user: String,
    },
    /// EAP in both directions.
    #[error("one side at most uses EAP (RFC 7296 section 2.16): the one that begins")]
    EapOnBothSides,
    /// A peer that is checked by EAP and called.
    #[error("the peer proves who it is by EAP, so it begins; none is possible")]
    EapPeerBegins,
    /// EAP of this gateway, and many peers.
    #[error("this gateway proves who it is by EAP, so it begins: one peer must be named")]
    EapWithoutPeer,
    /// EAP-TLS on the side of a server without a certificate.
    #[error("a peer that uses eap-tls wants a certificate of this gateway")]
    EapTlsByPassword,
    /// A user name where there is no EAP.
    #[error("means something with EAP only")]
    OnlyWithEap,
    /// The server of EAP where there is no EAP-TLS of this side.
    #[error("means something with eap-tls of the local side only")]
    OnlyWithEapTls,
    /// Reauthentication that always comes before rekeying.
    #[error(
        "{reauth} s is not above the rekey_time of {rekey} s: the IKE_SA would never be rekeyed"
    )]
    ReauthBelowRekey {
        /// As written.
        reauth: u32,
        /// As written.
        rekey: u32,
    },
    /// Authentication by certificate without one.
    #[error("must name the certificate that this gateway shows")]
    NoCertificate,
    /// Authentication by certificate without a private key.
    #[error("authentication by certificate needs one of credentials.private_keys")]
    NoPrivateKey,
    /// A hard limit below the soft one.
    #[error("{life} is not above {rekey} of {field}: the SA would end before it is rekeyed")]
    LifeBelowRekey {
        /// The hard limit.
        life: u64,
        /// The soft limit.
        rekey: u64,
        /// The field of the soft limit.
        field: &'static str,
    },
    /// Both or neither of text and file.
    #[error("either pem or file must be given, and not both")]
    PemOrFile,
    /// A file that was not read before planning.
    #[error("the file was not read: planning reads no files")]
    FileNotRead,
    /// PEM that does not hold what it should.
    #[error("not PEM of {expected}: {message}")]
    Pem {
        /// What it should hold.
        expected: &'static str,
        /// As the PEM parser says it.
        message: String,
    },
}

fn or_nothing(known: &[String]) -> String {
    if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    }
}

/// Plans a configuration. The same configuration gives the same plan, whatever the order of its lists.
///
/// `digests` marks credentials, so that a part can tell which it holds without telling what they are.
pub fn plan(config: &Config, digests: &DigestKey) -> Result<Plan, PlanErrors> {
    plan_after(None, config, digests).map(|(plan, _)| plan)
}

/// What is kept of a plan so that the next one need not begin anew.
#[derive(Debug)]
pub struct Kept {
    ports: ports::Ports,
    underlay: String,
    routes: routes::Routes,
    credentials: Vec<Entry>,
    connections: ike::Connections,
}

/// A configuration that was planned, and what was kept of that.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Of its plan.
    pub kept: &'a Kept,
}

/// What [`plan`] gives, sooner where the configuration differs from the one `before` in a few places. The plan before must
/// be one by the same `digests`.
pub fn plan_after(
    before: Option<Before<'_>>,
    config: &Config,
    digests: &DigestKey,
) -> Result<(Plan, Kept), PlanErrors> {
    let mut planner = Planner::default();
    let (ports, taps) = ports::read(config, &mut planner);
    network::plan(config, &ports, &mut planner);
    let underlay = ike::underlay_vrf(config, &mut planner);
    let routes = routes::plan(config, &ports, &underlay, before, &mut planner);
    linux::plan(&ports, &taps, &underlay, &mut planner);
    system::plan(config, &mut planner);
    dhcp::plan(config, &ports, &mut planner);
    let credentials = credentials::plan(config, digests, before, &mut planner);
    let connections = ike::plan(config, &ports, &routes, &underlay, before, &mut planner);
    policies::plan(config, &underlay, &mut planner);
    wwan::plan(config, &ports, digests, &mut planner);
    users::plan(config, &mut planner);
    let kept = Kept {
        ports,
        underlay,
        routes,
        credentials,
        connections,
    };
    planner.finish().map(|plan| (plan, kept))
}

/// For each item of `new` the place of an equal one among `old`, as far as both are sorted by their names.
fn unchanged<'a, T: PartialEq, N: Ord>(
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&'a T) -> N,
) -> impl Iterator<Item = Option<usize>> {
    let mut rest = old.iter().enumerate().peekable();
    new.iter().map(move |item| {
        let wanted = name(item);
        while rest.next_if(|(_, old)| name(old) < wanted).is_some() {}
        let (place, old) = rest.peek()?;
        (*old == item).then_some(*place)
    })
}

/// What has been planned so far.
#[derive(Default)]
struct Planner {
    values: Plan,
    /// Of the kinds that there are many of; no key is among `values`.
    shared: Vec<Entry>,
    errors: Vec<PlanError>,
}

impl Planner {
    fn refuse(&mut self, path: impl Into<String>, reason: PlanReason) {
        self.errors.push(PlanError {
            path: path.into(),
            reason,
        });
    }

    fn add(&mut self, key: Key, kind: bus::value::Kind, part: Part, origin: &str) -> &mut Planned {
        let planned = self.values.entry(key);
        Arc::make_mut(planned.or_insert_with(|| Arc::new(Planned::new(kind, part, origin))))
    }

    fn share(&mut self, (key, planned): &Entry) {
        self.shared.push((key.clone(), Arc::clone(planned)));
    }

    /// Leave to forward comes last, after all else of the dataplane.
    fn finish(mut self) -> Result<Plan, PlanErrors> {
        if !self.errors.is_empty() {
            return Err(PlanErrors(self.errors));
        }
        let mut plan: Plan = self.shared.into_iter().collect();
        plan.append(&mut self.values);
        let of_dataplane = plan
            .iter()
            .filter(|(_, planned)| planned.part == Part::Dataplane);
        let after = of_dataplane.map(|(key, _)| key.clone()).collect();
        let kind = bus::value::Kind::Forwarding(bus::Forwarding { enabled: true });
        let forwarding = Planned {
            after,
            ..Planned::new(kind, Part::Dataplane, "")
        };
        plan.insert(Key::from("forwarding"), Arc::new(forwarding));
        Ok(plan)
    }
}

#[cfg(test)]
mod after_tests;
#[cfg(test)]
mod tests;
