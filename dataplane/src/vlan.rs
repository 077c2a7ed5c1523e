//! Sub-interfaces: several interfaces on one link, told apart by the tags of their frames (IEEE 802.1Q, 802.1ad).
//!
//! ```text
//!   | destination | source | 0x88a8 outer | 0x8100 vlan | type | packet      the outer tag only where one is configured
//!
//!   ethernet-input: tags -> index of the sub-interface, the packet goes on as if it had come in by a link of its own
//!   interface-output: frame of a sub-interface -> its tags put in, the frame leaves by the parent's port
//! ```
//!
//! Nothing between the two knows of tags. A tag of VLAN 0 carries a priority only and belongs to no VLAN.

use culvert_net::EtherType;
use thiserror::Error;

use crate::buffer::{BufferPool, Packet, flags};
use crate::drop_reason::DropReason;

/// Bytes of a tag.
const TAG: usize = 4;
/// Bytes of the two addresses before the tags.
const ADDRESSES: usize = 12;
/// Tags of one frame at most.
const MOST_TAGS: usize = 2;

/// The number of a VLAN, 1 to 4094 (IEEE 802.1Q section 9.6: 0 is none, 4095 is reserved).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

/// No number of a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is no VLAN, which is 1 to 4094")]
pub struct NoVlan(pub u32);

