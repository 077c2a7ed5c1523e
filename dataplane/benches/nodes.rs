//! Prints what each node of the graph costs in clocks for each packet, in whole vectors and one packet at a time.
//!
//! ```text
//! cargo bench -p culvert-dataplane --bench nodes [-- TEXT]
//! ```
//!
//! Beside each stands, from the same turns, what it costs to look at the first line of the same packets and to write to
//! their metadata, and the ratio of the two: compare ratios, not clocks. With a text only rows whose name contains it.
//!
//! The harness is plain, like those of the cipher kernels: the unit is the graph's own count of clocks (what `show`
//! prints of a gateway that runs), which nothing that times closures from outside could take.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

mod internet;
mod network;
mod rig;
mod traffic;

use std::sync::Arc;

use culvert_crypto::{Engine, EngineChoice};
use culvert_dataplane::buffer::IcmpCause;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::{Node, NodeId};
use culvert_dataplane::nodes::{self, icmp_error::Rate};
use culvert_dataplane::tables::{MssClamp, ReversePath, Tables};
use culvert_net::{Ipv4Header, Protocol};

use internet::{Internet4, Internet6, address4, address6};
use network::{
    FAR, GRE, INTO_PORTS, INTO_TUNNEL, INTO_TUNNELS, LAN, MANY, NARROW, Network, ONE_OF_EIGHT,
    OUR_SPIS, OURS, OURS6, PEERS, POLICIES, TO_WAN, TO_WAN6, TUNNEL, TUNNELS, UNRESOLVED, WAN,
    host4,
};
use rig::{Out, Rig, Row, Writer};
use traffic::{LONG, SHORT};

use NodeId::{
    ArpInput, Decapsulate, Encapsulate, EspDecrypt, EspEncrypt, EthernetInput, FragmentPorts,
    IcmpError, InterfaceOutput, Ip4Input, Ip4Local, Ip4Lookup, Ip4Rewrite, Ip6Input, Ip6Local,
    Ip6Lookup, Ip6Rewrite, IpFragment, IpReassembly, NdInput, NeighbourResolve, PolicyInput,
    PolicyOutput, Punt, TunnelOutput,
};

/// Routes of the tables that are looked up.
const ROUTES4: [usize; 3] = [1, 100_000, 1_000_000];
const ROUTES6: [usize; 3] = [1, 100_000, 500_000];
/// The VRFs with these.
const VRF4: u32 = 10;
const VRF6: u32 = 20;
/// With one route, to one of eight routers.
const VRF_EIGHT: u32 = 30;

fn main() {
    let engine = EngineChoice::Auto.engine().expect("there is always one");
    let rows = rows(&engine);
    Rig::new(engine).print(rows);
}

/// The nodes of this crate.
fn all() -> Vec<Box<dyn Node>> {
    let layer3 = nodes::layer3().into_iter();
    layer3.chain(nodes::tunnels()).collect()
}

/// A row of which the last node is measured, and all packets arrive.
fn row(name: &str, nodes: &[NodeId], tables: &Tables, out: NodeId, writer: Writer) -> Row {
    let node = nodes.last().copied().expect("there is a node to measure");
    let detail = if name.is_empty() { "" } else { ", " };
    Row {
        name: format!("{}{detail}{name}", node.name()),
        node,
        nodes: nodes.to_vec(),
        all,
        tables: tables.clone(),
        port: WAN,
        writer,
        out: Out::Node(out),
        share: (1, 1),
    }
}

fn rows(engine: &Arc<dyn Engine>) -> Vec<Row> {
    let mut network = Network::new(engine);
    let mut rows = inputs(&mut network);
    rows.extend(lookups(&mut network));
    rows.extend(for_the_box(&network));
    rows.extend(ways_out(&mut network));
    rows.extend(tunnels(&network, engine));
    rows
}

fn inputs(network: &mut Network) -> Vec<Row> {
    let policies = network.with_policies();
    let strict = network.with_interface(LAN, |lan| lan.reverse_path = ReversePath::Strict);
    let strict = Tables {
        reverse_path: true,
        ..strict
    };
    let clamped = network.with_interface(LAN, |lan| lan.mss_clamp = MssClamp::Fixed(1300));
    let clamped = Tables {
        mss_arriving: true,
        ..clamped
    };
    let plain = &network.tables;
    let far = || traffic::to_far(SHORT, |_, _| {});
    let syns = || traffic::syns(|_, _| {});
    let passing = traffic::each(SHORT, |number, to, _| {
        traffic::udp4(number, to, OUTSIDE, host4(number as u8));
    });
    vec![
        row("", &[EthernetInput], plain, Ip4Input, traffic::frames()),
        row(
            "",
            &[EthernetInput, ArpInput],
            plain,
            InterfaceOutput,
            traffic::arp_requests(),
        ),
        row("", &[Ip4Input], plain, Ip4Lookup, far()),
        row(
            "SYNs whose MSS is clamped",
            &[Ip4Input],
            &clamped,
            Ip4Lookup,
            syns(),
        ),
        row(
            "",
            &[Ip6Input],
            plain,
            Ip6Lookup,
            traffic::to_far6(|_, _| {}),
        ),
        row(
            "100 policies, none of which applies",
            &[PolicyInput],
            &policies,
            Ip4Lookup,
            passing,
        ),
        row("strict", &[NodeId::ReversePath], &strict, Ip4Lookup, far()),
    ]
}

