//! For tests: a graph with ports that remember what was sent, and a small network around it.
//!
//! ```text
//!   10.1.0.2 host -- LAN 10.1.0.1/24 [box] WAN 203.0.113.1/24 -- 203.0.113.2 router -- 0.0.0.0/0
//!   2001:db8:1::2         2001:db8:1::1/64     2001:db8:ff::1/64     2001:db8:ff::2        ::/0
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use culvert_crypto::Portable;
use culvert_net::{Ipv4Header, Ipv6Header, MacAddr, Protocol};

use crate::buffer::{BufferPool, Metadata};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::{self, Event, EventReceiver, EventSender};
use crate::fib::{Fib4Writer, Fib6Writer};
use crate::graph::{Context, Graph, Node, NodeId, NodeSpec, Surroundings, Vector};
use crate::port::{Port, Ports};
use crate::tables::{
    ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface,
    InterfaceAddress, InterfaceKind, MssClamp, ReversePath, Tables, VRF_DEFAULT, Vrf,
};

pub const LAN: u32 = 1;
pub const WAN: u32 = 2;
pub const TUNNEL: u32 = 3;
pub const LAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const WAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
pub const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
pub const LAN_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const WAN_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const FAR_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub const LAN_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const HOST_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const WAN_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);
pub const ROUTER_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2);
pub const FAR_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);

/// Adjacencies of the small network.
pub const GLEAN_LAN: u32 = 2;
pub const TO_HOST: u32 = 3;
pub const TO_ROUTER: u32 = 4;
pub const INTO_TUNNEL: u32 = 5;
pub const GLEAN_WAN: u32 = 6;
pub const TO_HOST6: u32 = 7;
pub const TO_ROUTER6: u32 = 8;
pub const BLACKHOLE: u32 = 9;

/// What reached a node that the graph under test does not have.
#[derive(Clone)]
pub struct Arrived {
    pub node: NodeId,
    pub meta: Metadata,
    pub bytes: Vec<u8>,
}

struct Stand {
    spec: &'static NodeSpec,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Node for Stand {
    fn spec(&self) -> &'static NodeSpec {
        self.spec
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            self.arrived.lock().unwrap().push(Arrived {
                node: self.spec.id,
                meta: *context.buffers.meta(&packet),
                bytes: context.buffers.data(&packet).to_vec(),
            });
            context.drop(packet, DropReason::Sink);
        }
    }
}

struct Wire {
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Port for Wire {
    fn input_node(&self) -> NodeId {
        NodeId::EthernetInput
    }

    fn receive(&mut self, _: &mut BufferPool, _: &WorkerCounters, _: &mut Vector) {}

    fn transmit(&mut self, buffers: &mut BufferPool, _: &WorkerCounters, vector: &mut Vector) {
        for packet in vector.drain(..) {
            self.sent
                .lock()
                .unwrap()
                .push(buffers.data(&packet).to_vec());
            buffers.free(packet);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

pub struct Workbench {
    pub graph: Graph,
    pub buffers: BufferPool,
    pub tables: Tables,
    pub counters: WorkerCounters,
    pub now: u64,
    pub fib4: Fib4Writer,
    /// Lives as long as the tables that read what it wrote.
    _fib6: Fib6Writer,
    ports: Ports,
    events: (EventSender, EventReceiver),
    arrived: Arc<Mutex<Vec<Arrived>>>,
    wires: Vec<Arc<Mutex<Vec<Vec<u8>>>>>,
}

impl Workbench {
    /// All nodes of layer 3; the rest of the graph only remembers.
    pub fn layer3() -> Self {
        Self::with(super::layer3())
    }

    /// One node; the rest of the graph only remembers.
    pub fn only(node: Box<dyn Node>) -> Self {
        Self::with(vec![node])
    }

    /// These nodes; the rest of the graph only remembers.
    pub fn with(nodes: Vec<Box<dyn Node>>) -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let there: Vec<_> = nodes.iter().map(|node| node.spec().id).collect();
        let stands = NodeId::ALL
            .iter()
            .filter(|id| !there.contains(id))
            .map(|id| {
                let spec = Box::leak(Box::new(NodeSpec { id: *id, next: &[] }));
                let arrived = Arc::clone(&arrived);
                Box::new(Stand { spec, arrived }) as Box<dyn Node>
            })
            .collect::<Vec<_>>();
        let mut ports = Ports::default();
        let wires: Vec<_> = (0..4).map(|_| Arc::default()).collect();
        for interface in [LAN, WAN] {
            let sent = Arc::clone(&wires[interface as usize]);
            ports.insert(interface, Box::new(Wire { sent }));
        }
        let (fib4, fib6) = routes();
        Self {
            graph: Graph::new(nodes.into_iter().chain(stands)),
            buffers: BufferPool::new(4096).unwrap(),
            tables: network(&fib4, &fib6),
            counters: WorkerCounters::default(),
            now: 1_000_000_000,
            fib4,
            _fib6: fib6,
            ports,
            events: event::channel(),
            arrived,
            wires,
        }
    }

    pub fn receive(&mut self, interface: u32, frame: &[u8]) {
        self.receive_with(interface, frame, |_| {});
    }

    pub fn receive_with(
        &mut self,
        interface: u32,
        frame: &[u8],
        change: impl FnOnce(&mut Metadata),
    ) {
        self.put(NodeId::EthernetInput, interface, frame, change);
    }

    /// Lets bytes wait for a node.
    pub fn put(
        &mut self,
        node: NodeId,
        interface: u32,
        bytes: &[u8],
        change: impl FnOnce(&mut Metadata),
    ) {
        let mut packet = self.buffers.allocate_for(bytes.len()).unwrap();
        let meta = self.buffers.meta_mut(&mut packet);
        meta.set_len(bytes.len()).unwrap();
        meta.rx_interface = interface;
        // A frame as it comes from a driver: nobody has looked for its network header yet.
        if node != NodeId::EthernetInput {
            meta.l3_offset = meta.offset() as u16;
        }
        change(meta);
        self.buffers.data_mut(&mut packet).copy_from_slice(bytes);
        let mut vector = Vector::new();
        vector.push(packet);
        self.around(|graph, around| graph.enqueue(node, &mut vector, around));
    }

    pub fn run(&mut self) {
        // Tests change tables as they like; workers see changes by the generation.
        self.tables.generation += 1;
        self.run_again();
    }

    /// With the very tables of the last run.
    pub fn run_again(&mut self) {
        self.around(|graph, around| {
            graph.run(around);
            around.ports.flush(around.buffers, around.counters);
        });
    }

    pub fn tick(&mut self) {
        self.around(|graph, around| {
            graph.tick(around);
            around.ports.flush(around.buffers, around.counters);
        });
    }

    pub fn around(&mut self, act: impl FnOnce(&mut Graph, &mut Surroundings<'_>)) {
        act(
            &mut self.graph,
            &mut Surroundings {
                buffers: &mut self.buffers,
                tables: &self.tables,
                counters: &self.counters,
                ports: &mut self.ports,
                events: &self.events.0,
                engine: &Portable,
                now: self.now,
                worker: 0,
            },
        );
    }

    /// Takes what was sent by an interface since the last call.
    pub fn sent(&mut self, interface: u32) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.wires[interface as usize].lock().unwrap())
    }

    /// What has reached nodes that are not there.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// Takes what has reached nodes that are not there since the last call.
    pub fn take_arrived(&mut self) -> Vec<Arrived> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }

    /// Takes the events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.1.try_recv().ok()).collect()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drop(reason).get()
    }

