//! The gateways that whole-graph targets feed: what they are configured as, which SAs they have, and what must never
//! leave them in the clear.
//!
//! ```text
//!   hosts 10.1.0.0/24 --lan [ gateway ] wan-- 192.0.2.1 -- the peer, 198.51.100.2, with 10.2.0.0/16 and others behind it
//! ```

use std::net::{IpAddr, Ipv4Addr};

use culvert_dataplane::sa::{Configured, Guard};
use culvert_net::{
    AddressRange, Flow, IpPrefix, Ipv4View, Ipv6View, PortRange, Protocol, Selector,
};

/// The gateway's own address of the WAN.
pub(super) const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The other end of all SAs.
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Of the first inbound SA; the outbound ones stand between the inbound ones.
pub(super) const SPI: u32 = 0xc000_0001;

/// One gateway.
pub(super) struct Setting {
    /// As a person would write it.
    pub(super) configuration: &'static str,
    /// What is protected by selectors alone, by name.
    pub(super) guards: fn() -> Vec<(&'static str, Configured)>,
    /// What has been negotiated.
    pub(super) children: &'static [Child],
    /// A frame that leaves by the WAN is one that should have been encrypted.
    pub(super) is_secret: fn(&[u8]) -> bool,
}

/// One SA each way.
pub(super) struct Child {
    pub(super) if_id: u32,
    pub(super) transport: bool,
    /// Of what goes out.
    pub(super) selectors: fn() -> Vec<Selector>,
}

/// Interfaces, a tunnel, routes.
pub(super) static PLAIN: Setting = Setting {
    configuration: r#"{
  "interfaces": [
    { "name": "lan", "device": "lan0", "mss_clamp": true,
      "addresses": [{ "address": "10.1.0.1/24" }, { "address": "2001:db8:1::1/64" }] },
    { "name": "wan", "device": "wan0",
      "addresses": [{ "address": "192.0.2.2/24" }, { "address": "2001:db8:ff::1/64" }] }
  ],
  "tunnels": [{ "name": "ipsec0", "if_id": 1 }],
  "routes": [
    { "destination": "0.0.0.0/0", "next_hops": [{ "gateway": "192.0.2.1" }] },
    { "destination": "::/0", "next_hops": [{ "gateway": "2001:db8:ff::2" }] },
    { "destination": "10.2.0.0/16", "next_hops": [{ "interface": "ipsec0" }] },
    { "destination": "2001:db8:2::/48", "next_hops": [{ "interface": "ipsec0" }] }
  ]
}"#,
    guards: Vec::new,
    children: &[Child {
        if_id: 1,
        transport: false,
        selectors: lans,
    }],
    is_secret: |frame| goes_to(frame, &["10.2.0.0/16", "2001:db8:2::/48"]),
};

