//! Hands finished frames to the driver of the interface that they leave by; those of sub-interfaces get their tags first.
//!
//! ```text
//!   ip4-rewrite, ip6-rewrite, arp-input, nd-input, neighbour-resolve, inject -> interface-output -> driver
//! ```

use crate::counters::InterfaceCounters;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::vlan::put_tags;

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
        if !context.tables.vlans.is_empty() {
            tag(context, vector);
        }
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
        }
        run.count(context.counters.interface(run.interface));
        if run.packets == vector.len() as u64 {
            context
                .ports
                .transmit_all(run.interface, vector, context.buffers, context.counters);
            return;
        }
        for packet in vector.drain(..) {
            let interface = context.buffers.meta(&packet).tx_interface;
            context
                .ports
                .transmit(interface, packet, context.buffers, context.counters);
        }
    }
}

/// Frames of sub-interfaces get their tags, and leave by the parent from here on.
fn tag(context: &mut Context<'_>, vector: &mut Vector) {
    let tables = context.tables;
    let (mut known, mut place) = (0, None);
    let mut tagged = Vector::new();
    for mut packet in vector.drain(..) {
        let index = context.buffers.meta(&packet).tx_interface;
        if index != known {
            (known, place) = (index, tables.vlans.place(index));
        }
        let outcome = place.map_or(Ok(()), |on| {
            put_tags(context.buffers, &mut packet, on.tags)?;
            let meta = context.buffers.meta_mut(&mut packet);
            meta.tx_interface = on.parent;
            let counters = context.counters.interface(index);
            counters.tx_packets.add(1);
            counters.tx_bytes.add(meta.len() as u64);
            Ok(())
        });
        match outcome {
            // There is room: it came out of a vector.
            Ok(()) => tagged.push(packet),
            Err(reason) => context.drop(packet, reason),
        }
    }
    std::mem::swap(vector, &mut tagged);
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

    #[test]
    fn frames_of_sub_interfaces_leave_tagged_by_their_parent() {
        use crate::vlan::{OnLink, Tags, VlanId, Vlans};
        const SUB: u32 = 40;
        const DOUBLE: u32 = 41;
        let mut bench = Workbench::only(Box::new(InterfaceOutput));
        let vlan = |number| VlanId::new(number).unwrap();
        let place = |parent, outer, number| OnLink {
            parent,
            tags: Tags {
                outer,
                vlan: vlan(number),
            },
        };
        bench.tables.vlans = std::sync::Arc::new(Vlans::new([
            (SUB, place(LAN, None, 100)),
            (DOUBLE, place(WAN, Some(vlan(200)), 100)),
        ]));
        let mut frame: Vec<u8> = (0..12).collect();
        frame.extend([8, 0, 0x45]);
        for interface in [SUB, LAN, DOUBLE, SUB, WAN] {
            bench.put(NodeId::InterfaceOutput, 0, &frame, |meta| {
                meta.tx_interface = interface;
            });
        }
        bench.put(NodeId::InterfaceOutput, 0, &[1; 11], |meta| {
            meta.tx_interface = SUB;
        });
        bench.run();
        let with = |tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
        let single = with(&[0x81, 0, 0, 100]);
        let double = with(&[0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]);
        assert_eq!(bench.sent(LAN), [single.clone(), frame.clone(), single]);
        assert_eq!(bench.sent(WAN), [double, frame.clone()]);
        assert_eq!(bench.drops(DropReason::EthernetTruncated), 1);
        assert_eq!(bench.counters.interface(LAN).tx_packets.get(), 3);
        assert_eq!(bench.counters.interface(LAN).tx_bytes.get(), 19 + 15 + 19);
        assert_eq!(bench.counters.interface(SUB).tx_packets.get(), 2);
        assert_eq!(bench.counters.interface(DOUBLE).tx_bytes.get(), 23);
        bench.finish();
    }
}