    pub fn change_interface(&mut self, index: u32, change: impl FnOnce(&mut Interface)) {
        let mut interface = self.tables.interfaces.get(index).unwrap().as_ref().clone();
        change(&mut interface);
        self.tables.interfaces.set(index, Some(Arc::new(interface)));
        self.tables.generation += 1;
    }

    pub fn set_adjacency(&mut self, index: u32, adjacency: Adjacency) {
        self.tables
            .adjacencies
            .set(index, Some(Arc::new(adjacency)));
        self.tables.generation += 1;
    }

    pub fn resolve(&mut self, interface: u32, address: IpAddr, mac: MacAddr) {
        Arc::make_mut(&mut self.tables.neighbours).insert((interface, address), mac);
        self.tables.generation += 1;
    }

    /// Every buffer is back, or held by a node.
    pub fn finish(&mut self) {
        let held = self.graph.held();
        assert_eq!(self.buffers.available() + held, self.buffers.capacity());
        self.graph.release(&mut self.buffers);
        assert_eq!(self.buffers.available(), self.buffers.capacity());
    }
}

fn routes() -> (Fib4Writer, Fib6Writer) {
    let (mut fib4, mut fib6) = (Fib4Writer::default(), Fib6Writer::default());
    for (prefix, adjacency) in [
        ("10.1.0.0/24", GLEAN_LAN),
        ("10.1.0.1/32", ADJACENCY_LOCAL),
        ("10.1.0.255/32", ADJACENCY_LOCAL),
        ("10.1.0.2/32", TO_HOST),
        ("203.0.113.0/24", GLEAN_WAN),
        ("203.0.113.1/32", ADJACENCY_LOCAL),
        ("203.0.113.2/32", TO_ROUTER),
        ("198.51.100.0/24", TO_ROUTER),
        ("10.2.0.0/16", INTO_TUNNEL),
        ("10.66.0.0/16", BLACKHOLE),
    ] {
        fib4.insert(prefix.parse().unwrap(), adjacency).unwrap();
    }
    for (prefix, adjacency) in [
        ("2001:db8:1::/64", GLEAN_LAN),
        ("2001:db8:1::1/128", ADJACENCY_LOCAL),
        ("2001:db8:1::2/128", TO_HOST6),
        ("2001:db8:ff::/64", GLEAN_WAN),
        ("2001:db8:ff::1/128", ADJACENCY_LOCAL),
        ("2001:db8:ff::2/128", TO_ROUTER6),
        ("2001:db8:ffff::/48", TO_ROUTER6),
        ("2001:db8:2::/48", INTO_TUNNEL),
        ("fe80:0:1::/64", GLEAN_LAN),
        ("fe80:0:1::ff:fe00:101/128", ADJACENCY_LOCAL),
        ("fe80:0:2::/64", GLEAN_WAN),
    ] {
        fib6.insert(prefix.parse().unwrap(), adjacency).unwrap();
    }
    (fib4, fib6)
}