impl VlanId {
    /// Checks a number.
    pub fn new(number: u32) -> Result<Self, NoVlan> {
        match u16::try_from(number) {
            Ok(small @ 1..=4094) => Ok(Self(small)),
            _ => Err(NoVlan(number)),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What tells the frames of a sub-interface from others of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags {
    /// Of the service tag (802.1ad), if frames have two tags.
    pub outer: Option<VlanId>,
    /// Of the customer tag (802.1Q).
    pub vlan: VlanId,
}

/// Where a sub-interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnLink {
    /// Index of the interface whose port carries its frames.
    pub parent: u32,
    /// Of its frames.
    pub tags: Tags,
}

/// All sub-interfaces.
#[derive(Clone, Debug, Default)]
pub struct Vlans {
    /// In order.
    by_tags: Vec<((u32, Tags), u32)>,
    /// In the order of the sub-interfaces' indexes.
    by_index: Vec<(u32, OnLink)>,
}

impl Vlans {
    /// Of these: index and place of each.
    pub fn new(all: impl IntoIterator<Item = (u32, OnLink)>) -> Self {
        let mut by_index: Vec<_> = all.into_iter().collect();
        by_index.sort_unstable_by_key(|(index, _)| *index);
        let mut by_tags: Vec<_> = by_index
            .iter()
            .map(|(index, on)| ((on.parent, on.tags), *index))
            .collect();
        by_tags.sort_unstable();
        Self { by_tags, by_index }
    }

    /// There is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// The sub-interface of a parent's frames with these tags.
    pub fn with_tags(&self, parent: u32, tags: Tags) -> Option<u32> {
        let place = self
            .by_tags
            .binary_search_by_key(&(parent, tags), |(key, _)| *key)
            .ok()?;
        self.by_tags.get(place).map(|(_, index)| *index)
    }

    /// Where the interface of this index is; `None`: it is no sub-interface.
    pub fn place(&self, index: u32) -> Option<OnLink> {
        let place = self
            .by_index
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        self.by_index.get(place).map(|(_, on)| *on)
    }
}

/// Takes the tags off a frame whose view begins behind `ether_type`, the first one's. Gives the type of what they were
/// before, and whose they are; no tags: the parent's. The addresses move up to the packet, as in a frame without tags.
pub fn take_tags(
    buffers: &BufferPool,
    packet: &mut Packet,
    ether_type: EtherType,
) -> Result<(EtherType, Option<Tags>), DropReason> {
    let (mut inner, mut outer, mut vlan) = (ether_type, None, None);
    let mut length = 0;
    for _ in 0..MOST_TAGS {
        let (meta, data) = buffers.parts_mut(packet);
        let Some(&[control0, control1, type0, type1]) = data.first_chunk::<TAG>() else {
            return Err(DropReason::EthernetTruncated);
        };
        // The upper bits are priority and drop eligibility; of numbers that are none, 0 only means something.
        let number = u16::from_be_bytes([control0, control1]) & 0x0fff;
        let number = (number != 0)
            .then(|| VlanId::new(number.into()))
            .transpose()
            .map_err(|_| DropReason::VlanUnknown)?;
        match inner {
            EtherType::SERVICE_VLAN if outer.is_none() && vlan.is_none() => outer = number,
            EtherType::VLAN if vlan.is_none() => vlan = number,
            _ => return Err(DropReason::VlanUnknown),
        }
        if meta.flags & flags::CHECKSUM_PARTIAL != 0 {
            meta.checksum_start = meta
                .checksum_start
                .checked_sub(TAG as u16)
                .ok_or(DropReason::EthernetTruncated)?;
        }
        meta.pull_front(TAG)
            .map_err(|_| DropReason::EthernetTruncated)?;
        length += TAG;
        inner = EtherType(u16::from_be_bytes([type0, type1]));
        if !is_tag(inner) {
            break;
        }
    }
    let (meta, area) = buffers.area_mut(packet);
    let Some(to) = meta.offset().checked_sub(ADDRESSES + 2) else {
        return Err(DropReason::EthernetTruncated);
    };
    let Some(from) = to.checked_sub(length) else {
        return Err(DropReason::EthernetTruncated);
    };
    area.copy_within(from..from + ADDRESSES, to);
    match (outer, vlan) {
        _ if is_tag(inner) => Err(DropReason::VlanUnknown),
        (None, None) => Ok((inner, None)),
        (outer, Some(vlan)) => Ok((inner, Some(Tags { outer, vlan }))),
        (Some(_), None) => Err(DropReason::VlanUnknown),
    }
}

/// A tag follows.
pub fn is_tag(ether_type: EtherType) -> bool {
    matches!(ether_type, EtherType::VLAN | EtherType::SERVICE_VLAN)
}

/// Puts tags behind the addresses of a frame.
pub fn put_tags(buffers: &BufferPool, packet: &mut Packet, tags: Tags) -> Result<(), DropReason> {
    let outer = tags.outer.map(|outer| (EtherType::SERVICE_VLAN, outer));
    let all = outer.into_iter().chain([(EtherType::VLAN, tags.vlan)]);
    let length = TAG * all.clone().count();
    let meta = buffers.meta_mut(packet);
    if meta.len() < ADDRESSES {
        return Err(DropReason::EthernetTruncated);
    }
    meta.push_front(length).map_err(|_| DropReason::NoRoom)?;
    let data = buffers.data_mut(packet);
    let Some(front) = data.get_mut(..length + ADDRESSES) else {
        return Err(DropReason::NoRoom);
    };
    front.copy_within(length.., 0);
    let (_, room) = front.split_at_mut(ADDRESSES);
    for (to, (kind, vlan)) in room.chunks_exact_mut(TAG).zip(all) {
        let [type0, type1] = kind.0.to_be_bytes();
        let [number0, number1] = vlan.0.to_be_bytes();
        to.copy_from_slice(&[type0, type1, number0, number1]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn id(number: u32) -> VlanId {
        VlanId::new(number).unwrap()
    }

    #[test]
    fn numbers_are_those_of_vlans() {
        for (number, good) in [
            (0, false),
            (1, true),
            (4094, true),
            (4095, false),
            (65_537, false),
        ] {
            assert_eq!(VlanId::new(number).is_ok(), good, "{number}");
        }
    }

    #[test]
    fn sub_interfaces_are_found_by_link_and_tags() {
        let place = |parent, outer: Option<u32>, vlan| OnLink {
            parent,
            tags: Tags {
                outer: outer.map(id),
                vlan: id(vlan),
            },
        };
        let all = [
            (9, place(1, None, 100)),
            (4, place(2, None, 100)),
            (7, place(1, Some(200), 100)),
            (5, place(1, None, 7)),
        ];
        let vlans = Vlans::new(all);
        for (index, on) in all {
            assert_eq!(vlans.with_tags(on.parent, on.tags), Some(index));
            assert_eq!(vlans.place(index), Some(on));
        }
        for on in [
            place(2, None, 7),
            place(1, Some(100), 200),
            place(3, None, 100),
        ] {
            assert_eq!(vlans.with_tags(on.parent, on.tags), None);
        }
        assert_eq!(vlans.place(1), None);
        assert!(!vlans.is_empty() && Vlans::default().is_empty());
    }

    #[test]
    fn tags_are_put_in_and_taken_out_again() {
        let mut pool = BufferPool::new(4).unwrap();
        for (outer, bytes) in [
            (None, &[0x81, 0, 0, 100][..]),
            (Some(id(4094)), &[0x88, 0xa8, 0x0f, 0xfe, 0x81, 0, 0, 100]),
        ] {
            let tags = Tags {
                outer,
                vlan: id(100),
            };
            let mut frame: Vec<u8> = (1..=12).collect();
            frame.extend([8, 0, 0x45, 7, 7]);
            let mut packet = pool.allocate().unwrap();
            pool.meta_mut(&mut packet).set_len(frame.len()).unwrap();
            pool.data_mut(&mut packet).copy_from_slice(&frame);
            put_tags(&pool, &mut packet, tags).unwrap();
            let tagged = [&frame[..12], bytes, &frame[12..]].concat();
            assert_eq!(pool.data(&packet), tagged);
            pool.meta_mut(&mut packet).pull_front(14).unwrap();
            let first = EtherType(u16::from_be_bytes([bytes[0], bytes[1]]));
            let taken = take_tags(&pool, &mut packet, first);
            assert_eq!(taken, Ok((EtherType::IPV4, Some(tags))));
            assert_eq!(pool.data(&packet), [0x45, 7, 7]);
            // Who looks at the sender's address before the packet finds it where it always is.
            pool.meta_mut(&mut packet).push_front(14).unwrap();
            assert_eq!(pool.data(&packet), frame);
            pool.free(packet);
        }
    }

    #[test]
    fn priority_tags_are_of_no_vlan_and_odd_tags_are_refused() {
        let mut pool = BufferPool::new(4).unwrap();
        let outcome = |pool: &mut BufferPool, bytes: &[u8]| {
            let mut packet = pool.allocate().unwrap();
            pool.meta_mut(&mut packet).set_len(bytes.len()).unwrap();
            pool.data_mut(&mut packet).copy_from_slice(bytes);
            pool.meta_mut(&mut packet).pull_front(2).unwrap();
            let first = EtherType(u16::from_be_bytes([bytes[0], bytes[1]]));
            let taken = take_tags(pool, &mut packet, first);
            pool.free(packet);
            taken
        };
        let vlan = |outer, vlan| Some(Tags { outer, vlan });
        for (bytes, expected) in [
            // Priority 5 alone, and with a VLAN of the service tag 0.
            (&[0x81, 0, 0xa0, 0, 8, 0][..], Ok((EtherType::IPV4, None))),
            (
                &[0x88, 0xa8, 0xe0, 0, 0x81, 0, 0x70, 5, 8, 0],
                Ok((EtherType::IPV4, vlan(None, id(5)))),
            ),
            (&[0x88, 0xa8, 0, 9, 8, 0], Err(DropReason::VlanUnknown)),
            (&[0x81, 0, 0x0f, 0xff, 8, 0], Err(DropReason::VlanUnknown)),
            (
                &[0x81, 0, 0, 9, 0x81, 0, 0, 9, 8, 0],
                Err(DropReason::VlanUnknown),
            ),
            (
                &[0x81, 0, 0, 9, 0x88, 0xa8, 0, 9, 8, 0],
                Err(DropReason::VlanUnknown),
            ),
            (
                &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 9, 0x81, 0, 0, 9, 8, 0],
                Err(DropReason::VlanUnknown),
            ),
            (&[0x81, 0, 0, 9, 8], Err(DropReason::EthernetTruncated)),
            (
                &[0x88, 0xa8, 0, 9, 0x81, 0, 0],
                Err(DropReason::EthernetTruncated),
            ),
        ] {
            assert_eq!(outcome(&mut pool, bytes), expected, "{bytes:02x?}");
        }
    }
}
