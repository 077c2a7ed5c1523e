//! The network around the node that is measured: interfaces, routes, tunnels, SAs and policies.
//!
//! ```text
//!   10.1.0.0/16, 2001:db8:1::/64 -- LAN [ box ] WAN 192.0.2.2, 2001:db8:ff::2 -- router, peer 198.51.100.2
//!                                       |-- ipsec0 (10.2.0.0/16), gre0, ports0 (its policy looks at ports)
//!                                       '-- ipsec0000 to ipsec0999
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use culvert_crypto::{Engine, KeyMaterial, SaKey, Suite};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::encapsulation::{Ends, Mode};
use culvert_dataplane::fib::{Fib4, Fib4Writer, Fib6, Fib6Writer};
use culvert_dataplane::sa::{
    Configured, ConfiguredPolicy, Limits, OuterRules, PolicyAction, PolicyId, PolicySpec,
    SaDirection, SaKeyId, SaManager, SaMode, SaSpec,
};
use culvert_dataplane::tables::{
    ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface,
    InterfaceAddress, InterfaceKind, MssClamp, PolicyBased, ReversePath, Tables, VRF_DEFAULT, Vrf,
};
use culvert_net::{
    AddressRange, IpPrefix, Ipv4Prefix, Ipv6Prefix, MacAddr, PortRange, Protocol, Selector, Spi,
};

/// Towards the hosts.
pub const LAN: u32 = 1;
/// Towards the peer.
pub const WAN: u32 = 2;
/// The tunnel with one SA for everything.
pub const TUNNEL: u32 = 3;
/// The tunnel of GRE.
pub const GRE: u32 = 4;
const PORTS: u32 = 5;
/// The first of many tunnels.
pub const TUNNELS: u32 = 1000;
/// How many these are.
pub const MANY: u32 = 1000;

/// Adjacencies: to the router, the same for IPv6, into the tunnels, to one of eight routers.
pub const TO_WAN: u32 = 3;
pub const TO_WAN6: u32 = 4;
pub const INTO_TUNNEL: u32 = 5;
pub const INTO_PORTS: u32 = 6;
pub const ONE_OF_EIGHT: u32 = 7;
pub const UNRESOLVED: u32 = 8;
/// The way out to a link that takes 576 bytes.
pub const NARROW: u32 = 9;
const TO_LAN: u32 = 2;
const EIGHT: u32 = 10;
/// The first of those into many tunnels.
pub const INTO_TUNNELS: u32 = 1000;

pub const LAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const LAN_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const LAN_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const HOST_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OURS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2);
pub const PEERS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Behind the tunnel.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
/// SPIs of what the peer sends: each row needs sequence numbers of its own.
pub const OUR_SPIS: [u32; 2] = [0xc100_0001, 0xc100_0002];
const PEER_SPI: u32 = 0xc200_0000;
/// Policies that are there where policies are asked.
pub const POLICIES: u8 = 100;
/// What protects all tunnels.
pub const SUITE: Suite = Suite::AES128GCM16;

const IF_ID: u32 = 42;
const PORTS_IF_ID: u32 = 43;
const MANY_IF_ID: u32 = 1000;

/// The tables, and what must live as long as they do.
pub struct Network {
    pub tables: Tables,
    manager: SaManager,
    _routes: (Fib4Writer, Fib6Writer),
}

impl Network {
    /// All but the policies of `if_id` 0.
    pub fn new(engine: &Arc<dyn Engine>) -> Self {
        let (mut fib4, mut fib6) = (Fib4Writer::default(), Fib6Writer::default());
        for (prefix, adjacency) in [
            ("10.1.0.0/16", TO_LAN),
            ("10.1.0.1/32", ADJACENCY_LOCAL),
            ("10.2.0.0/16", INTO_TUNNEL),
            ("198.51.100.2/32", TO_WAN),
            ("192.0.2.2/32", ADJACENCY_LOCAL),
        ] {
            let prefix: Ipv4Prefix = prefix.parse().expect("a prefix");
            fib4.insert(prefix, adjacency).expect("there is room");
        }
        for (prefix, adjacency) in [
            ("2001:db8:2::/48", TO_WAN6),
            ("2001:db8:ff::2/128", ADJACENCY_LOCAL),
        ] {
            let prefix: Ipv6Prefix = prefix.parse().expect("a prefix");
            fib6.insert(prefix, adjacency).expect("there is room");
        }
        let (tables4, tables6) = (Arc::clone(fib4.fib()), Arc::clone(fib6.fib()));
        let mut this = Self {
            tables: Tables {
                generation: 1,
                forwarding: true,
                ..Tables::default()
            },
            manager: SaManager::new(Arc::clone(engine)).expect("there is randomness"),
            _routes: (fib4, fib6),
        };
        this.vrf(VRF_DEFAULT, &tables4, &tables6);
        this.interfaces();
        this.adjacencies();
        this.tunnels();
        this
    }