fn network(fib4: &Fib4Writer, fib6: &Fib6Writer) -> Tables {
    let mut tables = Tables {
        generation: 1,
        forwarding: true,
        ..Tables::default()
    };
    tables.vrfs.set(
        VRF_DEFAULT,
        Some(Arc::new(Vrf {
            name: "default".into(),
            fib4: Arc::clone(fib4.fib()),
            fib6: Arc::clone(fib6.fib()),
        })),
    );
    for (index, name, mac, own4, own6) in [
        (LAN, "lan", LAN_MAC, LAN_IP, LAN_IP6),
        (WAN, "wan", WAN_MAC, WAN_IP, WAN_IP6),
    ] {
        tables.interfaces.set(
            index,
            Some(Arc::new(Interface {
                index,
                name: name.into(),
                kind: InterfaceKind::Ethernet { mac },
                vrf: VRF_DEFAULT,
                mtu: 1500,
                admin_up: true,
                mss_clamp: MssClamp::Off,
                reverse_path: ReversePath::Off,
                tap: None,
                addresses4: [InterfaceAddress {
                    address: own4,
                    length: 24,
                    tentative: false,
                }]
                .into(),
                addresses6: [(mac.link_local(), 64), (own6, 64)]
                    .map(|(address, length)| InterfaceAddress {
                        address,
                        length,
                        tentative: false,
                    })
                    .into(),
            })),
        );
    }
    add_tunnel(&mut tables);
    add_adjacencies(&mut tables);
    tables
}

fn add_tunnel(tables: &mut Tables) {
    tables.interfaces.set(
        TUNNEL,
        Some(Arc::new(Interface {
            index: TUNNEL,
            name: "ipsec0".into(),
            kind: InterfaceKind::Tunnel {
                if_id: 1,
                underlay_vrf: VRF_DEFAULT,
                fixed_mtu: None,
                fragmentation: Fragmentation::Before,
                learn_path_mtu: true,
                outer: None,
            },
            vrf: VRF_DEFAULT,
            mtu: 1400,
            admin_up: true,
            mss_clamp: MssClamp::Off,
            reverse_path: ReversePath::Off,
            tap: None,
            addresses4: Arc::new([]),
            addresses6: Arc::new([]),
        })),
    );
}

fn add_adjacencies(tables: &mut Tables) {
    let rewrite = |to: MacAddr, from: MacAddr, kind: [u8; 2]| {
        let mut header = [0; 14];
        header[..6].copy_from_slice(&to.0);
        header[6..12].copy_from_slice(&from.0);
        header[12..].copy_from_slice(&kind);
        AdjacencyKind::Rewrite(header)
    };
    for (index, kind, interface) in [
        (
            ADJACENCY_NO_ROUTE,
            AdjacencyKind::Drop(DropReason::NoRoute),
            0,
        ),
        (ADJACENCY_LOCAL, AdjacencyKind::Local, 0),
        (GLEAN_LAN, AdjacencyKind::Glean, LAN),
        (GLEAN_WAN, AdjacencyKind::Glean, WAN),
        (TO_HOST, rewrite(HOST_MAC, LAN_MAC, [8, 0]), LAN),
        (TO_ROUTER, rewrite(ROUTER_MAC, WAN_MAC, [8, 0]), WAN),
        (TO_HOST6, rewrite(HOST_MAC, LAN_MAC, [0x86, 0xdd]), LAN),
        (TO_ROUTER6, rewrite(ROUTER_MAC, WAN_MAC, [0x86, 0xdd]), WAN),
        (INTO_TUNNEL, AdjacencyKind::Tunnel, TUNNEL),
        (
            BLACKHOLE,
            AdjacencyKind::Drop(DropReason::RouteBlackhole),
            0,
        ),
    ] {
        let adjacency = Adjacency {
            kind,
            interface,
            mtu: 1500,
        };
        tables.adjacencies.set(index, Some(Arc::new(adjacency)));
    }
}

pub fn frame(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = destination.to_vec();
    bytes.extend(source);
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet with a right checksum; `change` may spoil it before the checksum is made.
pub fn packet4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet4_with(source, destination, protocol, payload, |_| {})
}

pub fn packet4_with(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header {
        traffic_class: 0,
        total_len: 20 + payload.len() as u16,
        identification: 7,
        flags_fragment: 0,
        ttl: 64,
        protocol: Protocol(protocol),
        source,
        destination,
    };
    change(&mut header);
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

pub fn packet6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header: Protocol(next),
        hop_limit,
        source,
        destination,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// To the box, from the LAN's host.
pub fn from_host(ip: &[u8]) -> Vec<u8> {
    let ether_type = if ip[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    frame(LAN_MAC.0, HOST_MAC.0, ether_type, ip)
}
