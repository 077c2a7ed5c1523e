//! Frames into every node of the graph, with the control plane behind it: nothing panics, no buffer is lost, and
//! nothing that only the tunnel's routes cover leaves in the clear.
//!
//! ```text
//!   input = records:  kind | length (2 bytes, big endian) | bytes
//!           kind % 8: 0, 1  a frame from the LAN, the same with its IPv4 checksum mended
//!                     2, 3  from the WAN
//!                     4     what Linux writes to the LAN's TAP
//!                     5     to the WAN's
//!                     6     plaintext with its trailer, sealed by the peer; where there are several SAs, behind a byte
//!                           that says by which
//!                     7     time goes by: the length in milliseconds
//! ```
//!
//! The gateway is one that a configuration describes, as a person would write it: a plain one, or one with everything
//! (see `setting`).

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_crypto::{Engine, KeyMaterial, Portable, SaKey, SealOp};
use culvert_dataplane::buffer::{BufferPool, LARGE_DATA, Packet};
use culvert_dataplane::control::{Action, ControlPlane, DetectionTiming};
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::event::{self, EventReceiver, EventSender};
use culvert_dataplane::graph::{Graph, NodeId, Surroundings, Vector};
use culvert_dataplane::nodes;
use culvert_dataplane::observe::Filter;
use culvert_dataplane::observe::capture::{Capture, Captured, Order, Point};
use culvert_dataplane::observe::trace::{Numbers, Trace, Visits};
use culvert_dataplane::port::{Port, Ports, tap_port};
use culvert_dataplane::sa::{Configured, PolicyAction, PolicyId, PolicySpec, SaManager, service};
use culvert_dataplane::tables::{Publisher, Tables};
use culvert_model::plan::{self, DigestKey, Part};
use culvert_model::{bus, decode};
use culvert_net::{EthernetHeader, Ipv4Header, Ipv6Header, MacAddr, Protocol, checksum};

use super::setting::{OWN, PEER, PLAIN, SPI, Setting, WITH_EVERYTHING};

const LAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const WAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const KEY: [u8; 20] = *b"sixteen bytes + salt";
/// No frame of the interfaces is longer: an MTU of 1500, an Ethernet header and two VLAN tags.
const LONGEST: usize = 1500 + 22;
const BUFFERS: usize = 512;
const MILLISECOND: u64 = 1_000_000;

/// Feeds one input to a gateway of its own.
pub fn feed(input: &[u8]) {
    drive(&PLAIN, input).end();
}

/// The same with everything that a gateway can be told to do.
pub fn feed_everything(input: &[u8]) {
    drive(&WITH_EVERYTHING, input).end();
}

fn drive(setting: &'static Setting, input: &[u8]) -> Gateway {
    let mut gateway = Gateway::new(setting);
    let mut rest = input;
    while let [kind, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let kind = kind % 8;
        if kind == 7 {
            gateway.wait(length as u64 * MILLISECOND);
            rest = more;
            continue;
        }
        let (record, after) = more.split_at(length.min(more.len()));
        rest = after;
        gateway.take(kind, record);
        gateway.run();
    }
    gateway.wait(100 * MILLISECOND);
    gateway
}

/// Looks at what leaves by one interface.
struct Wire {
    input: NodeId,
    is_wan: bool,
    sent: Sent,
    setting: &'static Setting,
}

/// Frames by what they are for: a LAN's host, the peer's ESP, anybody else.
#[derive(Clone, Default)]
struct Sent(Arc<[AtomicU64; 3]>);

impl Sent {
    fn count(&self, is_wan: bool, frame: &[u8]) {
        let is_esp = frame.get(23) == Some(&Protocol::ESP.0);
        let place = if is_wan { 2 - usize::from(is_esp) } else { 0 };
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }
}

impl Port for Wire {
    fn input_node(&self) -> NodeId {
        self.input
    }

    fn receive(&mut self, _: &mut BufferPool, _: &WorkerCounters, _: &mut Vector) {}

