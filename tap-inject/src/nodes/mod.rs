//! The two nodes between graph and TAPs.

pub mod inject;
pub mod punt;

use culvert_dataplane::graph::Node;
use culvert_net::MacAddr;

/// Who the dataplane is on a TAP: the neighbour by which Linux reaches everything. Locally administered; it is never
/// seen on a wire.
pub const DATAPLANE_MAC: MacAddr = MacAddr([0x02, 0x63, 0x75, 0x6c, 0x76, 0x74]);

/// Both nodes.
pub fn nodes() -> Vec<Box<dyn Node>> {
    vec![Box::new(inject::Inject), Box::new(punt::Punt)]
}
