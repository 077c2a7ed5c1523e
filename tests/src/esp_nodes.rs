//! Our ESP nodes in memory: a worker without ports, into whose graph packets are put and from which they are taken.
//!
//! ```text
//!   seal:  inner packet -> tunnel-output -> esp-encrypt -> | outer packet
//!   open:  outer packet -> esp-decrypt -> | inner packet
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use culvert_crypto::{Cipher, Integrity, Portable, Suite};
use culvert_dataplane::buffer::BufferPool;
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::event::{self, EventReceiver, EventSender};
use culvert_dataplane::graph::{Context, Graph, Node, NodeId, NodeSpec, Surroundings, Vector};
use culvert_dataplane::nodes::{
    esp_decrypt::EspDecrypt, esp_encrypt::EspEncrypt, tunnel_output::TunnelOutput,
};
use culvert_dataplane::port::Ports;
use culvert_dataplane::sa::{
    OuterRules, PolicyAction, PolicyId, PolicySpec, SaDirection, SaKeyId, SaManager, SaSpec, Usage,
    service,
};
use culvert_dataplane::tables::{
    ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface, InterfaceKind,
    MssClamp, ReversePath, Tables,
};
use culvert_model::bus;
use culvert_net::{AddressRange, HeaderPlace, PortRange, Selector};
use serde_json::{Value, json};

use crate::scapy::to_hex;

/// Index of the tunnel interface, of its adjacency, and its `if_id`.
const TUNNEL: u32 = 3;
const INTO_TUNNEL: u32 = 9;
const UNDERLAY: u32 = 2;
const IF_ID: u32 = 42;

/// One SA as both ends know it.
#[derive(Clone, Debug)]
pub struct Association {
    /// Algorithms.
    pub suite: Suite,
    /// Encryption key, salt included.
    pub encryption: Vec<u8>,
    /// Integrity key.
    pub integrity: Vec<u8>,
    /// Its number.
    pub spi: u32,
    /// The outer source.
    pub source: IpAddr,
    /// The outer destination.
    pub destination: IpAddr,
    /// In UDP, 4500 to 4500.
    pub udp: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Transport mode.
    pub transport: bool,
}

impl Association {
    /// One between addresses for documentation, with keys that are the same every time.
    pub fn example(suite: Suite, v6: bool, udp: bool, esn: bool) -> Self {
        let address = |last: u8| -> IpAddr {
            if v6 {
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into()
            } else {
                [192, 0, 2, last].into()
            }
        };
        let key = |length: usize, seed: u8| -> Vec<u8> {
            (0..length)
                .map(|at| seed.wrapping_add(at as u8).wrapping_mul(37))
                .collect()
        };
        Self {
            suite,
            encryption: key(suite.encryption_key_len(), 3),
            integrity: key(suite.integrity_key_len(), 91),
            spi: 0xc0de_0001,
            source: address(1),
            destination: address(2),
            udp,
            esn,
            transport: false,
        }
    }

    /// As scapy is told of it.
    pub fn told(&self) -> Value {
        json!({
            "suite": self.suite.to_string(),
            "encryption": to_hex(&self.encryption),
            "integrity": to_hex(&self.integrity),
            "spi": self.spi,
            "source": self.source,
            "destination": self.destination,
            "udp": self.udp,
            "esn": self.esn,
            "transport": self.transport,
        })
    }
}

/// What an SA and its tunnel are asked for beyond what both ends must know.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Packets of the replay window.
    pub replay_window: u32,
    /// Bytes to which inner packets are padded.
    pub tfc_padding: u32,
    /// Bytes of the largest packet that the underlay takes.
    pub underlay_mtu: u16,
    /// What the tunnel's outer headers are like.
    pub outer: Option<OuterRules>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            replay_window: 128,
            tfc_padding: 0,
            underlay_mtu: 1500,
            outer: None,
        }
    }
}

/// A worker that knows one SA, outbound and inbound.
pub struct EspNodes {
    buffers: BufferPool,
    tables: Tables,
    counters: WorkerCounters,
    ports: Ports,
    sender: EventSender,
    _events: EventReceiver,
    graph: Graph,
    arrivals: Arc<Mutex<Vec<Vec<u8>>>>,
    outbound: SaKeyId,
    manager: SaManager,
}

impl EspNodes {
    /// Installs the SA for both directions.
    pub fn new(association: &Association) -> anyhow::Result<Self> {
        Self::with(association, &Choices::default())
    }

