//! What workers tell the control thread. Bounded: a worker never waits, and what does not fit is told again later.

use std::net::IpAddr;

use culvert_net::{Flow, MacAddr};
use tokio::sync::mpsc;

use crate::path_mtu::{TooBig, TunnelTooBig};
use crate::sa::SaKeyId;

/// Something the control thread must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour has shown its MAC address.
    NeighbourSeen {
        /// Index of the interface.
        interface: u32,
        /// Its address.
        address: IpAddr,
        /// Its MAC address.
        mac: MacAddr,
        /// It answered us (else it asked or announced: such news only update what is known, RFC 826, RFC 4861 7.2.5).
        solicited: bool,
    },
    /// A packet waits for this neighbour.
    NeighbourWanted {
        /// Index of the interface.
        interface: u32,
        /// Its address.
        address: IpAddr,
    },
    /// Somebody else uses (or probes for) an address of ours (RFC 5227, RFC 4862 section 5.4).
    AddressConflict {
        /// Index of the interface.
        interface: u32,
        /// The address.
        address: IpAddr,
        /// Whose.
        mac: MacAddr,
    },
    /// A router asks who listens to which IPv6 groups (RFC 3810), on an interface for which Linux does not answer.
    ListenerQuery {
        /// Index of the interface.
        interface: u32,
    },
    /// An SA has reached a limit.
    SaLimit {
        /// Its name.
        sa: SaKeyId,
        /// No packet passes any more.
        hard: bool,
    },
    /// A packet needs an SA that is not there.
    Acquire {
        /// Number of the policy.
        policy: u32,
        /// What the packet is.
        flow: Flow,
    },
    /// The peer of an inbound SA sends from another address or port now, proved by a good ICV.
    MappingChanged {
        /// Its name.
        sa: SaKeyId,
        /// Where it sends from.
        source: IpAddr,
        /// Its UDP port.
        port: u16,
    },
    /// A router says that an ESP packet of ours was too big.
    TooBig(TooBig),
    /// A router says that a packet of a GRE or IPIP tunnel was too big.
    TunnelTooBig(TunnelTooBig),
}

/// Where workers put events.
pub type EventSender = mpsc::Sender<Event>;
/// Where the control thread takes them.
pub type EventReceiver = mpsc::Receiver<Event>;
/// Events that may wait for the control thread.
pub const QUEUED_EVENTS: usize = 4096;

/// The two ends.
pub fn channel() -> (EventSender, EventReceiver) {
    mpsc::channel(QUEUED_EVENTS)
}
