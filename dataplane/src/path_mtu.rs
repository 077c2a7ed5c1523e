//! Path MTUs to peers, learnt from what routers say about our ESP packets (RFC 1191, RFC 8201, RFC 4301 section 8.2) and
//! those of tunnels of GRE and IPIP (RFC 2003 section 5.1, RFC 2473 section 7.1).
//!
//! ```text
//!   router: "too big" --> ip4-local, ip6-local --TooBig--> PathMtuTable (control thread) --PathMtus--> tunnel-output
//!                         (what is quoted is ESP,          is it of an SA or tunnel of ours?           esp-encrypt
//!                         GRE or IPIP)                                                                 encapsulate
//! ```
//!
//! Such messages are not authenticated: anybody on the path can forge them, others must guess an SPI, or know the two ends
//! of a tunnel and its key. So they can only ever lower a path MTU, never below what every path carries, and what they say
//! is forgotten after ten minutes. It is kept by peer and underlay, not by SA, and so outlives a rekey.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_net::Spi;

use crate::encapsulation::Ends;
use crate::sa::{IPV6_MINIMUM_MTU, Sa, SaDirection, SaKeyId, UdpPorts};

/// No message lowers the MTU of an IPv4 path below it: what every host takes (RFC 791 section 3.1). RFC 1191 section 3
/// would allow 68, which leaves a tunnel no room.
pub const IPV4_FLOOR: u16 = 576;
/// How long a value holds (RFC 1191 section 6.3, RFC 8201 section 4): then the full MTU is tried again.
const LIFETIME_NS: u64 = 600 * 1_000_000_000;
/// MTUs of common links, for routers that name none (RFC 1191 section 7.1).
const PLATEAUS: [u16; 8] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006];

/// A router says that an ESP packet of ours was too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Index of the VRF by which it came.
    pub vrf: u32,
    /// MTU of the router's next link; 0: it does not say.
    pub mtu: u32,
    /// The packet that was too big.
    pub packet: QuotedEsp,
}

/// A router says that a packet of a tunnel of GRE or IPIP was too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelTooBig {
    /// MTU of the router's next link; 0: it does not say.
    pub mtu: u32,
    /// Of the tunnel; the VRF is that by which the message came.
    pub ends: Ends,
    /// Bytes of the outer packet, by its header.
    pub length: u32,
}

/// What an ICMP error quotes of an ESP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedEsp {
    /// Its outer source.
    pub source: IpAddr,
    /// Its outer destination.
    pub destination: IpAddr,
    /// Of UDP encapsulation.
    pub udp: Option<UdpPorts>,
    /// Its SPI.
    pub spi: u32,
    /// The low half of its sequence number, if so much is quoted.
    pub sequence: Option<u32>,
    /// Bytes of the IP packet, by its header.
    pub length: u32,
}

/// What workers read: the path MTUs that are lower than the link's.
#[derive(Clone, Debug, Default)]
pub struct PathMtus(Option<Arc<HashMap<(u32, IpAddr), u16>>>);

impl PathMtus {
    /// To this peer in this VRF; `None` if nothing is known.
    #[inline(always)]
    pub fn get(&self, vrf: u32, peer: IpAddr) -> Option<u16> {
        self.0.as_ref()?.get(&(vrf, peer)).copied()
    }
}

macro_rules! verdicts {
    ($(#[doc = $doc:literal] $variant:ident = $name:literal,)+) => {
        /// What became of a message about a packet that was too big.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verdict {
            $(#[doc = $doc] $variant,)+
        }

        impl Verdict {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// As shown.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim_ascii_start(),)+ }
            }
        }
    };
}