    /// Installs the SA for both directions, with these choices.
    pub fn with(association: &Association, choices: &Choices) -> anyhow::Result<Self> {
        let arrivals = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let collectors = NodeId::ALL.iter().map(|id| {
            // Lives as long as the process, as the specifications of real nodes do.
            let spec: &'static NodeSpec = Box::leak(Box::new(NodeSpec { id: *id, next: &[] }));
            let arrivals = Arc::clone(&arrivals);
            Box::new(Collect { spec, arrivals }) as Box<dyn Node>
        });
        let nodes: [Box<dyn Node>; 3] = [
            Box::new(TunnelOutput::default()),
            Box::new(EspEncrypt),
            Box::new(EspDecrypt),
        ];
        let graph = Graph::new(collectors.chain(nodes));
        let mut tables = tables(choices);
        let mut manager = SaManager::new(Arc::new(Portable))?;
        let outbound = spec(association, choices, bus::Direction::Out)?;
        let id = outbound.id;
        let inbound = spec(association, choices, bus::Direction::In)?;
        for spec in [inbound, outbound] {
            manager.add(
                &mut tables.sas,
                spec,
                &association.encryption,
                &association.integrity,
            )?;
        }
        for selector in everything() {
            let id = PolicyId {
                outbound: true,
                forward: false,
                if_id: IF_ID,
                selector,
                spi: association.spi,
            };
            let policy = PolicySpec {
                id,
                action: PolicyAction::Protect,
                priority: 1,
                reqid: 7,
                tunnel: None,
            };
            manager.add_policy(&mut tables.sas, policy)?;
        }
        let (sender, events) = event::channel();
        Ok(Self {
            buffers: BufferPool::new(1024)?,
            tables,
            counters: WorkerCounters::default(),
            ports: Ports::default(),
            sender,
            _events: events,
            graph,
            arrivals,
            outbound: id,
            manager,
        })
    }

    /// Encrypts packets of the LAN: what would leave on the underlay.
    pub fn seal(&mut self, inner: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        self.run(NodeId::TunnelOutput, inner)
    }

    /// Decrypts packets of the underlay: what would go on into the LAN.
    pub fn open(&mut self, outer: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        self.run(NodeId::EspDecrypt, outer)
    }

    /// Lets this many sequence numbers go by unused.
    pub fn skip(&mut self, numbers: usize) -> anyhow::Result<()> {
        let sa = self.manager.get(&self.tables.sas, self.outbound);
        let sa = sa.context("the outbound SA is gone")?;
        let reserved = sa.state.reserve(numbers, 0, std::iter::repeat(0), 1);
        ensure!(reserved.granted == numbers, "{reserved:?}");
        Ok(())
    }

    /// What the inbound SA has seen.
    pub fn received(&self) -> anyhow::Result<Usage> {
        let inbound = SaKeyId {
            direction: SaDirection::In,
            ..self.outbound
        };
        let sa = self.manager.get(&self.tables.sas, inbound);
        Ok(sa.context("the inbound SA is gone")?.state.usage())
    }

    /// Packets dropped for this reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drop(reason).get()
    }

    fn run(&mut self, node: NodeId, packets: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut vector = Vector::new();
        for bytes in packets {
            let mut packet = self.buffers.allocate().context("out of buffers")?;
            // As ip4-local and ip6-local mark it.
            let header = match bytes.first() {
                Some(first) if first >> 4 == 6 => HeaderPlace::find(bytes, |_, _| true)?.offset,
                Some(first) => usize::from(first & 0x0f) * 4,
                None => 0,
            };
            let (meta, _) = self.buffers.parts_mut(&mut packet);
            meta.set_len(bytes.len())?;
            meta.adjacency = INTO_TUNNEL;
            meta.l4_offset = (meta.offset() + header) as u16;
            self.buffers.data_mut(&mut packet).copy_from_slice(bytes);
            vector.push(packet);
        }
        let mut around = Surroundings {
            buffers: &mut self.buffers,
            tables: &self.tables,
            counters: &self.counters,
            ports: &mut self.ports,
            events: &self.sender,
            engine: &Portable,
            now: 1_000_000_000,
            worker: 0,
        };
        self.graph.enqueue(node, &mut vector, &mut around);
        self.graph.run(&mut around);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *arrivals))
    }
}

struct Collect {
    spec: &'static NodeSpec,
    arrivals: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Node for Collect {
    fn spec(&self) -> &'static NodeSpec {
        self.spec
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in vector.drain(..) {
            arrivals.push(context.buffers.data(&packet).to_vec());
            context.buffers.free(packet);
        }
    }
}