    /// A VRF with these routes.
    pub fn vrf(&mut self, index: u32, fib4: &Arc<Fib4>, fib6: &Arc<Fib6>) {
        let vrf = Vrf {
            name: format!("vrf{index}").into(),
            fib4: Arc::clone(fib4),
            fib6: Arc::clone(fib6),
        };
        self.tables.vrfs.set(index, Some(Arc::new(vrf)));
    }

    /// The tables with policies of `if_id` 0, each of which lets a /24 of 10.3.0.0/16 pass.
    pub fn with_policies(&mut self) -> Tables {
        let policies = (0..POLICIES).map(|number| {
            let behind = Ipv4Prefix::covering(Ipv4Addr::new(10, 3, number, 0), 24);
            let near = Ipv4Prefix::covering(LAN_IP, 16);
            let (near, behind) = (near.expect("a prefix"), behind.expect("a prefix"));
            ConfiguredPolicy {
                selector: Selector::between(IpPrefix::V4(near), IpPrefix::V4(behind)),
                action: PolicyAction::Bypass,
                priority: 1 + u16::from(number),
            }
        });
        let mut tables = self.tables.clone();
        let configured = Configured::Policies(policies.collect());
        self.manager
            .configure(&mut tables.sas, "passing", Some(&configured))
            .expect("there is room for so many policies");
        tables.policy_based = Some(PolicyBased {
            vrf: VRF_DEFAULT,
            adjacency: INTO_TUNNEL,
        });
        tables
    }

    /// The tables with another version of an interface.
    pub fn with_interface(&self, index: u32, change: impl FnOnce(&mut Interface)) -> Tables {
        let mut tables = self.tables.clone();
        let mut interface = tables
            .interfaces
            .get(index)
            .expect("it is there")
            .as_ref()
            .clone();
        change(&mut interface);
        tables.interfaces.set(index, Some(Arc::new(interface)));
        tables
    }

    fn interfaces(&mut self) {
        let ethernet = |last| InterfaceKind::Ethernet {
            mac: MacAddr([2, 0, 0, 0, 0, last]),
        };
        let encapsulation = InterfaceKind::Encapsulation {
            underlay_vrf: VRF_DEFAULT,
            fixed_mtu: None,
            protection: None,
            outer: OuterRules::default(),
        };
        for (index, kind, own4, own6) in [
            (LAN, ethernet(1), Some(LAN_IP), Some(LAN_IP6)),
            (WAN, ethernet(2), Some(OURS), Some(OURS6)),
            (TUNNEL, tunnel(IF_ID), None, None),
            (GRE, encapsulation, None, None),
            (PORTS, tunnel(PORTS_IF_ID), None, None),
        ] {
            let interface = Interface {
                addresses4: own4.into_iter().map(|own| address(own, 16)).collect(),
                addresses6: own6.into_iter().map(|own| address(own, 64)).collect(),
                ..interface(index, kind)
            };
            self.tables.interfaces.set(index, Some(Arc::new(interface)));
        }
        let ends = Ends {
            underlay_vrf: VRF_DEFAULT,
            local: OURS.into(),
            remote: PEERS.into(),
            mode: Mode::Gre(None),
        };
        self.tables.encapsulations.set(GRE, Some(ends));
        let hosts = (0..=u8::MAX).map(|host| (host4(host).into(), HOST_MAC));
        let hosts = hosts.chain([(IpAddr::from(HOST_IP6), HOST_MAC)]);
        self.tables.neighbours = Arc::new(hosts.map(|(host, mac)| ((LAN, host), mac)).collect());
    }

    fn adjacencies(&mut self) {
        let link = |ether_type: [u8; 2]| {
            let [high, low] = ether_type;
            AdjacencyKind::Rewrite([2, 0, 0, 0, 2, 2, 2, 0, 0, 0, 0, 2, high, low])
        };
        let nobody = AdjacencyKind::Unresolved(Ipv4Addr::new(192, 0, 2, 99).into());
        let eight: Arc<[u32]> = (EIGHT..EIGHT + 8).collect();
        let mut all = vec![
            (
                ADJACENCY_NO_ROUTE,
                AdjacencyKind::Drop(DropReason::NoRoute),
                0,
            ),
            (ADJACENCY_LOCAL, AdjacencyKind::Local, 0),
            (TO_LAN, link([8, 0]), LAN),
            (TO_WAN, link([8, 0]), WAN),
            (TO_WAN6, link([0x86, 0xdd]), WAN),
            (NARROW, link([8, 0]), WAN),
            (INTO_TUNNEL, AdjacencyKind::Tunnel, TUNNEL),
            (INTO_PORTS, AdjacencyKind::Tunnel, PORTS),
            (ONE_OF_EIGHT, AdjacencyKind::Multipath(eight), 0),
            (UNRESOLVED, nobody, WAN),
        ];
        all.extend((EIGHT..EIGHT + 8).map(|index| (index, link([8, 0]), WAN)));
        all.extend((0..MANY).map(|number| {
            (
                INTO_TUNNELS + number,
                AdjacencyKind::Tunnel,
                TUNNELS + number,
            )
        }));
        for (index, kind, interface) in all {
            let adjacency = Adjacency {
                kind,
                interface,
                mtu: if index == NARROW { 576 } else { 1500 },
            };
            self.tables
                .adjacencies
                .set(index, Some(Arc::new(adjacency)));
        }
    }

