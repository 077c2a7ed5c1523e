//! A vector mostly goes one way: each packet is looked at in place, and the whole vector is handed on at once.
//!
//! ```text
//!   ready the ordinary ones at the front, which need no decision
//!   decide for each packet of the rest (the headers of those behind are fetched meanwhile)
//!      all the same node?  yes: the vector is handed on    no: each packet goes its way, in order
//! ```

use arrayvec::ArrayVec;

use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{Context, NodeId, VECTOR, Vector};

/// Packets between the one worked on and the one asked for: enough work to cover a miss of the second-level cache.
const AHEAD: usize = 4;

/// Decides over each packet of `vector` and sends it to a node, or gives it to `refuse`.
///
/// As long as all go to one node nothing is written down of them.
#[inline(always)]
pub(super) fn forward<E: Copy>(
    context: &mut Context<'_>,
    vector: &mut Vector,
    decide: impl FnMut(&mut Context<'_>, &mut Packet) -> Result<NodeId, E>,
    refuse: impl FnMut(&mut Context<'_>, Packet, E),
) {
    forward_rest(context, vector, (0, None), decide, refuse);
}

/// Readies packets for `node` as long as `is_ready` finds nothing about them that needs a decision: how many, and for
/// which. The rest is [`forward_rest`]'s.
#[inline(always)]
pub(super) fn ready(
    buffers: &BufferPool,
    vector: &mut Vector,
    node: NodeId,
    mut is_ready: impl FnMut(&mut Packet) -> bool,
) -> (usize, Option<NodeId>) {
    for at in 0..vector.len() {
        if let Some(ahead) = vector.get(at + AHEAD) {
            buffers.prefetch(ahead);
        }
        if !vector.get_mut(at).is_some_and(&mut is_ready) {
            return (at, (at > 0).then_some(node));
        }
    }
    (vector.len(), Some(node))
}

/// [`forward`] for a vector of which the first packets are decided upon: all of them go to one node.
#[inline(always)]
pub(super) fn forward_rest<E: Copy>(
    context: &mut Context<'_>,
    vector: &mut Vector,
    (done, mut agreed): (usize, Option<NodeId>),
    mut decide: impl FnMut(&mut Context<'_>, &mut Packet) -> Result<NodeId, E>,
    mut refuse: impl FnMut(&mut Context<'_>, Packet, E),
) {
    let mut verdicts = Verdicts::new();
    for at in done..vector.len() {
        if let Some(ahead) = vector.get(at + AHEAD) {
            context.buffers.prefetch(ahead);
        }
        let Some(packet) = vector.get_mut(at) else {
            break;
        };
        // One call, so that it becomes part of the loop.
        let verdict = decide(context, packet);
        let node = verdict.as_ref().ok().copied();
        if verdicts.is_empty() && node.is_some() && (at == 0 || node == agreed) {
            agreed = node;
        } else {
            if verdicts.is_empty() {
                write_down(&mut verdicts, at, agreed);
            }
            verdicts.push(verdict);
        }
    }
    if !verdicts.is_empty() {
        for (packet, verdict) in vector.drain(..).zip(verdicts) {
            match verdict {
                Ok(node) => context.send(node, packet),
                Err(error) => refuse(context, packet, error),
            }
        }
    } else if let Some(node) = agreed {
        context.send_all(node, vector);
    }
}

type Verdicts<E> = ArrayVec<Result<NodeId, E>, VECTOR>;

/// Of the packets before the first that goes another way.
#[cold]
#[inline(never)]
fn write_down<E: Copy>(verdicts: &mut Verdicts<E>, packets: usize, agreed: Option<NodeId>) {
    verdicts.extend(agreed.into_iter().cycle().take(packets).map(Ok));
}

/// [`forward`] for nodes that refuse by dropping.
#[inline(always)]
pub(super) fn forward_or_drop(
    context: &mut Context<'_>,
    vector: &mut Vector,
    decide: impl FnMut(&mut Context<'_>, &mut Packet) -> Result<NodeId, DropReason>,
) {
    forward(context, vector, decide, |context, packet, reason| {
        context.drop(packet, reason);
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::graph::{Node, NodeSpec};
    use crate::nodes::workbench::{LAN, Workbench};

    /// Sends by the first byte: 0 and 1 to two nodes, else it drops.
    struct Sorter {
        /// Zeros need no decision.
        readies: bool,
    }

    const SPEC: NodeSpec = NodeSpec {
        id: NodeId::Ip4Input,
        next: &[NodeId::Ip4Lookup, NodeId::Ip6Lookup],
    };

    impl Node for Sorter {
        fn spec(&self) -> &'static NodeSpec {
            &SPEC
        }

        fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
            let decide = |context: &mut Context<'_>, packet: &mut Packet| match context
                .buffers
                .data(packet)[0]
            {
                0 => Ok(NodeId::Ip4Lookup),
                1 => Ok(NodeId::Ip6Lookup),
                _ => Err(DropReason::NoRoute),
            };
            if !self.readies {
                return forward_or_drop(context, vector, decide);
            }
            let buffers = &*context.buffers;
            let done = ready(buffers, vector, NodeId::Ip4Lookup, |packet| {
                buffers.data(packet)[0] == 0
            });
            forward_rest(context, vector, done, decide, |context, packet, reason| {
                context.drop(packet, reason);
            });
        }
    }

    #[test]
    fn each_packet_goes_its_way_in_order() {
        let vectors = [
            vec![0; 256],
            vec![1; 3],
            vec![2; 5],
            vec![0, 0, 1, 2, 0],
            vec![2, 0, 0],
            vec![0, 0, 2],
            vec![0, 0, 1, 1],
            vec![0, 2, 0],
        ];
        for (kinds, readies) in vectors
            .iter()
            .flat_map(|kinds| [(kinds, false), (kinds, true)])
        {
            let mut bench = Workbench::only(Box::new(Sorter { readies }));
            for (number, kind) in kinds.iter().enumerate() {
                bench.put(NodeId::Ip4Input, LAN, &[*kind, number as u8], |_| {});
            }
            bench.run();
            for (kind, node) in [(0, NodeId::Ip4Lookup), (1, NodeId::Ip6Lookup)] {
                let expected: Vec<u8> = (0..kinds.len())
                    .filter(|number| kinds[*number] == kind)
                    .map(|number| number as u8)
                    .collect();
                let arrived: Vec<u8> = bench
                    .arrived()
                    .iter()
                    .filter(|arrived| arrived.node == node)
                    .map(|arrived| arrived.bytes[1])
                    .collect();
                assert_eq!(arrived, expected, "{kinds:?}");
            }
            let sent = bench.arrived().len();
            let dropped = (kinds.len() - sent) as u64;
            assert_eq!(bench.drops(DropReason::NoRoute), dropped);
            bench.finish();
        }
    }
}