/// An address that no policy names.
const OUTSIDE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 77);

fn lookups(network: &mut Network) -> Vec<Row> {
    let internet4 = ROUTES4.map(|routes| Internet4::new(routes, TO_WAN));
    let internet6 = ROUTES6.map(|routes| Internet6::new(routes, TO_WAN6));
    let eight = Internet4::new(1, ONE_OF_EIGHT);
    let (none4, none6) = (Internet4::new(0, 0), Internet6::new(0, 0));
    for (vrf, internet) in (VRF4..).zip(&internet4) {
        network.vrf(vrf, internet.fib.fib(), none6.fib.fib());
    }
    for (vrf, internet) in (VRF6..).zip(&internet6) {
        network.vrf(vrf, none4.fib.fib(), internet.fib.fib());
    }
    network.vrf(VRF_EIGHT, eight.fib.fib(), none6.fib.fib());
    let plain = &network.tables;
    let mut rows = Vec::new();
    for ((vrf, routes), internet) in (VRF4..).zip(ROUTES4).zip(&internet4) {
        let numbers = internet.numbers;
        let writer = traffic::to_random4(vrf, move |random| address4(numbers, random));
        rows.push(row(
            &counted(routes),
            &[Ip4Lookup],
            plain,
            Ip4Rewrite,
            writer,
        ));
    }
    let numbers = eight.numbers;
    let writer = traffic::to_random4(VRF_EIGHT, move |random| address4(numbers, random));
    rows.push(row(
        "one of eight ways by flow",
        &[Ip4Lookup],
        plain,
        Ip4Rewrite,
        writer,
    ));
    for ((vrf, routes), internet) in (VRF6..).zip(ROUTES6).zip(&internet6) {
        let numbers = internet.numbers;
        let writer = traffic::to_random6(vrf, move |random| address6(numbers, random));
        rows.push(row(
            &counted(routes),
            &[Ip6Lookup],
            plain,
            Ip6Rewrite,
            writer,
        ));
    }
    // The tables are read until the end of the program.
    std::mem::forget((internet4, internet6, eight, none4, none6));
    rows
}

fn counted(routes: usize) -> String {
    match routes {
        1 => "1 route".into(),
        1_000_000.. => format!("{} M routes", routes / 1_000_000),
        _ => format!("{} k routes", routes / 1000),
    }
}

fn for_the_box(network: &Network) -> Vec<Row> {
    let plain = &network.tables;
    let esp = traffic::each(SHORT, |number, to, meta| {
        traffic::ip4(number, to, Protocol::ESP, PEERS, OURS, 0);
        meta.rx_interface = WAN;
    });
    let udp = traffic::each(SHORT, |number, to, _| {
        traffic::udp4(number, to, host4(number as u8), OURS);
    });
    let udp6 = traffic::each(SHORT, |number, to, _| {
        traffic::udp6(number, to, network::HOST_IP6, OURS6);
    });
    let halves = traffic::fragments(Protocol::ESP, PEERS, OURS, |meta| meta.rx_interface = WAN);
    vec![
        row("ESP", &[Ip4Local], plain, EspDecrypt, esp),
        row("UDP", &[Ip4Local], plain, Punt, udp),
        row("UDP", &[Ip6Local], plain, Punt, udp6),
        row(
            "",
            &[NdInput],
            plain,
            InterfaceOutput,
            traffic::neighbour_solicitations(),
        ),
        Row {
            share: (1, 2),
            ..row(
                "halves of ESP packets",
                &[IpReassembly],
                plain,
                Ip4Local,
                halves,
            )
        },
    ]
}

