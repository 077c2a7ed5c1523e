//! What must not leave in the clear (RFC 4301 section 5.1): policies are asked for packets that no route leads into a tunnel.
//!
//! ```text
//!   ip4-lookup, ip6-lookup -> policy-output -> tunnel-output       protect: the tunnel of if_id 0 finds the SA, or asks for one
//!                                         |--> dropped             discard
//!                                         |--> fragment-ports      a fragment, and policies look at ports: back with them
//!                                         '--> as the route says   bypass, or no policy: rewrite, neighbour-resolve, ICMP error
//! ```
//!
//! Packets come here only while there is a tunnel of policies: forwarded ones, those of Linux, our own errors. Not those
//! for the box itself, nor what is ESP already, nor the box's own IKE (section 4.4.1), nor what never leaves its link.

use culvert_net::Protocol;

use super::dispatch::{Dispatch, IP4, IP6};
use super::fragment_ports;
use super::ip4_local::NAT_TRAVERSAL;
use super::policy_input::is_of_the_link;
use crate::buffer::{Metadata, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::sa::PolicyAction;
use crate::tables::{PolicyBased, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::PolicyOutput,
    next: &[
        NodeId::FragmentPorts,
        NodeId::TunnelOutput,
        NodeId::Ip4Local,
        NodeId::Ip6Local,
        NodeId::Ip4Rewrite,
        NodeId::Ip6Rewrite,
        NodeId::NeighbourResolve,
        NodeId::IcmpError,
    ],
};

/// UDP port of IKE (RFC 7296).
const IKE: u16 = 500;

/// See the module.
pub struct PolicyOutput;

impl Node for PolicyOutput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut past4 = Dispatch::past_policies(tables, IP4);
        let mut past6 = Dispatch::past_policies(tables, IP6);
        let mut detour = false;
        for mut packet in vector.drain(..) {
            let (meta, data) = context.buffers.parts_mut(&mut packet);
            let v6 = data.first().is_some_and(|byte| byte >> 4 == 6);
            match verdict(tables, meta, data, v6) {
                Verdict::FindPorts => {
                    detour = true;
                    fragment_ports::ask(meta, NodeId::PolicyOutput);
                    context.send(NodeId::FragmentPorts, packet);
                }
                Verdict::Drop(reason) => context.drop(packet, reason),
                _ if detour => {
                    fragment_ports::pass(meta, NodeId::PolicyOutput);
                    context.send(NodeId::FragmentPorts, packet);
                }
                Verdict::Past => {
                    let adjacency = meta.adjacency;
                    let past = if v6 { &mut past6 } else { &mut past4 };
                    past.send(context, packet, adjacency);
                }
                Verdict::Protect(policies) => {
                    meta.adjacency = policies.adjacency;
                    context.send(NodeId::TunnelOutput, packet);
                }
            }
        }
    }
}

/// What policies say of a packet.
enum Verdict<'t> {
    /// It goes as it is.
    Past,
    Protect(&'t PolicyBased),
    Drop(DropReason),
    /// It is a fragment, and its ports decide.
    FindPorts,
}

fn verdict<'t>(tables: &'t Tables, meta: &Metadata, data: &[u8], v6: bool) -> Verdict<'t> {
    let policies = tables.policy_based.as_ref();
    let Some(policies) = policies.filter(|policies| policies.vrf == meta.vrf) else {
        return Verdict::Past;
    };
    let Some(set) = tables.sas.policies.get(0) else {
        return Verdict::Past;
    };
    if meta.flags & flags::ENCRYPTED != 0 {
        return Verdict::Past;
    }
    let Ok(flow) = fragment_ports::flow(meta, data) else {
        return Verdict::Drop(DropReason::PolicyDiscard);
    };
    let own_udp = meta.flags & flags::INJECTED != 0 && flow.protocol == Protocol::UDP;
    if is_of_the_link(&flow) {
        return Verdict::Past;
    }
    if (own_udp || set.looks_at_ports(v6)) && fragment_ports::are_unknown(meta, data) {
        return Verdict::FindPorts;
    }
    if own_udp && matches!(flow.ports, Some((IKE | NAT_TRAVERSAL, _))) {
        return Verdict::Past;
    }
    match set.action(&flow) {
        None | Some(PolicyAction::Bypass) => Verdict::Past,
        Some(PolicyAction::Protect) => Verdict::Protect(policies),
        Some(PolicyAction::Discard) => Verdict::Drop(DropReason::PolicyDiscard),
    }
}
