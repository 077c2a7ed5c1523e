//! The box that a benchmark runs: two Ethernet interfaces, one tunnel, its SAs, and routes.
//!
//! ```text
//!   LAN 10.1.0.0/16 -- [ box ] -- WAN 192.0.2.2 ==== tunnel ==== 198.51.100.2 -- 10.2.0.0/16
//!                                     '-- 16.0.0.0/24, 16.0.1.0/24 ...: what plain forwarding looks up
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use culvert_crypto::{Engine, KeyError, KeyMaterial, SaKey, Suite};
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::fib::{Fib4Writer, Fib6Writer, PoolExhausted};
use culvert_dataplane::sa::{
    Limits, OuterHeader, PolicyAction, PolicyId, PolicySpec, SaDirection, SaError, SaKeyId,
    SaManager, SaMode, SaSpec,
};
use culvert_dataplane::tables::{
    ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface,
    InterfaceKind, MssClamp, ReversePath, Tables, VRF_DEFAULT, Vrf,
};
use culvert_net::{
    AddressRange, Ipv4Prefix, MacAddr, PortRange, PrefixError, Selector, Spi, SpiError,
};
use thiserror::Error;

/// Index of the interface towards the hosts.
pub const LAN: u32 = 1;
/// Index of the interface towards the peer.
pub const WAN: u32 = 2;
const TUNNEL: u32 = 3;
/// Adjacency of the first of many tunnels.
const INTO_TUNNELS: u32 = 16;
const TO_LAN: u32 = 2;
const TO_WAN: u32 = 3;
const INTO_TUNNEL: u32 = 4;
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
/// Packets of the replay window.
const REPLAY_WINDOW: u32 = 1024;

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
    pub fn key(&self, engine: &dyn Engine) -> Result<SaKey, KeyError> {
        engine.key(&KeyMaterial {
            suite: self.suite,
            encryption: &self.encryption,
            integrity: &self.integrity,
            esn: false,
        })
    }
}

/// The tables of the box, with what must live as long as they do.
pub struct Scene {
    /// What its workers read.
    pub tables: Tables,
    /// Lives as long as the tables that read what it wrote.
    routes: (Fib4Writer, Fib6Writer),
}

impl Scene {
    /// A box that forwards to `networks` networks, and with a tunnel if there is a protection for it.
    pub fn new(
        engine: &Arc<dyn Engine>,
        protection: Option<&Protection>,
        networks: u32,
    ) -> Result<Self, SceneError> {
        let mut routes = Fib4Writer::default();
        let prefix = |address: Ipv4Addr, length| Ipv4Prefix::new(address, length);
        routes.insert(prefix(Ipv4Addr::new(10, 1, 0, 0), 16)?, TO_LAN)?;
        routes.insert(prefix(Ipv4Addr::new(10, 2, 0, 0), 16)?, INTO_TUNNEL)?;
        routes.insert(prefix(PEERS, 32)?, TO_WAN)?;
        routes.insert(prefix(OURS, 32)?, ADJACENCY_LOCAL)?;
        for network in 0..networks {
            let address = Ipv4Addr::from_bits(NETWORKS.to_bits() + (network << 8));
            routes.insert(prefix(address, 24)?, TO_WAN)?;
        }
        let routes6 = Fib6Writer::default();
        let mut tables = Tables {
            generation: 1,
            forwarding: true,
            ..Tables::default()
        };
        let vrf = Vrf {
            name: "default".into(),
            fib4: Arc::clone(routes.fib()),
            fib6: Arc::clone(routes6.fib()),
        };
        tables.vrfs.set(VRF_DEFAULT, Some(Arc::new(vrf)));
        for (index, name, kind) in [
            (LAN, "lan", ethernet(1)),
            (WAN, "wan", ethernet(2)),
            (TUNNEL, "ipsec0", tunnel_kind(IF_ID)),
        ] {
            tables
                .interfaces
                .set(index, Some(Arc::new(interface(index, name, kind))));
        }
        for (index, kind, interface) in [
            (
                ADJACENCY_NO_ROUTE,
                AdjacencyKind::Drop(DropReason::NoRoute),
                0,
            ),
            (ADJACENCY_LOCAL, AdjacencyKind::Local, 0),
            (TO_LAN, AdjacencyKind::Rewrite(link_header(1)), LAN),
            (TO_WAN, AdjacencyKind::Rewrite(link_header(2)), WAN),
            (INTO_TUNNEL, AdjacencyKind::Tunnel, TUNNEL),
        ] {
            let adjacency = Adjacency {
                kind,
                interface,
                mtu: 1500,
            };
            tables.adjacencies.set(index, Some(Arc::new(adjacency)));
        }
        if let Some(protection) = protection {
            protect(&mut tables, engine, protection)?;
        }
        Ok(Self {
            tables,
            routes: (routes, routes6),
        })
    }

