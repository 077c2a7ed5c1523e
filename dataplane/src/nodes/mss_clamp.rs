//! Bounds the MSS of TCP SYNs, so that full segments fit the way (RFC 6691, RFC 9293 section 3.7.1).
//!
//! ```text
//!   SYN, MSS 1460 --> leaves by an interface that clamps: 1360    what the far end sends, which comes back that way
//!   SYN+ACK       <-- came in by that interface: 1360 too         what our side sends there
//! ```
//!
//! Each end is told by the other's SYN what to send, so both are bounded, at the same interface.

use culvert_net::{HeaderPlace, Protocol, tcp};

use super::tunnel_output::underlay;
use super::way_out::{Refusal, complete};
use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::sa::Sa;
use crate::tables::{Interface, InterfaceKind, MssClamp, Tables};

impl MssClamp {
    /// The largest MSS, if packets of `mtu` bytes pass (RFC 6691: headers without options).
    pub(super) fn most(self, mtu: impl FnOnce() -> u16, v6: bool) -> Option<u16> {
        let headers = if v6 { 40 + 20 } else { 20 + 20 };
        match self {
            Self::Off => None,
            Self::FromMtu => Some(mtu().saturating_sub(headers)),
            Self::Fixed(mss) => Some(mss),
        }
    }
}

/// Lowers the MSS in a TCP SYN to `max`; leaves every other IP packet as it is.
#[inline(always)]
pub fn clamp(packet: &mut [u8], v6: bool, max: u16) {
    if let Some(segment) = syn(packet, v6).and_then(|at| packet.get_mut(at..)) {
        tcp::clamp_mss(segment, max);
    }
}

/// The same for what has come by a tunnel, whose MTU is asked for only when a SYN has come.
#[inline(always)]
pub(super) fn clamp_lazily(
    packet: &mut [u8],
    v6: bool,
    clamp: MssClamp,
    mtu: impl FnOnce() -> u16,
) {
    if clamp != MssClamp::Off
        && let Some(segment) = syn(packet, v6).and_then(|at| packet.get_mut(at..))
        && let Some(max) = clamp.most(mtu, v6)
    {
        tcp::clamp_mss(segment, max);
    }
}

/// Where the TCP header of a SYN begins. A first fragment has one, too; a later one shows none.
#[inline(always)]
fn syn(packet: &[u8], v6: bool) -> Option<usize> {
    let header = if v6 {
        match packet {
            [_, _, _, _, _, _, next, ..] if *next == Protocol::TCP.0 => 40,
            [_, _, _, _, _, _, next, ..] if is_passed(Protocol(*next)) => {
                behind_extensions(packet)?
            }
            _ => return None,
        }
    } else {
        match packet {
            [first, _, _, _, _, _, flags, low, _, protocol, ..]
                if *protocol == Protocol::TCP.0 && *flags & 0x1f == 0 && *low == 0 =>
            {
                usize::from(*first & 0x0f) * 4
            }
            _ => return None,
        }
    };
    // Few segments are SYNs: look before the options are walked.
    packet
        .get(header + 13)
        .is_some_and(|flags| flags & 0x02 != 0)
        .then_some(header)
}

/// Extension headers behind which TCP may stand. What AH covers must not be changed.
const fn is_passed(next: Protocol) -> bool {
    matches!(
        next,
        Protocol::HOP_BY_HOP
            | Protocol::ROUTING
            | Protocol::FRAGMENT
            | Protocol::DESTINATION_OPTIONS
            | Protocol::MOBILITY
    )
}

#[cold]
fn behind_extensions(packet: &[u8]) -> Option<usize> {
    let place = HeaderPlace::find(packet, |next, _| is_passed(next)).ok()?;
    let first = place.fragment.is_none_or(|fragment| fragment.offset == 0);
    (first && place.protocol == Protocol::TCP).then_some(place.offset)
}

/// The bound of what comes in by an interface with a driver: its index and the largest MSS.
pub(super) type Arriving = Option<(u32, Option<u16>)>;

/// Bounds what has come by an interface with a driver; tunnels see to it themselves. Called only while some interface
/// clamps.
#[inline(always)]
pub(super) fn clamp_arriving(
    tables: &Tables,
    buffers: &BufferPool,
    packet: &mut Packet,
    v6: bool,
    last: &mut Arriving,
) -> Result<(), DropReason> {
    let (meta, data) = buffers.parts_mut(packet);
    let max = match last {
        Some((index, max)) if *index == meta.rx_interface => *max,
        _ => {
            let max = tables
                .interfaces
                .get(meta.rx_interface)
                .filter(|interface| clamps_arriving(interface))
                .and_then(|interface| interface.mss_clamp.most(|| interface.mtu, v6));
            *last = Some((meta.rx_interface, max));
            max
        }
    };
    if let Some(max) = max
        && let Some(at) = syn(data, v6)
    {
        complete(meta, data).map_err(|refusal| match refusal {
            Refusal::Drop(reason) => reason,
            Refusal::Icmp(_) => DropReason::TxError,
        })?;
        if let Some(segment) = data.get_mut(at..) {
            tcp::clamp_mss(segment, max);
        }
    }
    Ok(())
}

/// See [`Tables::mss_arriving`].
pub fn clamps_arriving(interface: &Interface) -> bool {
    interface.mss_clamp != MssClamp::Off && matches!(interface.kind, InterfaceKind::Ethernet { .. })
}

/// Bytes of the largest packet that an answer to what came by this SA may have, to fit the way back to the peer.
#[cold]
pub(super) fn way_back(tables: &Tables, interface: &Interface, sa: &Sa) -> u16 {
    let InterfaceKind::Tunnel {
        underlay_vrf,
        learn_path_mtu,
        ..
    } = interface.kind
    else {
        return interface.mtu;
    };
    let peer = sa.endpoints.source;
    let (_, link) = underlay(tables, underlay_vrf, peer, || sa.spread);
    let path = tables
        .path_mtus
        .get(underlay_vrf, peer)
        .filter(|_| learn_path_mtu);
    let fitting = sa.inner_mtu(path.map_or(link, |path| path.min(link)));
    interface.mtu.min(fitting)
}