verdicts! {
    /// The path MTU was lowered.
    Learnt = "learnt",
    /// There is no such SA, or it has other addresses or ports, or the tunnel sends nothing without ESP: late, or forged.
    UnknownSa = "unknown-sa",
    /// The packet that is quoted was never sent, or was not too big for such a link.
    Implausible = "implausible",
    /// No path takes so little (576 bytes, IPv6 1,280): forged, or a link that tunnels cannot use.
    TooSmall = "too-small",
    /// It was known already, or is not less than what is known.
    NotLower = "not-lower",
    /// The tunnel is configured to ignore such messages.
    Ignored = "ignored",
}

/// A path as it is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// When it was learnt, in nanoseconds of `CLOCK_MONOTONIC`.
    pub learnt_at: u64,
}

/// What the box knows of the SA that a message is about.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The SA that the message names.
    pub sa: &'a Sa,
    /// Index of the VRF in which its packets travel.
    pub vrf: u32,
    /// MTU of the link by which they leave.
    pub link_mtu: u16,
    /// Its tunnel listens to such messages.
    pub learn: bool,
}

/// The control thread's side: which values hold, and until when. At most one a peer with an SA or a tunnel.
#[derive(Debug, Default)]
pub struct PathMtuTable {
    paths: HashMap<(u32, IpAddr), Path>,
    messages: [u64; Verdict::ALL.len()],
}

impl QuotedEsp {
    /// What the SA that sent it would be called.
    pub fn sa(&self) -> Option<SaKeyId> {
        Some(SaKeyId {
            spi: Spi::new(self.spi).ok()?,
            direction: SaDirection::Out,
            destination: self.destination,
        })
    }
}

impl PathMtuTable {
    /// Takes a message in. `known` is what [`QuotedEsp::sa`] names.
    pub fn hear(&mut self, message: &TooBig, known: Option<Known<'_>>, now: u64) -> Verdict {
        let verdict = self.judge(message, known);
        self.settle(verdict, now)
    }

    fn judge(
        &self,
        message: &TooBig,
        known: Option<Known<'_>>,
    ) -> Result<((u32, IpAddr), u16), Verdict> {
        let TooBig { vrf, packet, .. } = *message;
        let known = known
            .filter(|known| {
                let endpoints = &known.sa.endpoints;
                known.vrf == vrf
                    && endpoints.source == packet.source
                    && endpoints.destination == packet.destination
                    && endpoints.udp == packet.udp
            })
            .ok_or(Verdict::UnknownSa)?;
        if !known.learn {
            return Err(Verdict::Ignored);
        }
        if let Some(sequence) = packet.sequence
            && !known.sa.may_have_sent(sequence)
        {
            return Err(Verdict::Implausible);
        }
        let path = (vrf, packet.destination);
        self.lower(path, message.mtu, packet.length, known.link_mtu)
    }

    /// Takes in a message about a tunnel of GRE or IPIP. `link_mtu` is that of the link by which its packets leave, if
    /// there is such a tunnel and no ESP around it.
    pub fn hear_tunnel(
        &mut self,
        message: &TunnelTooBig,
        link_mtu: Option<u16>,
        now: u64,
    ) -> Verdict {
        let TunnelTooBig { mtu, ends, length } = *message;
        let verdict = link_mtu.ok_or(Verdict::UnknownSa).and_then(|link_mtu| {
            if length > u32::from(link_mtu) {
                return Err(Verdict::Implausible);
            }
            self.lower((ends.underlay_vrf, ends.remote), mtu, length, link_mtu)
        });
        self.settle(verdict, now)
    }

    fn settle(&mut self, verdict: Result<((u32, IpAddr), u16), Verdict>, now: u64) -> Verdict {
        let verdict = match verdict {
            Ok((path, mtu)) => {
                let learnt_at = now;
                self.paths.insert(path, Path { mtu, learnt_at });
                Verdict::Learnt
            }
            Err(verdict) => verdict,
        };
        self.messages[verdict as usize] += 1;
        verdict
    }

