//! Every reason for which the dataplane drops a packet: a name for `show`, what causes it, what to do.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Each has a counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name as shown, for example `esp-replayed`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What causes it and what to do.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// More packets waited for one node than it has room for. A loop in the configuration of tunnels does this.
    GraphCongestion = "graph-congestion",
    /// All packet buffers were in use.
    NoBuffer = "no-buffer",
    /// The packet grew over its buffer.
    NoRoom = "no-room",
    /// The frame is shorter than its Ethernet header, or the interface is not configured.
    EthernetTruncated = "ethernet-truncated",
    /// The destination MAC address is another's.
    EthernetNotForUs = "ethernet-not-for-us",
    /// No node takes this `EtherType`.
    EthernetUnknownType = "ethernet-unknown-type",
    /// No sub-interface has the frame's VLAN tags.
    VlanUnknown = "vlan-unknown",
    /// The frame is larger than the interface takes; switch segmentation offload off at the sender.
    FrameTooLarge = "frame-too-large",
    /// Frames came faster than the worker took them out of the interface's receive ring.
    RxRingFull = "rx-ring-full",
    /// The interface is administratively down.
    InterfaceDown = "interface-down",
    /// Nothing is forwarded until the first configuration has been applied whole.
    ForwardingDisabled = "forwarding-disabled",
    /// The ARP packet is malformed, or claims an address that cannot be its sender's.
    ArpMalformed = "arp-malformed",
    /// The ARP packet was for us and has been used.
    ArpConsumed = "arp-consumed",
    /// The ARP request is for another.
    ArpNotForUs = "arp-not-for-us",
    /// The neighbour discovery packet is malformed or came from beyond the link (RFC 4861 section 7.1).
    NdMalformed = "nd-malformed",
    /// The neighbour discovery packet has been used.
    NdConsumed = "nd-consumed",
    /// The neighbour discovery packet is for another.
    NdNotForUs = "nd-not-for-us",
    /// The packet waited for a neighbour's MAC address that did not come.
    NeighbourUnresolved = "neighbour-unresolved",
    /// Too many packets wait for this neighbour.
    NeighbourQueueFull = "neighbour-queue-full",
    /// The IPv4 header is truncated, or its lengths contradict each other.
    Ip4Malformed = "ip4-malformed",
    /// The IPv4 header checksum is wrong.
    Ip4BadChecksum = "ip4-bad-checksum",
    /// The TTL has run out; an ICMP error was due.
    Ip4TtlExpired = "ip4-ttl-expired",
    /// The IPv6 header is truncated, or its lengths contradict each other.
    Ip6Malformed = "ip6-malformed",
    /// A field or option of an extension header is wrong or unknown; its sender is told which, where RFC 8200 says so.
    Ip6ParameterProblem = "ip6-parameter-problem",
    /// The hop limit has run out; an ICMP error was due.
    Ip6HopLimitExpired = "ip6-hop-limit-expired",
    /// The source address cannot be a sender's (multicast, loopback, unspecified, ours).
    IpBadSource = "ip-bad-source",
    /// The destination address is never forwarded (link-local, loopback, multicast without a listener).
    IpBadDestination = "ip-bad-destination",
    /// No route leads back to the source address, or none by the interface that the packet came in by (RFC 3704). Forged, or
    /// the traffic is asymmetric: then the interface's `reverse_path` is `loose` at most.
    ReversePath = "reverse-path",
    /// No route covers the destination.
    NoRoute = "no-route",
    /// Routes of VRFs that lead into one another's tables lead in a circle, or through more of them than are followed.
    RouteLoop = "route-loop",
    /// A route says that the destination is to be dropped.
    RouteBlackhole = "route-blackhole",
    /// A route says that the destination is unreachable; its sender is told so.
    RouteUnreachable = "route-unreachable",
    /// A route says that the destination is prohibited; its sender is told so.
    RouteProhibited = "route-prohibited",
    /// The packet is larger than the MTU and must not be fragmented.
    MtuExceeded = "mtu-exceeded",
    /// An ICMP error was due and not sent: the limit of errors a second was reached.
    IcmpRateLimited = "icmp-rate-limited",
    /// An ICMP error was due and not sent: none is sent about such a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    IcmpNotAllowed = "icmp-not-allowed",
    /// The packet is for the box, and no TAP takes it.
    PuntNoTap = "punt-no-tap",
    /// Linux did not take the packet fast enough.
    PuntQueueFull = "punt-queue-full",
    /// UDP port 4500 without ESP and without the non-ESP marker (RFC 3948 section 2).
    PuntBadMarker = "punt-bad-marker",
    /// A NAT keepalive (RFC 3948 section 2.3); nothing is wrong.
    NatKeepalive = "nat-keepalive",
    /// What Linux wrote to a TAP was an ARP or neighbour discovery packet, answered by us; nothing is wrong.
    InjectAnswered = "inject-answered",
    /// What Linux wrote to a TAP is malformed or of no type that is carried.
    InjectMalformed = "inject-malformed",
    /// The link did not take the frame fast enough.
    TxQueueFull = "tx-queue-full",
    /// The driver could not send.
    TxError = "tx-error",
    /// No policy covers this packet of a tunnel; nothing leaves in the clear.
    TunnelNoPolicy = "tunnel-no-policy",
    /// A policy covers the packet and has no SA yet; the peer is being asked.
    TunnelNoSa = "tunnel-no-sa",
    /// A policy says that the packet is to be dropped.
    PolicyDiscard = "policy-discard",
    /// The tunnel interface is administratively down.
    TunnelDown = "tunnel-down",
    /// The GRE or IPIP packet is from or for addresses, or has a key, that no tunnel is configured for.
    TunnelUnknownPeer = "tunnel-unknown-peer",
    /// The tunnel is protected and the packet came without ESP, or by the SA of another; forged, or the peer is set up
    /// otherwise.
    TunnelUnprotected = "tunnel-unprotected",
    /// The GRE or IPIP packet is cut short, or its header is of no kind that is taken.
    TunnelMalformed = "tunnel-malformed",
    /// The GRE packet has a checksum, and it is wrong.
    TunnelBadChecksum = "tunnel-bad-checksum",
    /// The GRE packet carries neither IPv4 nor IPv6 (a keepalive, an Ethernet frame).
    TunnelUnknownType = "tunnel-unknown-type",
    /// The way to the tunnel's peer leads through the tunnel itself, or through too many others; mend the routes.
    TunnelRecursion = "tunnel-recursion",
    /// The ESP packet is shorter than its header, IV and ICV.
    EspTruncated = "esp-truncated",
    /// No SA has this SPI.
    EspUnknownSpi = "esp-unknown-spi",
    /// The SA is for other addresses or another encapsulation.
    EspWrongSa = "esp-wrong-sa",
    /// The sequence number was received before.
    EspReplayed = "esp-replayed",
    /// The sequence number is older than the replay window.
    EspLate = "esp-late",
    /// The ICV is wrong: damaged on the way, or forged.
    EspBadIcv = "esp-bad-icv",
    /// What was decrypted has no valid trailer.
    EspBadPadding = "esp-bad-padding",
    /// What was decrypted is not a packet of the kind that the SA carries.
    EspBadInner = "esp-bad-inner",
    /// Transport mode carries packets between the SA's own two addresses only (RFC 4301 section 4.1); use tunnel mode.
    EspNotEndpoint = "esp-not-endpoint",
    /// Transport mode carries whole packets only, and this is a fragment (RFC 4303 section 3.3.4).
    EspTransportFragment = "esp-transport-fragment",
    /// A packet came in the clear that a policy wants to come out of a tunnel. If it is honest, a policy of the
    /// configuration that lets it through is missing, or the peer does not encrypt it.
    PolicyUnprotected = "policy-unprotected",
    /// The inner packet is outside the SA's selectors.
    EspSelectorMismatch = "esp-selector-mismatch",
    /// The tunnel was congested, and the sender inside knows no ECN (RFC 6040 section 4.2).
    EspCongestion = "esp-congestion",
    /// A dummy packet (next header 59); nothing is wrong.
    EspDummy = "esp-dummy",
    /// The SA has reached its hard limit of packets, bytes or sequence numbers.
    EspLimit = "esp-limit",
    /// The SA was deleted between lookup and use.
    EspSaGone = "esp-sa-gone",
    /// A router says that an ESP packet of ours is too big for its next link; `show too-big` tells what became of it.
    EspTooBig = "esp-too-big",
    /// A router says that an ESP packet of ours is too big, and many said so at once; it will say it again.
    EspTooBigLimited = "esp-too-big-limited",
    /// An ICMP error about an ESP packet of ours. Nobody can tell whether it is true: IKE finds out who is gone.
    EspIcmpError = "esp-icmp-error",
    /// A router says that a packet of a GRE or IPIP tunnel is too big for its next link; `show too-big` tells what became
    /// of it.
    TunnelTooBig = "tunnel-too-big",
    /// A router says that a packet of a GRE or IPIP tunnel is too big, and many said so at once; it will say it again.
    TunnelTooBigLimited = "tunnel-too-big-limited",
    /// An ICMP error about a packet of a GRE or IPIP tunnel, whose far end may not be there. Nobody can tell whether it is
    /// true.
    TunnelIcmpError = "tunnel-icmp-error",
    /// The packet went on as fragments; nothing is wrong.
    Fragmented = "fragmented",
    /// The fragment became part of a packet that was put together; nothing is wrong.
    Reassembled = "reassembled",
    /// The fragment is empty, is not the last one and not a multiple of 8 bytes long, ends behind byte 65,535, or is a first
    /// one that ends before the ports that policies look at.
    ReassemblyMalformed = "reassembly-malformed",
    /// Fragments of the packet overlap or contradict each other (RFC 5722), or it begins twice with different ports.
    ReassemblyOverlap = "reassembly-overlap",
    /// The fragment was there already.
    ReassemblyDuplicate = "reassembly-duplicate",
    /// The packet is longer, or is made of more fragments, than is put together.
    ReassemblyTooLarge = "reassembly-too-large",
    /// Too many fragments wait; raise the limits if the traffic is honest.
    ReassemblyCrowded = "reassembly-crowded",
    /// The rest of the packet did not come in time, or its first fragment, by whose ports policies decide.
    ReassemblyTimedOut = "reassembly-timed-out",
    /// Some fragments are marked with congestion, and others are of a sender that knows no marks (RFC 3168 section 5.3).
    ReassemblyEcn = "reassembly-ecn",
    /// A packet that another node made obsolete (for instance one turned into an ICMP error).
    Replaced = "replaced",
    /// The packet generator's sink took it; nothing is wrong.
    Sink = "sink",
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::DropReason;

    #[test]
    fn names_are_unique_and_numbers_are_indexes() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(
                reason.meaning().ends_with('.'),
                "{} has no sentence",
                reason.name()
            );
        }
    }
}