    /// A box with so many tunnels, a /24 network behind each, and an outbound SA with a policy for it.
    pub fn with_tunnels(
        engine: &Arc<dyn Engine>,
        protection: &Protection,
        tunnels: u32,
    ) -> Result<Self, SceneError> {
        let mut this = Self::new(engine, None, 0)?;
        let mut manager = SaManager::new(Arc::clone(engine))?;
        for number in 0..tunnels {
            let (index, adjacency) = (TUNNEL + number, INTO_TUNNELS + number);
            let kind = tunnel_kind(IF_ID + number);
            let tables = &mut this.tables;
            let interface = interface(index, &format!("ipsec{number}"), kind);
            tables.interfaces.set(index, Some(Arc::new(interface)));
            let into = Adjacency {
                kind: AdjacencyKind::Tunnel,
                interface: index,
                mtu: 1500,
            };
            tables.adjacencies.set(adjacency, Some(Arc::new(into)));
            let network = Ipv4Addr::from_bits(BEHIND_TUNNELS.to_bits() + (number << 8));
            let prefix = Ipv4Prefix::new(network, 24)?;
            this.routes.0.insert(prefix, adjacency)?;
            tables.sas.tunnels.set(IF_ID + number, Some(index));
            let protection = protection.of_tunnel(number);
            let spec = sa(
                &protection,
                PEER_SPI + number,
                SaDirection::Out,
                IF_ID + number,
            )?;
            let (encryption, integrity) = (&protection.encryption, &protection.integrity);
            manager.add(&mut tables.sas, spec, encryption, integrity)?;
            let policy = policy(PEER_SPI + number, IF_ID + number);
            manager.add_policy(&mut tables.sas, policy)?;
        }
        Ok(this)
    }
}

/// The outer header of the peer's packets.
pub fn peers_outer_header() -> Option<OuterHeader> {
    OuterHeader::new(PEERS.into(), OURS.into(), None)
}

/// SPI of the peer's packets.
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

fn link_header(last: u8) -> [u8; 14] {
    [2, 0, 0, 0, 1, last, 2, 0, 0, 0, 0, last, 8, 0]
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

/// Installs both SAs and the policy of the tunnel.
fn protect(
    tables: &mut Tables,
    engine: &Arc<dyn Engine>,
    protection: &Protection,
) -> Result<(), SceneError> {
    let mut manager = SaManager::new(Arc::clone(engine))?;
    tables.sas.tunnels.set(IF_ID, Some(TUNNEL));
    for spec in [
        sa(protection, PEER_SPI, SaDirection::Out, IF_ID)?,
        sa(protection, OUR_SPI, SaDirection::In, IF_ID)?,
    ] {
        let (encryption, integrity) = (&protection.encryption, &protection.integrity);
        manager.add(&mut tables.sas, spec, encryption, integrity)?;
    }
    manager.add_policy(&mut tables.sas, policy(PEER_SPI, IF_ID))?;
    Ok(())
}

const EVERYTHING: Selector = Selector {
    source: AddressRange::ALL_V4,
    destination: AddressRange::ALL_V4,
    protocol: None,
    source_ports: PortRange::ANY,
    destination_ports: PortRange::ANY,
};

fn sa(
    protection: &Protection,
    spi: u32,
    direction: SaDirection,
    if_id: u32,
) -> Result<SaSpec, SpiError> {
    let (source, destination) = match direction {
        SaDirection::Out => (OURS, PEERS),
        SaDirection::In => (PEERS, OURS),
    };
    Ok(SaSpec {
        id: SaKeyId {
            spi: Spi::new(spi)?,
            direction,
            destination: destination.into(),
        },
        source: source.into(),
        mode: SaMode::Tunnel,
        suite: protection.suite,
        esn: false,
        replay_window: REPLAY_WINDOW,
        udp: None,
        if_id,
        selectors: vec![EVERYTHING],
        limits: Limits::NONE,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: true,
        tfc_padding: 0,
        reqid: 1,
        timers: [0; 3],
    })
}

fn policy(spi: u32, if_id: u32) -> PolicySpec {
    PolicySpec {
        id: PolicyId {
            outbound: true,
            forward: false,
            if_id,
            selector: EVERYTHING,
            spi,
        },
        action: PolicyAction::Protect,
        priority: 1,
        reqid: 1,
        tunnel: None,
    }
}
