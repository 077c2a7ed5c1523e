//! What crosses between a packet and the outer header of its tunnel, both ways.
//!
//! ```text
//!   encrypt:  inner DSCP, ECN, DF, flow label --rules--> outer header
//!   decrypt:  outer ECN (and DSCP, where configured) --> inner header
//! ```
//!
//! RFC 4301 section 5.1.2 lists the fields, RFC 2983 argues about DSCP, RFC 6040 settles ECN, RFC 6437 and 6438 the
//! flow label.

use culvert_net::{Flow, Ipv4Mut, Ipv6Mut};

use super::IPV6_MINIMUM_MTU;
use super::outer::Inherited;
use crate::drop_reason::DropReason;

/// ECN bits of a traffic class (RFC 3168 section 5).
const ECN: u8 = 0x03;
/// TTL or hop limit of tunnel packets (RFC 1700's recommended default).
pub(super) const HOPS: u8 = 64;

/// What the outer headers of a tunnel are like, and what of them comes inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterRules {
    /// Bits of the inner traffic class that the outer one takes.
    pub class_kept: u8,
    /// Bits of the outer traffic class that are set.
    pub class_set: u8,
    /// The don't-fragment bit of outer IPv4 headers.
    pub dont_fragment: DontFragment,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The flow label of outer IPv6 headers.
    pub flow_label: FlowLabel,
    /// On decryption the inner packet takes the outer DSCP (RFC 2983 section 4's uniform model).
    pub dscp_inward: bool,
}

/// Where a don't-fragment bit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DontFragment {
    /// From the packet inside.
    #[default]
    Copy,
    /// Set.
    Set,
    /// Not set.
    Clear,
}

/// Where a flow label comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowLabel {
    /// There is none.
    #[default]
    Zero,
    /// From an IPv6 packet inside.
    Copy,
    /// From addresses, protocol and ports inside (RFC 6438 section 3), never zero.
    Hash,
}

impl Default for OuterRules {
    /// DSCP, ECN and DF are copied outwards; inwards congestion alone is.
    fn default() -> Self {
        Self {
            class_kept: u8::MAX,
            class_set: 0,
            dont_fragment: DontFragment::Copy,
            hop_limit: HOPS,
            flow_label: FlowLabel::Zero,
            dscp_inward: false,
        }
    }
}

impl OuterRules {
    /// With this DSCP (6 bits) for every packet; `None`: that of the packet inside.
    #[must_use]
    pub const fn dscp(mut self, dscp: Option<u8>) -> Self {
        (self.class_kept, self.class_set) = match dscp {
            None => (self.class_kept | !ECN, 0),
            Some(dscp) => (self.class_kept & ECN, dscp << 2),
        };
        self
    }

    /// With outer headers that know ECN (RFC 6040's normal mode) or do not (its compatibility mode).
    #[must_use]
    pub const fn ecn(mut self, known: bool) -> Self {
        self.class_kept = if known {
            self.class_kept | ECN
        } else {
            self.class_kept & !ECN
        };
        self
    }

    /// What the outer header of this packet takes from it, `identification` apart.
    #[inline(always)]
    pub fn inherit(&self, inner: &[u8], outer_v6: bool, identification: u16) -> Inherited {
        let word = inner.first_chunk::<8>().copied().unwrap_or_default();
        let v6 = word[0] >> 4 == 6;
        let class = if v6 {
            word[0] << 4 | word[1] >> 4
        } else {
            word[1]
        };
        let dont_fragment = match self.dont_fragment {
            // No router on the way fragments IPv6; none shall fragment its tunnel, but where the smallest MTU of IPv6
            // needs it.
            DontFragment::Copy if v6 => inner.len() > usize::from(IPV6_MINIMUM_MTU),
            DontFragment::Copy => word[6] & 0x40 != 0,
            DontFragment::Set => true,
            DontFragment::Clear => false,
        };
        Inherited {
            traffic_class: class & self.class_kept | self.class_set,
            dont_fragment,
            identification,
            hop_limit: self.hop_limit,
            flow_label: if outer_v6 { self.label(inner, v6) } else { 0 },
        }
    }

