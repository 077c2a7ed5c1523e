//! The box that a benchmark runs: two Ethernet interfaces, tunnels, their SAs, and routes.
//!
//! ```text
//!   LAN 10.1.0.0/16 -- [ box ] -- WAN 192.0.2.2 ==== tunnels ==== 198.51.100.2 -- 10.2.0.0/16, and a /24 behind each
//!                                     '-- 16.0.0.0/24, 16.0.1.0/24 ...: what plain forwarding looks up
//! ```
//!
//! The same in IPv6: `fd00:1::/32`, `2001:db8:1::2`, `2001:db8:2::2`, `fd00:2::/32`, a /64 behind each tunnel, and /48
//! networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use culvert_crypto::{Engine, KeyError, KeyMaterial, SaKey, Suite};
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::fib::{Fib4Writer, Fib6Writer, PoolExhausted};
use culvert_dataplane::sa::{
    Limits, OuterHeader, PolicyAction, PolicyId, PolicySpec, SaDirection, SaError, SaKeyId,
    SaManager, SaMode, SaSpec, UdpPorts,
};
use culvert_dataplane::tables::{
    ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface,
    InterfaceKind, MssClamp, ReversePath, Tables, VRF_DEFAULT, Vrf,
};
use culvert_net::{
    AddressRange, Ipv4Prefix, Ipv6Prefix, MacAddr, PortRange, PrefixError, Selector, Spi, SpiError,
};
use thiserror::Error;

/// Index of the interface towards the hosts.
pub const LAN: u32 = 1;
/// Index of the interface towards the peer.
pub const WAN: u32 = 2;
const TUNNEL: u32 = 3;
/// Adjacency of the first tunnel.
const INTO_TUNNELS: u32 = 16;
const TO_LAN: u32 = 2;
const TO_WAN: u32 = 3;
const IF_ID: u32 = 42;
const OUR_SPI: u32 = 0xc100_0001;
/// SPI of packets to the peer; the first of those of many tunnels.
pub const PEER_SPI: u32 = 0xc200_0002;
/// The box's outer address.
pub const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The peer's outer address.
pub const PEERS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// A host behind the box.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
/// A host behind the peer.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
/// The first of the /24 networks that plain forwarding goes to.
pub const NETWORKS: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 0);
/// The first of the /24 networks behind many tunnels.
pub const BEHIND_TUNNELS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The same addresses in IPv6: the box's.
pub const OURS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The peer's outer address.
pub const PEERS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// A host behind the box.
pub const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10);
/// A host behind the peer.
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10);
/// The first of the /48 networks that plain forwarding goes to.
pub const NETWORKS6: Ipv6Addr = Ipv6Addr::new(0x2400, 0, 0, 0, 0, 0, 0, 0);
/// The first of the /64 networks behind many tunnels.
pub const BEHIND_TUNNELS6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0);
/// Both ends of UDP encapsulation.
pub const NAT_T: UdpPorts = UdpPorts {
    source: 4500,
    destination: 4500,
};
/// Packets of the replay window where a worker alone receives.
pub const REPLAY_WINDOW: u32 = 1024;
/// Where two workers receive for the same SA, each a block of sequence numbers at a time.
pub const SHARED_WINDOW: u32 = 4096;

/// Why the box could not be set up.
#[derive(Debug, Error)]
pub enum SceneError {
    /// A prefix is none.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// An SPI is none.
    #[error(transparent)]
    Spi(#[from] SpiError),
    /// A key was refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An SA was refused.
    #[error(transparent)]
    Sa(#[from] SaError),
    /// The routes do not fit.
    #[error(transparent)]
    Routes(#[from] PoolExhausted),
}

/// What protects the tunnel.
#[derive(Clone)]
pub struct Protection {
    /// Algorithms.
    pub suite: Suite,
    /// The encryption key with its salt.
    pub encryption: Vec<u8>,
    integrity: Vec<u8>,
}

impl Protection {
    /// Keys that look random.
    pub fn new(suite: Suite) -> Self {
        let mut random = Random::new(suite.encryption_key_len() as u64);
        let mut key = |length: usize| {
            let mut bytes = vec![0; length];
            random.fill(&mut bytes);
            bytes
        };
        Self {
            suite,
            encryption: key(suite.encryption_key_len()),
            integrity: key(suite.integrity_key_len()),
        }
    }

    /// That of one of many tunnels: each has keys of its own.
    #[must_use]
    pub fn of_tunnel(&self, number: u32) -> Self {
        let mut this = self.clone();
        for (byte, other) in this.encryption.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= other;
        }
        this
    }

    /// The expanded keys, as the peer has them.
    pub fn key(&self, engine: &dyn Engine, esn: bool) -> Result<SaKey, KeyError> {
        engine.key(&KeyMaterial {
            suite: self.suite,
            encryption: &self.encryption,
            integrity: &self.integrity,
            esn,
        })
    }
}

/// What the box and its tunnels are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Packets are IPv6, inside and outside.
    pub v6: bool,
    /// ESP in UDP (RFC 3948).
    pub udp: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Tunnels, each with an SA in either direction.
    pub tunnels: u32,
    /// Networks that plain forwarding goes to.
    pub networks: u32,
    /// Packets of the replay window.
    pub window: u32,
}

impl Shape {
    /// A box that forwards to so many networks.
    pub const fn router(networks: u32) -> Self {
        Self {
            v6: false,
            udp: false,
            esn: false,
            tunnels: 0,
            networks,
            window: REPLAY_WINDOW,
        }
    }

