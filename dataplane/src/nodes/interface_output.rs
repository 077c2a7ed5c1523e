//! Hands finished frames to the driver of the interface that they leave by.
//!
//! ```text
//!   ip4-rewrite, ip6-rewrite, arp-input, nd-input, neighbour-resolve, inject -> interface-output -> driver
//! ```

use arrayvec::ArrayVec;

use crate::counters::InterfaceCounters;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::InterfaceOutput,
    next: &[],
};

/// See the module.
#[derive(Default)]
pub struct InterfaceOutput;

impl Node for InterfaceOutput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let mut runs = ArrayVec::<u32, VECTOR>::new();
        let mut run = Run::default();
        for packet in vector.iter() {
            let meta = context.buffers.meta(packet);
            let interface = meta.tx_interface;
            if interface != run.interface {
                run.count(context.counters.interface(run.interface));
                run = Run {
                    interface,
                    ..Run::default()
                };
            }
            run.packets += 1;
            run.bytes += meta.len() as u64;
            runs.push(interface);
        }
        run.count(context.counters.interface(run.interface));
        if run.packets == vector.len() as u64 {
            context
                .ports
                .transmit_all(run.interface, vector, context.buffers, context.counters);
            return;
        }
        for (packet, interface) in vector.drain(..).zip(runs) {
            context
                .ports
                .transmit(interface, packet, context.buffers, context.counters);
        }
    }
}

/// What has left by one interface since the last look at its counters.
#[derive(Default)]
struct Run {
    interface: u32,
    packets: u64,
    bytes: u64,
}

impl Run {
    fn count(&self, counters: &InterfaceCounters) {
        if self.packets > 0 {
            counters.tx_packets.add(self.packets);
            counters.tx_bytes.add(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::drop_reason::DropReason;
    use crate::nodes::workbench::{LAN, WAN, Workbench};

    #[test]
    fn frames_leave_by_their_interface_in_order() {
        let mut bench = Workbench::only(Box::new(InterfaceOutput));
        for (number, interface) in [LAN, LAN, WAN, LAN, 77].into_iter().enumerate() {
            bench.put(NodeId::InterfaceOutput, 0, &[number as u8; 60], |meta| {
                meta.tx_interface = interface;
            });
        }
        bench.run();
        let firsts = |frames: Vec<Vec<u8>>| frames.iter().map(|f| f[0]).collect::<Vec<_>>();
        assert_eq!(firsts(bench.sent(LAN)), [0, 1, 3]);
        assert_eq!(firsts(bench.sent(WAN)), [2]);
        assert_eq!(bench.drops(DropReason::InterfaceDown), 1);
        assert_eq!(bench.counters.interface(LAN).tx_packets.get(), 3);
        assert_eq!(bench.counters.interface(LAN).tx_bytes.get(), 180);
        bench.finish();
    }
}