    #[inline(always)]
    fn label(self, inner: &[u8], v6: bool) -> u32 {
        const LABEL: u32 = 0x000f_ffff;
        match self.flow_label {
            FlowLabel::Copy if v6 => {
                let word = inner.first_chunk().copied().unwrap_or_default();
                u32::from_be_bytes(word) & LABEL
            }
            FlowLabel::Zero | FlowLabel::Copy => 0,
            FlowLabel::Hash => Flow::spread_of(inner).map_or(0, |spread| (spread & LABEL).max(1)),
        }
    }

    /// Whether [`carry_inwards`](Self::carry_inwards) has anything to do.
    #[inline(always)]
    pub const fn touches(&self, outer_class: u8) -> bool {
        self.dscp_inward || outer_class & ECN != 0
    }

    /// Gives a decrypted packet what its outer header has met on the way: congestion marks (RFC 6040 section 4.2), and
    /// the DSCP where it is taken inwards. A packet that cannot carry the mark of congestion is dropped.
    pub fn carry_inwards(&self, inner: &mut [u8], outer_class: u8) -> Result<(), DropReason> {
        let v6 = inner.first().is_some_and(|byte| byte >> 4 == 6);
        let class = match inner {
            [first, second, ..] if v6 => *first << 4 | *second >> 4,
            [_, second, ..] => *second,
            _ => return Err(DropReason::EspBadInner),
        };
        let ecn = congestion(class & ECN, outer_class & ECN).ok_or(DropReason::EspCongestion)?;
        let dscp = if self.dscp_inward { outer_class } else { class } & !ECN;
        let carried = dscp | ecn;
        if carried == class {
            return Ok(());
        }
        if v6 {
            Ipv6Mut::new(inner)
                .map_err(|_| DropReason::EspBadInner)?
                .set_traffic_class(carried);
        } else {
            Ipv4Mut::new(inner)
                .map_err(|_| DropReason::EspBadInner)?
                .set_traffic_class(carried);
        }
        Ok(())
    }
}