    /// A box with so many tunnels.
    pub const fn gateway(tunnels: u32) -> Self {
        Self {
            tunnels,
            ..Self::router(0)
        }
    }

    /// Either of two by the family of its packets.
    fn of_family(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        if self.v6 { v6.into() } else { v4.into() }
    }

    /// The box's outer address.
    pub fn ours(self) -> IpAddr {
        self.of_family(OURS, OURS6)
    }

    /// The peer's outer address.
    pub fn peers(self) -> IpAddr {
        self.of_family(PEERS, PEERS6)
    }

    /// The outer header of the peer's packets.
    pub fn peers_outer_header(self) -> Option<OuterHeader> {
        OuterHeader::new(self.peers(), self.ours(), self.udp.then_some(NAT_T))
    }
}

/// The tables of the box, with what must live as long as they do.
pub struct Scene {
    /// What its workers read.
    pub tables: Tables,
    /// Lives as long as the tables that read what it wrote.
    routes: Routes,
}

/// What writes the forwarding tables.
#[derive(Default)]
struct Routes {
    v4: Fib4Writer,
    v6: Fib6Writer,
}

impl Routes {
    fn insert(&mut self, address: IpAddr, length: u8, adjacency: u32) -> Result<(), SceneError> {
        match address {
            IpAddr::V4(address) => {
                let prefix = Ipv4Prefix::covering(address, length)?;
                self.v4.insert(prefix, adjacency)?;
            }
            IpAddr::V6(address) => {
                let prefix = Ipv6Prefix::covering(address, length)?;
                self.v6.insert(prefix, adjacency)?;
            }
        }
        Ok(())
    }
}

impl Scene {
    /// A box of this shape; every tunnel has keys of its own, made from `protection`.
    pub fn new(
        engine: &Arc<dyn Engine>,
        protection: Option<&Protection>,
        shape: Shape,
    ) -> Result<Self, SceneError> {
        let mut routes = Routes::default();
        // Where a host or a network is: its prefix, by family.
        let (site, host, of_network) = if shape.v6 {
            (32, 128, 48)
        } else {
            (16, 32, 24)
        };
        routes.insert(shape.of_family(NEAR, NEAR6), site, TO_LAN)?;
        routes.insert(shape.of_family(FAR, FAR6), site, INTO_TUNNELS)?;
        routes.insert(shape.peers(), host, TO_WAN)?;
        routes.insert(shape.ours(), host, ADJACENCY_LOCAL)?;
        for network in 0..shape.networks {
            routes.insert(network_of(shape.v6, network), of_network, TO_WAN)?;
        }
        let mut tables = Tables {
            generation: 1,
            forwarding: true,
            ..Tables::default()
        };
        let vrf = Vrf {
            name: "default".into(),
            fib4: Arc::clone(routes.v4.fib()),
            fib6: Arc::clone(routes.v6.fib()),
        };
        tables.vrfs.set(VRF_DEFAULT, Some(Arc::new(vrf)));
        for (index, name, kind) in [(LAN, "lan", ethernet(1)), (WAN, "wan", ethernet(2))] {
            tables
                .interfaces
                .set(index, Some(Arc::new(interface(index, name, kind))));
        }
        let link_header = |last| link_header(last, shape.v6);
        for (index, kind, interface) in [
            (
                ADJACENCY_NO_ROUTE,
                AdjacencyKind::Drop(DropReason::NoRoute),
                0,
            ),
            (ADJACENCY_LOCAL, AdjacencyKind::Local, 0),
            (TO_LAN, AdjacencyKind::Rewrite(link_header(1)), LAN),
            (TO_WAN, AdjacencyKind::Rewrite(link_header(2)), WAN),
        ] {
            let adjacency = Adjacency {
                kind,
                interface,
                mtu: 1500,
            };
            tables.adjacencies.set(index, Some(Arc::new(adjacency)));
        }
        let mut this = Self { tables, routes };
        if let Some(protection) = protection {
            this.add_tunnels(engine, protection, shape)?;
        }
        Ok(this)
    }