    fn transmit(&mut self, buffers: &mut BufferPool, _: &WorkerCounters, vector: &mut Vector) {
        for packet in vector.drain(..) {
            let frame = buffers.data(&packet);
            if self.input == NodeId::EthernetInput {
                assert!(frame.len() <= LONGEST, "a frame of {} bytes", frame.len());
            }
            if self.input == NodeId::EthernetInput {
                self.sent.count(self.is_wan, frame);
            }
            assert!(
                !self.is_wan || !(self.setting.is_secret)(frame),
                "in the clear: {frame:02x?}"
            );
            buffers.free(packet);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Gateway {
    setting: &'static Setting,
    manager: SaManager,
    plane: ControlPlane,
    publisher: Publisher,
    graph: Graph,
    buffers: BufferPool,
    counters: WorkerCounters,
    ports: Ports,
    sent: Sent,
    sender: EventSender,
    receiver: EventReceiver,
    now: u64,
    lan: u32,
    wan: u32,
    peer: SaKey,
    sequence: u64,
}

impl Gateway {
    fn new(setting: &'static Setting) -> Self {
        let Ok(manager) = SaManager::new(Arc::new(Portable)) else {
            panic!("no random numbers");
        };
        let publisher = Publisher::new(Tables::default());
        let plane = ControlPlane::new(publisher.clone(), DetectionTiming::default());
        let (sender, receiver) = event::channel();
        let all = nodes::layer3()
            .into_iter()
            .chain(nodes::tunnels())
            .chain(culvert_tap_inject::nodes::nodes());
        let Ok(suite) = "aes128gcm16".parse() else {
            panic!("aes128gcm16 is a suite");
        };
        let material = KeyMaterial {
            suite,
            encryption: &KEY,
            integrity: &[],
            esn: false,
        };
        let Ok(peer) = Portable.key(&material) else {
            panic!("the peer's key is one");
        };
        let Ok(buffers) = BufferPool::new(BUFFERS) else {
            panic!("no memory for buffers");
        };
        let mut gateway = Self {
            setting,
            manager,
            plane,
            publisher,
            graph: Graph::new(all),
            buffers,
            counters: WorkerCounters::default(),
            ports: Ports::default(),
            sent: Sent::default(),
            sender,
            receiver,
            now: 1000 * MILLISECOND,
            lan: 0,
            wan: 0,
            peer,
            sequence: 0,
        };
        gateway.configure();
        gateway.install();
        // Duplicate detection of the addresses.
        for _ in 0..10 {
            gateway.wait(1000 * MILLISECOND);
        }
        gateway.ask_for_neighbours();
        gateway.watch();
        gateway
    }

    /// Lets packets wait for the host and the router: only who is wanted is known once it answers.
    fn ask_for_neighbours(&mut self) {
        let udp = [0, 9, 0, 9, 0, 8, 0, 0];
        let four = |source: [u8; 4], destination: [u8; 4]| {
            let header = Ipv4Header {
                traffic_class: 0,
                total_len: 28,
                identification: 0,
                flags_fragment: 0,
                ttl: 64,
                protocol: Protocol::UDP,
                source: source.into(),
                destination: destination.into(),
            };
            [&[8, 0][..], &header.to_bytes(), &udp].concat()
        };
        let six = |source: [u16; 8], destination: [u16; 8]| {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: 8,
                next_header: Protocol::UDP,
                hop_limit: 64,
                source: source.into(),
                destination: destination.into(),
            };
            [&[0x86, 0xdd][..], &header.to_bytes(), &udp].concat()
        };
        let (host, router) = ([10, 1, 0, 10], [192, 0, 2, 1]);
        let (host6, router6) = (
            [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10],
            [0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2],
        );
        for (kind, mac, packet) in [
            (0, LAN_MAC, four(host, router)),
            (0, LAN_MAC, six(host6, router6)),
            (2, WAN_MAC, four(router, host)),
        ] {
            let frame = [&mac.0[..], &[2, 0, 0, 0, 9, 9], &packet].concat();
            self.take(kind, &frame);
            self.run();
        }
    }

    /// Looks at the first packets at every node, and at all that are dropped: whoever looks must stand anything, too.
    fn watch(&mut self) {
        let trace = Trace::new(
            Arc::new(Filter::ALL),
            None,
            Arc::new(Numbers::new(0, 8)),
            Visits::with_room(100),
        );
        let order = Order::new(Point::Drop, Filter::ALL, 256, 50);
        let capture = Capture::new(Arc::new(order), Captured::with_room(50, 8192));
        self.graph.observe(|observer| {
            observer.trace = Some(Box::new(trace));
            observer.capture = Some(Box::new(capture));
        });
    }

    /// Applies what the configuration plans for the dataplane, in whatever order it can be.
    fn configure(&mut self) {
        let config = match decode::config_from_json(self.setting.configuration.as_bytes()) {
            Ok(config) => config,
            Err(errors) => panic!("{errors}"),
        };
        let planned = match plan::plan(&config, &DigestKey::new([0; 32])) {
            Ok(planned) => planned,
            Err(errors) => panic!("{errors}"),
        };
        let mut waiting: Vec<bus::Operation> = planned
            .into_iter()
            .filter(|(_, value)| value.part == Part::Dataplane)
            .map(|(key, value)| bus::Operation {
                verb: bus::operation::Verb::Create.into(),
                key: key.into(),
                value: Some(value.value.clone()),
            })
            .collect();
        let device = |name: &str| Some(if name == "lan0" { LAN_MAC } else { WAN_MAC });
        let mut refusals = Vec::new();
        for _ in 0..8 {
            refusals.clear();
            let mut later = Vec::new();
            for operation in waiting {
                match self.plane.apply(&operation, &device, self.now) {
                    Ok(actions) => self.perform(actions),
                    Err(error) => {
                        refusals.push(format!("{}: {error}", operation.key));
                        later.push(operation);
                    }
                }
            }
            waiting = later;
        }
        assert!(refusals.is_empty(), "{refusals:?}");
        let index = |name| self.plane.interface_index(name).unwrap_or(0);
        (self.lan, self.wan) = (index("lan"), index("wan"));
    }

    /// One SA each way for every child, and the policies that choose them.
    fn install(&mut self) {
        for (name, policy) in (self.setting.guards)() {
            self.let_stand(name, Some(&policy));
        }
        for (spi, child) in (SPI..).step_by(2).zip(self.setting.children) {
            let out = (child.selectors)();
            let back: Vec<_> = out.iter().map(culvert_net::Selector::reversed).collect();
            let index = self.plane.tunnel_index(child.if_id);
            let Self {
                manager, publisher, ..
            } = self;
            publisher.update(|tables| {
                let sas = &mut tables.sas;
                sas.tunnels.set(child.if_id, index);
                for (direction, source, destination, selectors, spi) in [
                    (bus::Direction::In, PEER, OWN, &back, spi),
                    (bus::Direction::Out, OWN, PEER, &out, spi + 1),
                ] {
                    let (sources, destinations) =
                        selectors.iter().map(service::selector_to_bus).unzip();
                    let mode = if child.transport {
                        bus::SaMode::Transport
                    } else {
                        bus::SaMode::Tunnel
                    };
                    let sa = bus::Sa {
                        key: Some(bus::SaKey {
                            spi,
                            direction: direction.into(),
                            destination: Some(IpAddr::from(destination).into()),
                        }),
                        source: Some(IpAddr::from(source).into()),
                        mode: mode.into(),
                        encryption: bus::EncryptionAlgorithm::AesGcm16.into(),
                        encryption_key_bits: 128,
                        integrity: bus::IntegrityAlgorithm::Aead.into(),
                        replay_window: 64,
                        if_id: child.if_id,
                        reqid: spi / 2,
                        source_selectors: sources,
                        destination_selectors: destinations,
                        copy_ecn: true,
                        ..bus::Sa::default()
                    };
                    // The same key both ways would not do between real peers; here only their packets must pass.
                    let mut key = KEY;
                    key[0] ^= if direction == bus::Direction::Out {
                        spi as u8
                    } else {
                        0
                    };
                    let added = service::sa_from_bus(&sa)
                        .map(|spec| manager.add(sas, spec, &key, &[]).is_ok());
                    assert_eq!(added, Ok(true), "the SA is one");
                }
                for selector in out {
                    let policy = PolicySpec {
                        id: PolicyId {
                            outbound: true,
                            forward: false,
                            if_id: child.if_id,
                            selector,
                            spi: spi + 1,
                        },
                        action: PolicyAction::Protect,
                        priority: 1,
                        reqid: 1,
                        tunnel: None,
                    };
                    assert!(manager.add_policy(sas, policy).is_ok());
                }
            });
        }
    }

    /// Lets a policy of the configuration stand, or takes it away.
    fn let_stand(&mut self, name: &str, policy: Option<&Configured>) {
        let Self {
            manager, publisher, ..
        } = self;
        let done = publisher.update(|tables| manager.configure(&mut tables.sas, name, policy));
        assert!(done.is_ok(), "{name} stands");
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            let (at, input, is_wan) = match action {
                Action::OpenPort { port, device, .. } => {
                    (port, NodeId::EthernetInput, device == "wan0")
                }
                Action::OpenTap { port, .. } => (port, NodeId::Inject, false),
                Action::Configure { name, policy } => {
                    self.let_stand(&name, policy.as_ref());
                    continue;
                }
                // What the control plane says itself passes no node.
                Action::ClosePort { .. } | Action::Emit { .. } => continue,
            };
            let sent = self.sent.clone();
            let wire = Wire {
                input,
                is_wan,
                sent,
                setting: self.setting,
            };
            self.ports.insert(at, Box::new(wire));
        }
    }

    /// Puts one record before its node.
    fn take(&mut self, kind: u8, record: &[u8]) {
        let (node, interface) = match kind {
            0 | 1 => (NodeId::EthernetInput, self.lan),
            4 => (NodeId::Inject, tap_port(self.lan)),
            5 => (NodeId::Inject, tap_port(self.wan)),
            _ => (NodeId::EthernetInput, self.wan),
        };
        let mut frame = match kind {
            6 => self.sealed(record),
            _ => record.to_vec(),
        };
        frame.truncate(LARGE_DATA);
        if matches!(kind, 1 | 3) {
            mend(&mut frame);
        }
        let Some(mut packet) = self.buffers.allocate_for(frame.len()) else {
            panic!("out of buffers");
        };
        let meta = self.buffers.meta_mut(&mut packet);
        assert!(meta.set_len(frame.len()).is_ok());
        meta.rx_interface = interface;
        self.buffers.data_mut(&mut packet).copy_from_slice(&frame);
        self.enqueue(node, packet);
    }

    /// A frame from the router with an ESP packet of the peer's, whose plaintext is the record.
    fn sealed(&mut self, record: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let (spi, record) = match record.split_first() {
            Some((which, rest)) if self.setting.children.len() > 1 => {
                let which = usize::from(*which) % self.setting.children.len();
                (SPI + 2 * which as u32, rest)
            }
            _ => (SPI, record),
        };
        let plaintext = record.get(..record.len().min(1400) & !3).unwrap_or(&[]);
        let suite = self.peer.suite();
        let length = suite.header_len() + plaintext.len() + suite.icv_len();
        let ethernet = [WAN_MAC.0, [2, 0, 0, 0, 9, 9]].concat();
        let outer = Ipv4Header {
            traffic_class: self.sequence as u8 & 3,
            total_len: (Ipv4Header::LEN + length) as u16,
            identification: 1,
            flags_fragment: 0,
            ttl: 64,
            protocol: Protocol::ESP,
            source: PEER,
            destination: OWN,
        };
        let mut esp = vec![0; length];
        esp[..4].copy_from_slice(&spi.to_be_bytes());
        esp[suite.header_len()..][..plaintext.len()].copy_from_slice(plaintext);
        Portable.seal_batch(&mut [SealOp::new(&self.peer, self.sequence, &mut esp)]);
        [&ethernet[..], &[8, 0], &outer.to_bytes(), &esp].concat()
    }

    fn enqueue(&mut self, node: NodeId, packet: Packet) {
        let mut vector = Vector::new();
        vector.push(packet);
        self.around(|graph, around| graph.enqueue(node, &mut vector, around));
    }

    fn run(&mut self) {
        self.around(|graph, around| {
            graph.run(around);
            around.ports.flush(around.buffers, around.counters);
        });
        let events: Vec<_> = std::iter::from_fn(|| self.receiver.try_recv().ok()).collect();
        let actions = self.plane.handle(&events, self.now);
        self.perform(actions);
    }

    fn wait(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        let actions = self.plane.tick(self.now);
        self.perform(actions);
        self.around(Graph::tick);
        self.run();
    }

    fn around(&mut self, act: impl FnOnce(&mut Graph, &mut Surroundings<'_>)) {
        let tables = self.publisher.current();
        act(
            &mut self.graph,
            &mut Surroundings {
                buffers: &mut self.buffers,
                tables: &tables,
                counters: &self.counters,
                ports: &mut self.ports,
                events: &self.sender,
                engine: &Portable,
                now: self.now,
                worker: 0,
            },
        );
    }

    /// Every buffer is back, or held by a node that gives it up.
    fn end(mut self) {
        let held = self.graph.held();
        assert_eq!(self.buffers.available() + held, self.buffers.capacity());
        self.graph.release(&mut self.buffers);
        assert_eq!(self.buffers.available(), self.buffers.capacity());
    }
}

/// Makes the IPv4 header checksum right, so that damage gets past it.
fn mend(frame: &mut [u8]) {
    if let Some(header) = frame.get_mut(EthernetHeader::LEN..)
        && let Some(header) = header.first_chunk_mut::<20>()
        && header[0] == 0x45
    {
        header[10..12].fill(0);
        let sum = checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seed: &[u8]) -> [u64; 3] {
        let gateway = drive(&PLAIN, seed);
        let sent = gateway.sent.clone();
        gateway.end();
        sent.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// A corpus whose frames are dropped at the door would find nothing.
    #[test]
    fn seeds_pass_the_tunnel_both_ways_and_the_clear_path() {
        let [_, before, _] = sent(include_bytes!("../../corpora/whole-graph/arp-and-nd"));
        assert_eq!(before, 0);
        let [_, esp, _] = sent(include_bytes!("../../corpora/whole-graph/to-the-tunnel"));
        assert_eq!(esp, 2, "both families leave as ESP");
        let [idle, ..] = sent(include_bytes!("../../corpora/whole-graph/arp-and-nd"));
        let [lan, ..] = sent(include_bytes!("../../corpora/whole-graph/sealed-v4"));
        assert_eq!(lan, idle + 1, "what the peer sealed reaches the host");
        let [_, _, idle] = sent(include_bytes!("../../corpora/whole-graph/arp-and-nd"));
        let [_, _, clear] = sent(include_bytes!("../../corpora/whole-graph/forwarded"));
        assert!(
            clear > idle,
            "what the tunnel does not cover leaves in the clear"
        );
    }

    /// Packets that each node of a gateway with everything has handled.
    fn handled(seed: &[u8]) -> impl Fn(NodeId) -> u64 {
        let gateway = drive(&WITH_EVERYTHING, seed);
        let counts: Vec<_> = NodeId::ALL
            .iter()
            .map(|node| gateway.counters.node(*node).packets.get())
            .collect();
        gateway.end();
        move |node| counts[node as usize]
    }

    #[test]
    fn seeds_reach_everything_that_a_gateway_can_do() {
        macro_rules! seed {
            ($name:literal) => {
                handled(include_bytes!(concat!(
                    "../../corpora/whole-graph-features/",
                    $name
                )))
            };
        }
        let policies = seed!("policies");
        assert!(policies(NodeId::PolicyInput) > 0 && policies(NodeId::ReversePath) > 0);
        assert!(policies(NodeId::PolicyOutput) > 0 && policies(NodeId::EspEncrypt) > 0);
        let fragments = seed!("fragments-and-ports");
        assert!(fragments(NodeId::FragmentPorts) > 3);
        let out = seed!("gre-and-ipip-out");
        assert_eq!(out(NodeId::Encapsulate), 3);
        assert_eq!(out(NodeId::EspEncrypt), 1, "one of them is protected");
        assert_eq!(seed!("gre-and-ipip-in")(NodeId::Decapsulate), 2);
        let sealed = seed!("sealed-gre");
        assert_eq!(
            (sealed(NodeId::EspDecrypt), sealed(NodeId::Decapsulate)),
            (1, 1)
        );
        let sealed = seed!("sealed-fragments");
        assert_eq!(
            (sealed(NodeId::EspDecrypt), sealed(NodeId::FragmentPorts)),
            (3, 3)
        );
        let after = seed!("cut-after-encryption");
        assert_eq!(
            (after(NodeId::EspEncrypt), after(NodeId::IpFragment)),
            (1, 1)
        );
        assert!(seed!("vlans")(NodeId::Ip4Lookup) > 1);
    }
}
