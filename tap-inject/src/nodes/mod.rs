//! The two nodes between graph and TAPs.

pub mod inject;
pub mod punt;

use culvert_dataplane::graph::Node;
use culvert_net::MacAddr;

/// Who the dataplane is on a TAP: the neighbour by which Linux reaches everything. Locally administered; it is never
/// seen on a wire.
pub const DATAPLANE_MAC: MacAddr = MacAddr([0x02, 0x63, 0x75, 0x6c, 0x76, 0x74]);

/// Of every TAP that stands for a tunnel, which has no NIC to take a MAC address from. Each TAP is a link of its own, so
/// that one address does for all of them.
pub const TUNNEL_MAC: MacAddr = MacAddr([0x02, 0x63, 0x74, 0x75, 0x6e, 0x6c]);

/// Both nodes.
pub fn nodes() -> Vec<Box<dyn Node>> {
    vec![Box::new(inject::Inject), Box::new(punt::Punt)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