fn ways_out(network: &mut Network) -> Vec<Row> {
    let policies = network.with_policies();
    let clamped = network.with_interface(WAN, |wan| wan.mss_clamp = MssClamp::Fixed(1300));
    let talkative = Tables {
        // More than any test sends.
        icmp_errors: Rate {
            rate: 1_000_000_000,
            burst: 1_000_000_000,
        },
        ..network.tables.clone()
    };
    let plain = &network.tables;
    let by = |adjacency: u32| traffic::to_far(SHORT, move |_, meta| meta.adjacency = adjacency);
    let cut = traffic::each(LONG, |number, to, meta| {
        traffic::udp4(number, to, host4(number as u8), FAR);
        traffic::ip4(number, to, Protocol::UDP, host4(number as u8), FAR, 0);
        meta.adjacency = NARROW;
    });
    let leaving = traffic::to_far(SHORT, |_, meta| meta.tx_interface = WAN);
    let dead = traffic::to_far(SHORT, |_, meta| meta.icmp = IcmpCause::time_exceeded(false));
    let passing = traffic::each(SHORT, |number, to, meta| {
        let behind = [10, 3, number as u8 % POLICIES, 9].into();
        traffic::udp4(number, to, host4(number as u8), behind);
        meta.adjacency = TO_WAN;
    });
    let six = traffic::to_far6(|_, meta| meta.adjacency = TO_WAN6);
    let syns = traffic::syns(|_, meta| meta.adjacency = TO_WAN);
    vec![
        row(
            "one of 100 policies applies",
            &[PolicyOutput],
            &policies,
            Ip4Rewrite,
            passing,
        ),
        row("", &[Ip4Rewrite], plain, InterfaceOutput, by(TO_WAN)),
        row(
            "SYNs whose MSS is clamped",
            &[Ip4Rewrite],
            &clamped,
            InterfaceOutput,
            syns,
        ),
        row("", &[Ip6Rewrite], plain, InterfaceOutput, six),
        Row {
            share: (3, 1),
            ..row(
                "1400 B into three",
                &[Ip4Rewrite, IpFragment],
                plain,
                InterfaceOutput,
                cut,
            )
        },
        row("", &[IcmpError], &talkative, Ip4Lookup, dead),
        Row {
            out: Out::Dropped(DropReason::NeighbourQueueFull),
            ..row(
                "nobody answers",
                &[NeighbourResolve],
                plain,
                Punt,
                by(UNRESOLVED),
            )
        },
        Row {
            out: Out::Port,
            ..row("", &[InterfaceOutput], plain, Punt, leaving)
        },
    ]
}

fn tunnels(network: &Network, engine: &Arc<dyn Engine>) -> Vec<Row> {
    let plain = &network.tables;
    let clamped = network.with_interface(TUNNEL, |tunnel| tunnel.mss_clamp = MssClamp::FromMtu);
    let into = |length| {
        traffic::to_far(length, |_, meta| {
            meta.adjacency = INTO_TUNNEL;
            meta.tx_interface = TUNNEL;
        })
    };
    let many = || {
        traffic::to_far(SHORT, |number, meta| {
            // An odd factor: neighbours are far apart, and each comes equally often.
            let tunnel = (number * 617 % u64::from(MANY)) as u32;
            meta.adjacency = INTO_TUNNELS + tunnel;
            meta.tx_interface = TUNNELS + tunnel;
        })
    };
    let syns = traffic::syns(|_, meta| {
        meta.adjacency = INTO_TUNNEL;
        meta.tx_interface = TUNNEL;
    });
    let halves = traffic::fragments(Protocol::UDP, host4(1), FAR, |meta| {
        meta.adjacency = INTO_PORTS;
    });
    let gre = traffic::to_far(SHORT, |_, meta| meta.tx_interface = GRE);
    let out = &[TunnelOutput, EspEncrypt];
    let [short, long] = OUR_SPIS;
    let inwards = &[Ip4Local, EspDecrypt];
    vec![
        row("1 tunnel", &[TunnelOutput], plain, EspEncrypt, into(SHORT)),
        row(
            "SYNs whose MSS is clamped",
            &[TunnelOutput],
            &clamped,
            EspEncrypt,
            syns,
        ),
        row("1000 tunnels", &[TunnelOutput], plain, EspEncrypt, many()),
        row(
            "halves of UDP packets",
            &[TunnelOutput, FragmentPorts],
            plain,
            EspEncrypt,
            halves,
        ),
        row("AES-128-GCM, 64 B", out, plain, Ip4Rewrite, into(SHORT)),
        row(
            "AES-128-GCM, 64 B, 1000 SAs",
            out,
            plain,
            Ip4Rewrite,
            many(),
        ),
        row("AES-128-GCM, 1400 B", out, plain, Ip4Rewrite, into(LONG)),
        row(
            "AES-128-GCM, 64 B",
            inwards,
            plain,
            Ip4Input,
            traffic::sealed(SHORT, short, engine),
        ),
        row(
            "AES-128-GCM, 1400 B",
            inwards,
            plain,
            Ip4Input,
            traffic::sealed(LONG, long, engine),
        ),
        row("GRE", &[Encapsulate], plain, Ip4Rewrite, gre),
        row(
            "GRE",
            &[Ip4Local, Decapsulate],
            plain,
            Ip4Input,
            traffic::in_gre(),
        ),
    ]
}

const _: () = assert!(LONG > 2 * (576 - Ipv4Header::LEN), "three pieces");
