//! What must not come in the clear (RFC 4301 section 5.2): a packet that a policy wants out of a tunnel.
//!
//! ```text
//!   ip4-input, ip6-input -> policy-input -> [reverse-path] -> ip4-lookup, ip6-lookup
//!                            ^        '--> dropped: the peer would have encrypted it
//!                            '-> fragment-ports: a fragment, and its ports decide
//! ```
//!
//! Packets pass by this node only while there is a tunnel of policies. What has come out of a tunnel was compared with the
//! selectors of its SA there. IKE and ESP for the box itself come in the clear whatever policies say (section 4.4.1), and
//! so does what never leaves its link.

use culvert_net::{Addresses, Flow, Protocol};

use super::fragment_ports;
use super::ip4_local::NAT_TRAVERSAL;
use super::together::forward_or_drop;
use crate::buffer::{Metadata, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::sa::PolicyAction;
use crate::tables::{ADJACENCY_LOCAL, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::PolicyInput,
    next: &[
        NodeId::FragmentPorts,
        NodeId::ReversePath,
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
    ],
};

/// UDP port of IKE (RFC 7296).
const IKE: u16 = 500;

/// See the module.
pub struct PolicyInput;

impl Node for PolicyInput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut detour = false;
        forward_or_drop(context, vector, |context, packet| {
            let (meta, data) = context.buffers.parts_mut(packet);
            let way = check(tables, meta, data)?;
            if detour || way == Way::FindPorts {
                match way {
                    Way::FindPorts => fragment_ports::ask(meta, NodeId::PolicyInput),
                    Way::In => fragment_ports::pass(meta, NodeId::PolicyInput),
                }
                detour = true;
                return Ok(NodeId::FragmentPorts);
            }
            Ok(if tables.reverse_path {
                NodeId::ReversePath
            } else if data.first().is_some_and(|byte| byte >> 4 == 6) {
                NodeId::Ip6Lookup
            } else {
                NodeId::Ip4Lookup
            })
        });
    }
}

/// Where a packet goes that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    /// It is a fragment, and its ports decide.
    FindPorts,
}

fn check(tables: &Tables, meta: &Metadata, data: &[u8]) -> Result<Way, DropReason> {
    let asked = tables
        .policy_based
        .is_some_and(|policies| policies.vrf == meta.vrf);
    if !asked || meta.flags & flags::DECRYPTED != 0 {
        return Ok(Way::In);
    }
    // What cannot be read cannot be told from what is protected.
    let flow = fragment_ports::flow(meta, data).map_err(|_| DropReason::PolicyUnprotected)?;
    if is_of_the_link(&flow) {
        return Ok(Way::In);
    }
    let policies = &tables.sas.inbound_policies;
    if fragment_ports::are_unknown(meta, data) {
        let v6 = matches!(flow.addresses, Addresses::V6 { .. });
        let may_be_ike = || flow.protocol == Protocol::UDP && is_for_us(tables, meta.vrf, &flow);
        if policies.looks_at_ports(v6) || !policies.is_empty() && may_be_ike() {
            return Ok(Way::FindPorts);
        }
    }
    match policies.action(&flow) {
        None | Some(PolicyAction::Bypass) => Ok(Way::In),
        Some(_) if is_keying(&flow) && is_for_us(tables, meta.vrf, &flow) => Ok(Way::In),
        Some(PolicyAction::Protect) => Err(DropReason::PolicyUnprotected),
        Some(PolicyAction::Discard) => Err(DropReason::PolicyDiscard),
    }
}

/// Addresses with a meaning on one link only, of which no policy is.
pub(super) fn is_of_the_link(flow: &Flow) -> bool {
    match flow.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            source.is_unspecified()
                || destination.is_broadcast()
                || destination.octets()[..3] == [224, 0, 0]
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            source.is_unspecified()
                || source.is_unicast_link_local()
                || destination.is_unicast_link_local()
                || destination.octets()[0] == 0xff && destination.octets()[1] & 0x0f == 2
        }
    }
}

/// ESP, or what goes to a port of IKE; not a fragment that may be of anything else.
fn is_keying(flow: &Flow) -> bool {
    let is_ike = |port| port == IKE || port == NAT_TRAVERSAL;
    match (flow.protocol, flow.ports) {
        (Protocol::ESP, _) => true,
        (Protocol::UDP, Some((_, to))) => is_ike(to),
        _ => false,
    }
}

fn is_for_us(tables: &Tables, vrf: u32, flow: &Flow) -> bool {
    let destination = match flow.addresses {
        Addresses::V4 { destination, .. } => destination.into(),
        Addresses::V6 { destination, .. } => destination.into(),
    };
    tables.lookup(vrf, destination) == ADJACENCY_LOCAL
}