/// ECN of a packet that leaves a tunnel (RFC 6040 figure 4); `None`: it is dropped.
const fn congestion(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT0, ECT1) => Some(ECT1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Ipv4Header, Ipv4View, Ipv6Header, Ipv6View, Protocol};

    use super::*;

    fn inner4(class: u8, flags_fragment: u16) -> Vec<u8> {
        let mut packet = vec![0; 60];
        Ipv4Header {
            traffic_class: class,
            total_len: 60,
            identification: 1,
            flags_fragment,
            ttl: 9,
            protocol: Protocol::UDP,
            source: [10, 1, 0, 1].into(),
            destination: [10, 2, 0, 1].into(),
        }
        .write(packet.first_chunk_mut().unwrap());
        packet
    }

    fn inner6(class: u8, flow_label: u32, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length];
        Ipv6Header {
            traffic_class: class,
            flow_label,
            payload_len: (length - 40) as u16,
            next_header: Protocol::UDP,
            hop_limit: 9,
            source: [0xfd; 16].into(),
            destination: [0xfe; 16].into(),
        }
        .write(packet.first_chunk_mut().unwrap());
        packet
    }

    fn class_of(packet: &[u8]) -> u8 {
        if packet[0] >> 4 == 6 {
            Ipv6View::parse(packet).unwrap().traffic_class()
        } else {
            Ipv4View::verify(packet).unwrap().traffic_class()
        }
    }

    #[test]
    fn every_class_is_copied_cleared_or_set() {
        for class in 0..=255 {
            for packet in [inner4(class, 0), inner6(class, 0, 60)] {
                let outer = |rules: OuterRules| rules.inherit(&packet, false, 0).traffic_class;
                let rules = OuterRules::default();
                assert_eq!(outer(rules), class);
                assert_eq!(outer(rules.ecn(false)), class & !3, "compatibility mode");
                assert_eq!(outer(rules.dscp(Some(0))), class & 3, "cleared");
                assert_eq!(outer(rules.dscp(Some(46))), class & 3 | 46 << 2);
                assert_eq!(outer(rules.ecn(false).dscp(Some(63))), 63 << 2);
                assert_eq!(outer(rules.dscp(Some(63)).ecn(false)), 63 << 2);
                assert_eq!(outer(rules.dscp(Some(63)).dscp(None)), class);
                assert_eq!(outer(rules.ecn(false).ecn(true)), class);
            }
        }
    }

    /// RFC 6040 figure 4, a row an inner field: Not-ECT, ECT(1), ECT(0), CE; the columns in the same order.
    #[test]
    fn congestion_comes_in_as_rfc_6040_says() {
        let table: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in (0u8..).zip(table) {
            for (outer, expected) in (0u8..).zip(row) {
                for dscp in [0, 0x28, 0xfc] {
                    for mut packet in [inner4(dscp | inner, 0), inner6(dscp | inner, 0, 60)] {
                        let rules = OuterRules::default();
                        let carried = rules.carry_inwards(&mut packet, 0xb8 | outer);
                        match expected {
                            None => assert_eq!(carried, Err(DropReason::EspCongestion)),
                            Some(ecn) => {
                                assert_eq!(carried, Ok(()));
                                assert_eq!(class_of(&packet), dscp | ecn);
                                assert!(rules.touches(outer) || ecn == inner);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_dscp_comes_in_where_it_is_asked_for() {
        let rules = OuterRules {
            dscp_inward: true,
            ..OuterRules::default()
        };
        for mut packet in [inner4(0x2a, 0), inner6(0x2a, 0, 60)] {
            assert!(rules.touches(0xb8));
            rules.carry_inwards(&mut packet, 0xb8).unwrap();
            assert_eq!(class_of(&packet), 0xb8 | 2);
            rules.carry_inwards(&mut packet, 0x03).unwrap();
            assert_eq!(class_of(&packet), 3);
        }
    }

    #[test]
    fn dont_fragment_is_copied_set_or_cleared() {
        let df = Ipv4Header::DONT_FRAGMENT;
        for (rule, expected) in [
            (DontFragment::Copy, [false, true, false, true]),
            (DontFragment::Set, [true; 4]),
            (DontFragment::Clear, [false; 4]),
        ] {
            let rules = OuterRules {
                dont_fragment: rule,
                ..OuterRules::default()
            };
            let packets = [
                inner4(0, 0),
                inner4(0, df),
                inner6(0, 0, 1280),
                inner6(0, 0, 1281),
            ];
            let seen = packets.map(|packet| rules.inherit(&packet, false, 0).dont_fragment);
            assert_eq!(seen, expected, "{rule:?}");
        }
    }

    #[test]
    fn flow_labels_are_absent_copied_or_one_a_flow() {
        let label = |rule, packet: &[u8], outer_v6| {
            let rules = OuterRules {
                flow_label: rule,
                ..OuterRules::default()
            };
            rules.inherit(packet, outer_v6, 0).flow_label
        };
        let (four, six) = (inner4(0xff, 0), inner6(0xff, 0xa_bcde, 60));
        assert_eq!(label(FlowLabel::Zero, &six, true), 0);
        assert_eq!(label(FlowLabel::Copy, &six, true), 0xa_bcde);
        assert_eq!(label(FlowLabel::Copy, &four, true), 0, "IPv4 has none");
        assert_eq!(label(FlowLabel::Hash, &six, false), 0, "nor an outer one");
        let mut other = four.clone();
        other[21] ^= 1;
        let one = label(FlowLabel::Hash, &four, true);
        assert!((1..=0xf_ffff).contains(&one));
        assert_eq!(label(FlowLabel::Hash, &inner4(0, 0), true), one);
        assert_ne!(label(FlowLabel::Hash, &other, true), one, "another port");
    }
}