    fn tunnels(&mut self) {
        let ports = Selector {
            protocol: Some(Protocol::UDP),
            destination_ports: PortRange::new(0, 1023).expect("a range"),
            ..EVERYTHING
        };
        self.protect(IF_ID, TUNNEL, EVERYTHING);
        self.protect(PORTS_IF_ID, PORTS, ports);
        for number in 0..MANY {
            let (if_id, index) = (MANY_IF_ID + number, TUNNELS + number);
            let interface = interface(index, tunnel(if_id));
            self.tables.interfaces.set(index, Some(Arc::new(interface)));
            self.protect(if_id, index, EVERYTHING);
        }
        for spi in OUR_SPIS {
            let inbound = SaSpec {
                id: SaKeyId {
                    spi: Spi::new(spi).expect("an SPI"),
                    direction: SaDirection::In,
                    destination: OURS.into(),
                },
                source: PEERS.into(),
                ..sa(IF_ID, EVERYTHING)
            };
            self.manager
                .add(&mut self.tables.sas, inbound, &key(spi), &[])
                .expect("the SA is right");
        }
    }

    /// An outbound SA and its policy.
    fn protect(&mut self, if_id: u32, index: u32, selector: Selector) {
        let sas = &mut self.tables.sas;
        sas.tunnels.set(if_id, Some(index));
        self.manager
            .add(sas, sa(if_id, selector), &key(if_id), &[])
            .expect("the SA is right");
        let policy = PolicySpec {
            id: PolicyId {
                outbound: true,
                forward: false,
                if_id,
                selector,
                spi: PEER_SPI + if_id,
            },
            action: PolicyAction::Protect,
            priority: 1,
            reqid: 1,
            tunnel: None,
        };
        self.manager
            .add_policy(sas, policy)
            .expect("the policy is right");
    }
}

/// A host on the LAN.
pub const fn host4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 1, number)
}

/// The peer's key for what it sends to us with this SPI.
pub fn peers_key(engine: &dyn Engine, spi: u32) -> SaKey {
    engine
        .key(&KeyMaterial {
            suite: SUITE,
            encryption: &key(spi),
            integrity: &[],
            esn: false,
        })
        .expect("the key is as long as it must be")
}

/// Another key for each number.
fn key(number: u32) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(SUITE.encryption_key_len())
        .collect()
}

const EVERYTHING: Selector = Selector {
    source: AddressRange::ALL_V4,
    destination: AddressRange::ALL_V4,
    protocol: None,
    source_ports: PortRange::ANY,
    destination_ports: PortRange::ANY,
};

fn sa(if_id: u32, selector: Selector) -> SaSpec {
    SaSpec {
        id: SaKeyId {
            spi: Spi::new(PEER_SPI + if_id).expect("an SPI"),
            direction: SaDirection::Out,
            destination: PEERS.into(),
        },
        source: OURS.into(),
        mode: SaMode::Tunnel,
        suite: SUITE,
        esn: false,
        replay_window: 1024,
        udp: None,
        if_id,
        selectors: vec![selector],
        limits: Limits::NONE,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: true,
        tfc_padding: 0,
        reqid: 1,
        timers: [0; 3],
    }
}

fn tunnel(if_id: u32) -> InterfaceKind {
    InterfaceKind::Tunnel {
        if_id,
        underlay_vrf: VRF_DEFAULT,
        fixed_mtu: None,
        fragmentation: Fragmentation::Before,
        learn_path_mtu: true,
        outer: None,
    }
}

fn interface(index: u32, kind: InterfaceKind) -> Interface {
    Interface {
        index,
        name: format!("interface{index}").into(),
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

fn address<A>(address: A, length: u8) -> InterfaceAddress<A> {
    InterfaceAddress {
        address,
        length,
        tentative: false,
    }
}