    /// What a packet of this length leaves to be learnt that did not fit a link of this MTU.
    fn lower(
        &self,
        path: (u32, IpAddr),
        mtu: u32,
        length: u32,
        link_mtu: u16,
    ) -> Result<((u32, IpAddr), u16), Verdict> {
        let floor = match path.1 {
            IpAddr::V4(_) => IPV4_FLOOR,
            IpAddr::V6(_) => IPV6_MINIMUM_MTU,
        };
        let mtu = match mtu {
            0 if path.1.is_ipv4() => u32::from(plateau_below(length)),
            mtu => mtu,
        };
        if length <= mtu {
            return Err(Verdict::Implausible);
        }
        if mtu < u32::from(floor) {
            return Err(Verdict::TooSmall);
        }
        let current = self
            .paths
            .get(&path)
            .map_or(link_mtu, |path| path.mtu.min(link_mtu));
        match u16::try_from(mtu) {
            Ok(mtu) if mtu < current => Ok((path, mtu)),
            _ => Err(Verdict::NotLower),
        }
    }

    /// Forgets what is too old; whether there was any.
    pub fn expire(&mut self, now: u64) -> bool {
        let before = self.paths.len();
        self.paths
            .retain(|_, path| now.saturating_sub(path.learnt_at) < LIFETIME_NS);
        self.paths.len() != before
    }

    /// When [`PathMtuTable::expire`] is due.
    pub fn next_timer(&self) -> Option<u64> {
        self.paths
            .values()
            .map(|path| path.learnt_at + LIFETIME_NS)
            .min()
    }

    /// For workers.
    pub fn published(&self) -> PathMtus {
        let all = || {
            self.paths
                .iter()
                .map(|(key, path)| (*key, path.mtu))
                .collect()
        };
        PathMtus((!self.paths.is_empty()).then(|| Arc::new(all())))
    }

    /// What is known of the path to this peer in this VRF.
    pub fn get(&self, vrf: u32, peer: IpAddr) -> Option<Path> {
        self.paths.get(&(vrf, peer)).copied()
    }

    /// All that is known, by VRF and peer.
    pub fn iter(&self) -> impl Iterator<Item = ((u32, IpAddr), Path)> + '_ {
        self.paths.iter().map(|(key, path)| (*key, *path))
    }

    /// How many messages this became of so far.
    pub fn messages(&self, verdict: Verdict) -> u64 {
        self.messages[verdict as usize]
    }
}