/// VLANs, VRFs, GRE and IPIP with and without SAs, tunnels that cut before and after encryption, policies about ports,
/// routes over several next hops, source checks.
pub(super) static WITH_EVERYTHING: Setting = Setting {
    configuration: r#"{
  "vrfs": [{ "name": "blue" }],
  "interfaces": [
    { "name": "lan", "device": "lan0", "mss_clamp": true, "reverse_path": "strict",
      "addresses": [{ "address": "10.1.0.1/24" }, { "address": "2001:db8:1::1/64" }] },
    { "name": "wan", "device": "wan0",
      "addresses": [{ "address": "192.0.2.2/24" }, { "address": "2001:db8:ff::1/64" }] },
    { "name": "lan.100", "parent": "lan", "vlan": 100, "reverse_path": "loose",
      "addresses": [{ "address": "10.9.0.1/24" }] },
    { "name": "wan.5.100", "parent": "wan", "vlan": 100, "outer_vlan": 5, "vrf": "blue", "self_traffic": false,
      "addresses": [{ "address": "192.168.7.1/24" }] }
  ],
  "loopbacks": [{ "name": "lo0", "addresses": [{ "address": "203.0.113.7/32" }] }],
  "tunnels": [
    { "name": "ipsec0", "if_id": 1 },
    { "name": "ipsec1", "if_id": 3, "fragmentation": "after" }
  ],
  "ip_tunnels": [
    { "name": "gre0", "mode": "gre", "key": 7, "local_address": "192.0.2.2", "remote_address": "198.51.100.9" },
    { "name": "gre1", "mode": "gre", "if_id": 2, "local_address": "192.0.2.2", "remote_address": "198.51.100.2" },
    { "name": "ipip0", "mode": "ipip", "local_address": "192.0.2.2", "remote_address": "198.51.100.10" }
  ],
  "policies": [
    { "name": "games", "action": "bypass", "priority": 10,
      "local_selectors": [{ "selector": "10.1.0.0/24" }],
      "remote_selectors": [{ "selector": "10.4.0.0/16[udp/4000-5000]" }] },
    { "name": "no-pings", "action": "discard", "priority": 20,
      "local_selectors": [{ "selector": "10.1.0.5-10.1.0.20[icmp/8]" }],
      "remote_selectors": [{ "selector": "100.64.0.0/10[icmp/8]" }] }
  ],
  "routes": [
    { "destination": "0.0.0.0/0", "next_hops": [{ "gateway": "192.0.2.1" }] },
    { "destination": "100.64.0.0/10", "next_hops": [{ "gateway": "192.0.2.1" }, { "gateway": "192.0.2.3" }] },
    { "destination": "::/0", "next_hops": [{ "gateway": "2001:db8:ff::2" }] },
    { "destination": "10.2.0.0/16", "next_hops": [{ "interface": "ipsec0" }] },
    { "destination": "2001:db8:2::/48", "next_hops": [{ "interface": "ipsec0" }] },
    { "destination": "10.3.0.0/16", "next_hops": [{ "interface": "ipsec1" }] },
    { "destination": "10.5.0.0/16", "next_hops": [{ "interface": "gre1" }] },
    { "destination": "10.6.0.0/16", "next_hops": [{ "interface": "gre0" }] },
    { "destination": "10.8.0.0/16", "next_hops": [{ "interface": "ipip0" }] },
    { "destination": "10.66.0.0/16", "action": "blackhole" },
    { "destination": "192.168.7.0/24", "next_hops": [{ "vrf": "blue" }] },
    { "vrf": "blue", "destination": "10.1.0.0/24", "next_hops": [{ "vrf": "default" }] }
  ]
}"#,
    guards: || {
        let selector = between("10.1.0.0/24", "10.4.0.0/16");
        vec![("guard", Configured::Guards(vec![Guard { selector }]))]
    },
    children: &[
        Child {
            if_id: 1,
            transport: false,
            selectors: lans,
        },
        Child {
            if_id: 2,
            transport: true,
            selectors: || {
                let only = |address| AddressRange::V4 {
                    first: address,
                    last: address,
                };
                vec![Selector {
                    source: only(OWN),
                    destination: only(PEER),
                    protocol: Some(Protocol::GRE),
                    source_ports: PortRange::ANY,
                    destination_ports: PortRange::ANY,
                }]
            },
        },
        Child {
            if_id: 3,
            transport: false,
            selectors: || vec![low_ports("10.3.0.0/16")],
        },
        Child {
            if_id: 0,
            transport: false,
            selectors: || vec![low_ports("10.4.0.0/16")],
        },
    ],
    is_secret: |frame| {
        let routed = [
            "10.2.0.0/16",
            "10.3.0.0/16",
            "10.5.0.0/16",
            "2001:db8:2::/48",
        ];
        goes_to(frame, &routed) || is_guarded(frame)
    },
};

fn prefix(text: &str) -> IpPrefix {
    match text.parse() {
        Ok(prefix) => prefix,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn between(near: &str, far: &str) -> Selector {
    Selector::between(prefix(near), prefix(far))
}

fn lans() -> Vec<Selector> {
    vec![
        between("10.1.0.0/24", "10.2.0.0/16"),
        between("2001:db8:1::/64", "2001:db8:2::/48"),
    ]
}

fn low_ports(far: &str) -> Selector {
    let Ok(destination_ports) = PortRange::new(0, 1023) else {
        panic!("0 comes before 1023");
    };
    Selector {
        destination_ports,
        ..between("10.1.0.0/24", far)
    }
}

/// The IP packet of an untagged frame.
fn packet(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(12..14)? {
        [0x08, 0x00] | [0x86, 0xdd] => frame.get(14..),
        _ => None,
    }
}

/// Whether a frame's destination is in one of these networks.
fn goes_to(frame: &[u8], networks: &[&str]) -> bool {
    let Some(packet) = packet(frame) else {
        return false;
    };
    let covered = |address: IpAddr| networks.iter().any(|text| prefix(text).contains(address));
    if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        Ipv6View::parse(packet).is_ok_and(|view| covered(view.destination().into()))
    } else {
        Ipv4View::parse(packet).is_ok_and(|view| covered(view.destination().into()))
    }
}

/// Whether the guard covers a frame, and no policy or rule that comes before it. Later fragments are not told apart here.
fn is_guarded(frame: &[u8]) -> bool {
    let Some(Ok(flow)) = packet(frame).map(Flow::of) else {
        return false;
    };
    let passes = match (flow.protocol, flow.ports) {
        // A game, or IKE of the box itself.
        (Protocol::UDP, Some((from, to))) => {
            (4000..=5000).contains(&to) || from == 500 || from == 4500
        }
        (Protocol::UDP, None) => true,
        _ => false,
    };
    between("10.1.0.0/24", "10.4.0.0/16").matches(&flow) && !passes
}
