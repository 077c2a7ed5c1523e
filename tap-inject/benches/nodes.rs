//! What the two nodes between the graph and Linux cost, in clocks a packet: `cargo bench -p culvert-tap-inject`.
//!
//! ```text
//!   frame of Linux -> inject -> catch          packet for the box -> punt -> TAP (a sink)
//! ```

// Figures and lengths of a benchmark are small.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used
)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use culvert_crypto::EngineChoice;
use culvert_dataplane::buffer::{BufferPool, Packet};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::NodeId;
use culvert_dataplane::port::tap_port;
use culvert_dataplane::tables::{
    Interface, InterfaceAddress, InterfaceKind, MssClamp, ReversePath, Tables, VRF_DEFAULT,
};
use culvert_net::{ArpPacket, EtherType, EthernetHeader, Ipv4Header, MacAddr, Protocol};
use culvert_tap_inject::nodes::{DATAPLANE_MAC, nodes};

use rig::{Out, Rig, Row, Writer};

#[path = "../../dataplane/benches/rig.rs"]
mod rig;

const WAN: u32 = 1;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Of the packets: as short as an acknowledgement.
const LENGTH: usize = 64;

fn main() {
    let engine = EngineChoice::Auto.engine().expect("there is always one");
    Rig::new(engine).print(vec![
        row(
            "unicast of Linux",
            NodeId::Inject,
            Out::Node(NodeId::Ip4Lookup),
            from_linux(),
        ),
        row(
            "announcements of Linux, which stay here",
            NodeId::Inject,
            Out::Dropped(DropReason::InjectAnswered),
            announcements(),
        ),
        row("", NodeId::Punt, Out::Port, for_the_box()),
    ]);
}

fn row(detail: &str, node: NodeId, out: Out, writer: Writer) -> Row {
    let comma = if detail.is_empty() { "" } else { ", " };
    Row {
        name: format!("{}{comma}{detail}", node.name()),
        node,
        nodes: vec![node],
        all: nodes,
        tables: tables(),
        port: tap_port(WAN),
        writer,
        out,
        share: (1, 1),
    }
}

fn tables() -> Tables {
    let wan = Interface {
        index: WAN,
        name: "wan".into(),
        kind: InterfaceKind::Ethernet { mac: MAC },
        vrf: VRF_DEFAULT,
        mtu: 1500,
        admin_up: true,
        mss_clamp: MssClamp::Off,
        reverse_path: ReversePath::Off,
        tap: Some(tap_port(WAN)),
        addresses4: [InterfaceAddress {
            address: OWN,
            length: 24,
            tentative: false,
        }]
        .into(),
        addresses6: [].into(),
    };
    let mut tables = Tables::default();
    tables.interfaces.set(WAN, Some(Arc::new(wan)));
    tables
}

fn from_linux() -> Writer {
    let ethernet = EthernetHeader {
        destination: DATAPLANE_MAC,
        source: MAC,
        ether_type: EtherType::IPV4,
    };
    let frame = [ethernet.to_bytes().as_slice(), &ip4(OWN, PEER)].concat();
    each(frame, tap_port(WAN))
}

fn announcements() -> Writer {
    let ethernet = EthernetHeader {
        destination: MacAddr::BROADCAST,
        source: MAC,
        ether_type: EtherType::ARP,
    };
    let mut arp = [0; ArpPacket::LEN];
    ArpPacket::request(MAC, OWN, OWN).write(&mut arp);
    let frame = [ethernet.to_bytes().as_slice(), &arp].concat();
    each(frame, tap_port(WAN))
}

fn for_the_box() -> Writer {
    each(ip4(PEER, OWN), WAN)
}

/// UDP without anything in it that these nodes look at.
fn ip4(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: LENGTH as u16,
        identification: 1,
        flags_fragment: 0,
        ttl: 64,
        protocol: Protocol::UDP,
        source,
        destination,
    };
    let mut packet = header.to_bytes().to_vec();
    packet.resize(LENGTH, 0);
    packet
}

fn each(bytes: Vec<u8>, rx_interface: u32) -> Writer {
    Box::new(move |buffers: &BufferPool, vector: &mut [Packet]| {
        for packet in vector {
            let meta = buffers.meta_mut(packet);
            meta.rx_interface = rx_interface;
            meta.set_len(bytes.len()).expect("a buffer holds it");
            buffers.data_mut(packet).copy_from_slice(&bytes);
        }
    })
}