fn everything() -> [Selector; 2] {
    [AddressRange::ALL_V4, AddressRange::ALL_V6].map(|all| Selector {
        source: all,
        destination: all,
        protocol: None,
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
    })
}

/// As iked-bridge would ask for it.
fn spec(
    association: &Association,
    choices: &Choices,
    direction: bus::Direction,
) -> anyhow::Result<SaSpec> {
    let (encryption, bits) = match association.suite.cipher() {
        Cipher::AesGcm16(bits) => (bus::EncryptionAlgorithm::AesGcm16, bits.bits()),
        Cipher::AesGcm12(bits) => (bus::EncryptionAlgorithm::AesGcm12, bits.bits()),
        Cipher::AesGcm8(bits) => (bus::EncryptionAlgorithm::AesGcm8, bits.bits()),
        Cipher::AesGmac(bits) => (bus::EncryptionAlgorithm::AesGmac, bits.bits()),
        Cipher::AesCbc(bits) => (bus::EncryptionAlgorithm::AesCbc, bits.bits()),
        Cipher::AesCtr(bits) => (bus::EncryptionAlgorithm::AesCtr, bits.bits()),
        Cipher::Null => (bus::EncryptionAlgorithm::Null, 0),
        Cipher::ChaCha20Poly1305 => (bus::EncryptionAlgorithm::Chacha20Poly1305, 256),
    };
    let integrity = match association.suite.integrity() {
        Integrity::Aead => bus::IntegrityAlgorithm::Aead,
        Integrity::HmacSha1_96 => bus::IntegrityAlgorithm::HmacSha196,
        Integrity::HmacSha2_256_128 => bus::IntegrityAlgorithm::HmacSha2256128,
        Integrity::HmacSha2_384_192 => bus::IntegrityAlgorithm::HmacSha2384192,
        Integrity::HmacSha2_512_256 => bus::IntegrityAlgorithm::HmacSha2512256,
    };
    let (sources, destinations) = everything().iter().map(service::selector_to_bus).unzip();
    let sa = bus::Sa {
        key: Some(bus::SaKey {
            spi: association.spi,
            direction: direction.into(),
            destination: Some(association.destination.into()),
        }),
        source: Some(association.source.into()),
        mode: if association.transport {
            bus::SaMode::Transport.into()
        } else {
            bus::SaMode::Tunnel.into()
        },
        encryption: encryption.into(),
        encryption_key_bits: bits.into(),
        integrity: integrity.into(),
        esn: association.esn,
        replay_window: choices.replay_window,
        tfc_padding: choices.tfc_padding,
        udp: association.udp.then_some(bus::UdpEncapsulation {
            source_port: 4500,
            destination_port: 4500,
        }),
        if_id: IF_ID,
        reqid: 1,
        source_selectors: sources,
        destination_selectors: destinations,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: true,
        ..bus::Sa::default()
    };
    Ok(service::sa_from_bus(&sa)?)
}

fn tables(choices: &Choices) -> Tables {
    let mut tables = Tables::default();
    let interface = Interface {
        index: TUNNEL,
        name: "ipsec0".into(),
        kind: InterfaceKind::Tunnel {
            if_id: IF_ID,
            underlay_vrf: 0,
            fixed_mtu: Some(1400),
            fragmentation: Fragmentation::Before,
            learn_path_mtu: true,
            outer: choices.outer,
        },
        vrf: 0,
        mtu: 1400,
        admin_up: true,
        mss_clamp: MssClamp::Off,
        reverse_path: ReversePath::Off,
        tap: None,
        addresses4: Arc::default(),
        addresses6: Arc::default(),
    };
    tables.interfaces.set(TUNNEL, Some(Arc::new(interface)));
    // The peer is reached by what no other route covers.
    let underlay = Adjacency {
        kind: AdjacencyKind::Rewrite([0; 14]),
        interface: UNDERLAY,
        mtu: choices.underlay_mtu,
    };
    tables
        .adjacencies
        .set(ADJACENCY_NO_ROUTE, Some(Arc::new(underlay)));
    let adjacency = Adjacency {
        kind: AdjacencyKind::Tunnel,
        interface: TUNNEL,
        mtu: 1400,
    };
    tables
        .adjacencies
        .set(INTO_TUNNEL, Some(Arc::new(adjacency)));
    tables.sas.tunnels.set(IF_ID, Some(TUNNEL));
    tables
}
