//! The nodes of the graph, one a file.
//!
//! ```text
//!   ethernet-input -> arp-input
//!          |------> ip4-input -> ip4-lookup -> ip4-rewrite ----> interface-output
//!          |             ^           |  |  '-> neighbour-resolve ---^         (ip4-rewrite <-> ip-fragment)
//!          |             |           |  '----> tunnel-output -> [ip-fragment] -> esp-encrypt -> (to the underlay)
//!          |             |           '-------> encapsulate -> (to the underlay, or to tunnel-output)
//!          |       decapsulate <- ip4-local
//!          |       esp-decrypt <- ip4-local -> punt                           (ip4-local <-> ip-reassembly)
//!          '------> ip6-input ... the same, with nd-input behind ip6-local
//! ```
//!
//! Where policies alone protect, policy-input stands behind the inputs, and policy-output before every way out of the
//! lookups into the clear. Where policies or selectors look at ports, fragments take the way round by fragment-ports.

pub mod arp_input;
pub mod decapsulate;
mod dispatch;
pub mod encapsulate;
pub mod esp_decrypt;
pub mod esp_encrypt;
mod esp_errors;
mod esp_transport;
pub mod ethernet_input;
pub mod fragment_ports;
pub mod icmp_error;
pub mod interface_output;
pub mod ip4_input;
pub mod ip4_local;
pub mod ip4_lookup;
pub mod ip4_rewrite;
pub mod ip6_input;
pub mod ip6_local;
pub mod ip6_lookup;
mod ip6_options;
pub mod ip6_rewrite;
pub mod ip_fragment;
pub mod ip_reassembly;
pub mod link_frames;
pub mod mss_clamp;
pub mod nd_input;
pub mod neighbour_resolve;
pub mod policy_input;
pub mod policy_output;
pub mod reverse_path;
mod together;
pub(crate) mod token_bucket;
pub mod tunnel_output;
mod way_out;
mod ways;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod encapsulation_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod esp_padding_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod esp_sequence_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod esp_spread_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod esp_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod fragment_ports_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod hostile_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod hostile_traffic;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod mss_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod observed_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod path_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod policy_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod whole_graph_tests;
#[cfg(test)]
pub(crate) mod workbench;

use crate::graph::Node;

/// The nodes of Ethernet, ARP, IPv4, IPv6 and ICMP for one worker.
pub fn layer3() -> Vec<Box<dyn Node>> {
    vec![
        Box::<ethernet_input::EthernetInput>::default(),
        Box::<arp_input::ArpInput>::default(),
        Box::<ip4_input::Ip4Input>::default(),
        Box::<ip6_input::Ip6Input>::default(),
        Box::<fragment_ports::FragmentPorts>::default(),
        Box::new(policy_input::PolicyInput),
        Box::new(reverse_path::ReversePathCheck),
        Box::<ip4_lookup::Ip4Lookup>::default(),
        Box::<ip6_lookup::Ip6Lookup>::default(),
        Box::<ip4_local::Ip4Local>::default(),
        Box::<ip6_local::Ip6Local>::default(),
        Box::<nd_input::NdInput>::default(),
        Box::<icmp_error::IcmpError>::default(),
        Box::new(policy_output::PolicyOutput),
        Box::<neighbour_resolve::NeighbourResolve>::default(),
        Box::<ip_reassembly::IpReassembly>::default(),
        Box::<ip_fragment::IpFragment>::default(),
        Box::<ip4_rewrite::Ip4Rewrite>::default(),
        Box::<ip6_rewrite::Ip6Rewrite>::default(),
        Box::<interface_output::InterfaceOutput>::default(),
    ]
}

/// The nodes of tunnels.
pub fn tunnels() -> Vec<Box<dyn Node>> {
    vec![
        Box::new(esp_decrypt::EspDecrypt),
        Box::new(decapsulate::Decapsulate),
        Box::new(encapsulate::Encapsulate::default()),
        Box::new(tunnel_output::TunnelOutput::default()),
        Box::new(esp_encrypt::EspEncrypt),
    ]
}