/// The MTU of the next smaller kind of link.
fn plateau_below(length: u32) -> u16 {
    PLATEAUS
        .into_iter()
        .find(|plateau| u32::from(*plateau) < length)
        .unwrap_or(IPV4_FLOOR)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_crypto::{Cipher, Integrity, KeyBits, Portable, Suite};

    use super::*;
    use crate::sa::{Limits, SaManager, SaMode, SaSpec, SaTables};

    const MINUTE: u64 = 60 * 1_000_000_000;
    const UDP: UdpPorts = UdpPorts {
        source: 4500,
        destination: 4501,
    };

    fn address(v6: bool, last: u8) -> IpAddr {
        if v6 {
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into()
        } else {
            [192, 0, 2, last].into()
        }
    }

    /// An SA that has sent 1,000 packets.
    fn sa(v6: bool, udp: Option<UdpPorts>) -> Arc<Sa> {
        let mut tables = SaTables::default();
        let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
        let spec = SaSpec {
            id: SaKeyId {
                spi: Spi::new(0x1234).unwrap(),
                direction: SaDirection::Out,
                destination: address(v6, 2),
            },
            source: address(v6, 1),
            mode: SaMode::Tunnel,
            suite: Suite::new(Cipher::AesGcm16(KeyBits::B128), Integrity::Aead).unwrap(),
            esn: false,
            replay_window: 128,
            udp,
            if_id: 1,
            selectors: Vec::new(),
            limits: Limits::NONE,
            copy_df: true,
            copy_ecn: true,
            copy_dscp: true,
            tfc_padding: 0,
            reqid: 1,
            timers: [0; 3],
        };
        let index = manager.add(&mut tables, spec, &[7; 20], &[]).unwrap();
        let sa = Arc::clone(tables.sas.get(index).unwrap());
        assert_eq!(
            sa.state.reserve(1000, 0, std::iter::repeat(0), 1).granted,
            1000
        );
        sa
    }

    fn known(sa: &Sa) -> Known<'_> {
        Known {
            sa,
            vrf: 3,
            link_mtu: 1500,
            learn: true,
        }
    }

    fn too_big(v6: bool, mtu: u32) -> TooBig {
        TooBig {
            vrf: 3,
            mtu,
            packet: QuotedEsp {
                source: address(v6, 1),
                destination: address(v6, 2),
                udp: None,
                spi: 0x1234,
                sequence: Some(1000),
                length: 1500,
            },
        }
    }

    #[test]
    fn a_path_mtu_is_lowered_step_by_step_and_forgotten_after_ten_minutes() {
        let sa = sa(false, None);
        let mut table = PathMtuTable::default();
        assert_eq!(table.published().get(3, address(false, 2)), None);
        let mut hear = |mtu, now| table.hear(&too_big(false, mtu), Some(known(&sa)), now);
        assert_eq!(hear(1500, 0), Verdict::Implausible, "1,500 bytes fit");
        assert_eq!(hear(1400, 0), Verdict::Learnt);
        assert_eq!(hear(1400, MINUTE), Verdict::NotLower);
        assert_eq!(hear(1450, MINUTE), Verdict::NotLower);
        assert_eq!(hear(1300, 2 * MINUTE), Verdict::Learnt);
        assert_eq!(table.published().get(3, address(false, 2)), Some(1300));
        assert_eq!(table.published().get(0, address(false, 2)), None);
        assert_eq!(table.next_timer(), Some(12 * MINUTE));
        assert!(!table.expire(12 * MINUTE - 1));
        assert!(table.expire(12 * MINUTE));
        assert_eq!(table.published().get(3, address(false, 2)), None);
        assert_eq!(table.next_timer(), None);
        let counts = [Verdict::Learnt, Verdict::NotLower, Verdict::Implausible];
        assert_eq!(counts.map(|verdict| table.messages(verdict)), [2, 2, 1]);
    }

    #[test]
    fn what_quotes_no_packet_of_ours_is_not_believed() {
        type Change = fn(&mut TooBig);
        let cases: [(Change, Verdict); 9] = [
            (|_| {}, Verdict::Learnt),
            (|message| message.packet.sequence = None, Verdict::Learnt),
            (|message| message.vrf = 0, Verdict::UnknownSa),
            (
                |message| message.packet.source = address(false, 9),
                Verdict::UnknownSa,
            ),
            (|message| message.packet.udp = Some(UDP), Verdict::UnknownSa),
            (
                |message| message.packet.sequence = Some(1001),
                Verdict::Implausible,
            ),
            (
                |message| message.packet.sequence = Some(0),
                Verdict::Implausible,
            ),
            (|message| message.packet.length = 1300, Verdict::Implausible),
            (|message| message.mtu = 575, Verdict::TooSmall),
        ];
        let sa = sa(false, None);
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut message = too_big(false, 1300);
            change(&mut message);
            let verdict = PathMtuTable::default().hear(&message, Some(known(&sa)), 0);
            assert_eq!(verdict, expected, "case {number}");
        }
        let mut table = PathMtuTable::default();
        assert_eq!(
            table.hear(&too_big(false, 1300), None, 0),
            Verdict::UnknownSa
        );
        let deaf = Known {
            learn: false,
            ..known(&sa)
        };
        assert_eq!(
            table.hear(&too_big(false, 1300), Some(deaf), 0),
            Verdict::Ignored
        );
        let counts = [Verdict::UnknownSa, Verdict::Ignored];
        assert_eq!(counts.map(|verdict| table.messages(verdict)), [1, 1]);
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn ports_and_family_are_those_of_the_sa() {
        let encapsulated = sa(false, Some(UDP));
        let mut message = too_big(false, 1300);
        let mut table = PathMtuTable::default();
        let mut hear = |message: &TooBig| table.hear(message, Some(known(&encapsulated)), 0);
        assert_eq!(hear(&message), Verdict::UnknownSa);
        message.packet.udp = Some(UDP);
        assert_eq!(hear(&message), Verdict::Learnt);
        let six = sa(true, None);
        let mut hear = |mtu| table.hear(&too_big(true, mtu), Some(known(&six)), 0);
        assert_eq!(hear(1279), Verdict::TooSmall);
        assert_eq!(hear(0), Verdict::TooSmall);
        assert_eq!(hear(1280), Verdict::Learnt);
        assert_eq!(hear(u32::MAX), Verdict::Implausible);
    }

    #[test]
    fn a_tunnel_without_esp_learns_from_what_it_may_have_sent() {
        use crate::encapsulation::Mode;
        let message = |v6, mtu, length| TunnelTooBig {
            mtu,
            ends: Ends {
                underlay_vrf: 3,
                local: address(v6, 1),
                remote: address(v6, 2),
                mode: Mode::Gre(Some(7)),
            },
            length,
        };
        let mut table = PathMtuTable::default();
        for (v6, mtu, length, link, verdict) in [
            (false, 1400, 1500, None, Verdict::UnknownSa),
            // Larger than any packet by that link.
            (false, 1400, 1501, Some(1500), Verdict::Implausible),
            (false, 1400, 1400, Some(1500), Verdict::Implausible),
            (false, 575, 1500, Some(1500), Verdict::TooSmall),
            (false, 1400, 1500, Some(1500), Verdict::Learnt),
            (false, 1450, 1500, Some(1500), Verdict::NotLower),
            (false, 0, 1390, Some(1500), Verdict::Learnt),
            (true, 1279, 1500, Some(1500), Verdict::TooSmall),
            (true, 1280, 1500, Some(1500), Verdict::Learnt),
        ] {
            assert_eq!(
                table.hear_tunnel(&message(v6, mtu, length), link, 0),
                verdict
            );
        }
        let mtu = |v6| table.get(3, address(v6, 2)).map(|path| path.mtu);
        assert_eq!((mtu(false), mtu(true)), (Some(1006), Some(1280)));
        assert_eq!(table.messages(Verdict::Learnt), 3);
        assert!(table.expire(10 * MINUTE) && table.next_timer().is_none());
    }

    #[test]
    fn routers_that_name_no_mtu_mean_the_next_smaller_kind_of_link() {
        let sa = sa(false, None);
        for (length, expected) in [
            (1500, Ok(1492)),
            (1492, Ok(1006)),
            (1007, Ok(1006)),
            (1006, Ok(576)),
            (577, Ok(576)),
            (576, Err(Verdict::Implausible)),
            (9000, Err(Verdict::NotLower)),
        ] {
            let mut message = too_big(false, 0);
            message.packet.length = length;
            let mut table = PathMtuTable::default();
            let verdict = table.hear(&message, Some(known(&sa)), 0);
            let outcome = table.get(3, address(false, 2)).map(|path| path.mtu);
            assert_eq!(outcome.ok_or(verdict), expected, "{length} bytes");
        }
    }

    #[test]
    fn any_sequence_number_is_plausible_once_the_low_half_has_wrapped() {
        let sa = sa(false, None);
        assert!(sa.may_have_sent(1) && sa.may_have_sent(1000));
        assert!(!sa.may_have_sent(0) && !sa.may_have_sent(1001));
        sa.state.reserve(1 << 32, 0, std::iter::empty(), 1);
        assert!(sa.may_have_sent(0) && sa.may_have_sent(u32::MAX));
    }
}