    /// Tunnels, a network behind each, SAs and a policy.
    fn add_tunnels(
        &mut self,
        engine: &Arc<dyn Engine>,
        protection: &Protection,
        shape: Shape,
    ) -> Result<(), SceneError> {
        let mut manager = SaManager::new(Arc::clone(engine))?;
        let behind = if shape.v6 { 64 } else { 24 };
        for number in 0..shape.tunnels {
            let (index, adjacency) = (TUNNEL + number, INTO_TUNNELS + number);
            let if_id = IF_ID + number;
            let tables = &mut self.tables;
            let interface = interface(index, &format!("ipsec{number}"), tunnel_kind(if_id));
            tables.interfaces.set(index, Some(Arc::new(interface)));
            let into = Adjacency {
                kind: AdjacencyKind::Tunnel,
                interface: index,
                mtu: 1500,
            };
            tables.adjacencies.set(adjacency, Some(Arc::new(into)));
            self.routes
                .insert(network_behind(shape.v6, number), behind, adjacency)?;
            tables.sas.tunnels.set(if_id, Some(index));
            let protection = protection.of_tunnel(number);
            for (spi, direction) in [
                (PEER_SPI + number, SaDirection::Out),
                (OUR_SPI + number, SaDirection::In),
            ] {
                let spec = sa(&protection, shape, spi, direction, if_id)?;
                let (encryption, integrity) = (&protection.encryption, &protection.integrity);
                manager.add(&mut tables.sas, spec, encryption, integrity)?;
            }
            let policy = policy(PEER_SPI + number, if_id, shape);
            manager.add_policy(&mut tables.sas, policy)?;
        }
        Ok(())
    }
}

/// The network of a number that plain forwarding goes to.
pub fn network_of(v6: bool, number: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(NETWORKS6.to_bits() + (u128::from(number) << 80)).into()
    } else {
        Ipv4Addr::from_bits(NETWORKS.to_bits() + (number << 8)).into()
    }
}

/// The network behind the tunnel of a number.
pub fn network_behind(v6: bool, number: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(BEHIND_TUNNELS6.to_bits() + (u128::from(number) << 64)).into()
    } else {
        Ipv4Addr::from_bits(BEHIND_TUNNELS.to_bits() + (number << 8)).into()
    }
}

/// SPI of the peer's packets in the first tunnel.
pub const fn inbound_spi() -> u32 {
    OUR_SPI
}

fn tunnel_kind(if_id: u32) -> InterfaceKind {
    InterfaceKind::Tunnel {
        if_id,
        underlay_vrf: VRF_DEFAULT,
        fixed_mtu: None,
        fragmentation: Fragmentation::Before,
        learn_path_mtu: true,
        outer: None,
    }
}

fn ethernet(last: u8) -> InterfaceKind {
    InterfaceKind::Ethernet {
        mac: MacAddr([2, 0, 0, 0, 0, last]),
    }
}

fn link_header(last: u8, v6: bool) -> [u8; 14] {
    let [high, low] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    [2, 0, 0, 0, 1, last, 2, 0, 0, 0, 0, last, high, low]
}

fn interface(index: u32, name: &str, kind: InterfaceKind) -> Interface {
    Interface {
        index,
        name: name.into(),
        kind,
        vrf: VRF_DEFAULT,
        mtu: 1500,
        admin_up: true,
        mss_clamp: MssClamp::Off,
        reverse_path: ReversePath::Off,
        tap: None,
        addresses4: Arc::new([]),
        addresses6: Arc::new([]),
    }
}

fn everything(v6: bool) -> Selector {
    let all = if v6 {
        AddressRange::ALL_V6
    } else {
        AddressRange::ALL_V4
    };
    Selector {
        source: all,
        destination: all,
        protocol: None,
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
    }
}

fn sa(
    protection: &Protection,
    shape: Shape,
    spi: u32,
    direction: SaDirection,
    if_id: u32,
) -> Result<SaSpec, SpiError> {
    let (source, destination) = match direction {
        SaDirection::Out => (shape.ours(), shape.peers()),
        SaDirection::In => (shape.peers(), shape.ours()),
    };
    Ok(SaSpec {
        id: SaKeyId {
            spi: Spi::new(spi)?,
            direction,
            destination,
        },
        source,
        mode: SaMode::Tunnel,
        suite: protection.suite,
        esn: shape.esn,
        replay_window: shape.window,
        udp: shape.udp.then_some(NAT_T),
        if_id,
        selectors: vec![everything(shape.v6)],
        limits: Limits::NONE,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: true,
        tfc_padding: 0,
        reqid: 1,
        timers: [0; 3],
    })
}

fn policy(spi: u32, if_id: u32, shape: Shape) -> PolicySpec {
    PolicySpec {
        id: PolicyId {
            outbound: true,
            forward: false,
            if_id,
            selector: everything(shape.v6),
            spi,
        },
        action: PolicyAction::Protect,
        priority: 1,
        reqid: 1,
        tunnel: None,
    }
}
