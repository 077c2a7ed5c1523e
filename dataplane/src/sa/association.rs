//! A security association as workers use it.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_crypto::{ReplayWindow, SaKey};
use culvert_net::{Addresses, Flow, Ipv4Header, Ipv6Header, Protocol, Selector, Spi};

use super::classifier::{Classifier, Rank, Selects};
use super::outer::{OuterHeader, UdpPorts};
use super::outer_rules::{DontFragment, OuterRules};
use super::policy::covers_family;
use super::spec::{Limits, SaMode, SaSpec};
use crate::prefetch;

/// One version of an SA: where its packets travel, and the state that all versions share.
pub struct Sa {
    /// Index in the table.
    pub index: u32,
    /// Its number.
    pub spi: Spi,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Transport mode: the packet keeps its own IP header.
    pub transport: bool,
    /// What crosses between inner and outer header where its tunnel interface does not say.
    pub rules: OuterRules,
    /// See [`SaSpec::tfc_padding`].
    pub tfc_padding: u32,
    /// Every IPv4, every IPv6 packet is inside the selectors.
    all_v4: bool,
    all_v6: bool,
    about_ports: bool,
    /// Where its packets travel.
    pub endpoints: Endpoints,
    /// The header of outbound packets.
    pub outer: OuterHeader,
    /// Chooses among several next hops for them, as [`Flow::spread_of`] would. UDP encapsulation goes by the ports
    /// alone, so that it takes the way of IKE: NATs on another way would give it another mapping.
    pub spread: u32,
    /// What traffic changes.
    pub state: Arc<SaState>,
    /// As it was asked for.
    pub spec: Arc<SaSpec>,
    /// Its selectors, if they are too many to try one after the other.
    many: Option<Classifier<Numbered>>,
}

/// Selectors that are tried one after the other.
const FEW: usize = 8;

/// One of many selectors of an SA; none comes before another.
#[derive(Debug)]
struct Numbered {
    selector: Selector,
    number: u32,
}

impl Selects for Numbered {
    fn selector(&self) -> &Selector {
        &self.selector
    }

    fn rank(&self) -> Rank {
        Rank {
            priority: 0,
            last: false,
            number: Reverse(self.number),
        }
    }
}

fn classifier(selectors: &[Selector]) -> Classifier<Numbered> {
    let mut all = Classifier::default();
    for (number, selector) in (0..).zip(selectors) {
        all.insert(&Arc::new(Numbered {
            selector: *selector,
            number,
        }));
    }
    all
}

/// Where the packets of an SA travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The outer source.
    pub source: IpAddr,
    /// The outer destination.
    pub destination: IpAddr,
    /// UDP encapsulation.
    pub udp: Option<UdpPorts>,
}

impl Endpoints {
    /// See [`Sa::spread`]; `None` if source and destination are of different families.
    fn spread(&self, spi: Spi) -> Option<u32> {
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 {
                source,
                destination,
            },
            (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 {
                source,
                destination,
            },
            _ => return None,
        };
        let flow = Flow {
            addresses,
            protocol: if self.udp.is_some() {
                Protocol::UDP
            } else {
                Protocol::ESP
            },
            ports: self.udp.map(|ports| (ports.source, ports.destination)),
        };
        Some(if self.udp.is_some() {
            flow.spread()
        } else {
            flow.spread_with(spi.get())
        })
    }
}

impl Sa {
    /// Puts the parts together; `None` if source and destination are of different families.
    pub fn new(
        index: u32,
        spec: Arc<SaSpec>,
        endpoints: Endpoints,
        state: Arc<SaState>,
    ) -> Option<Self> {
        let covered = |v6| {
            spec.selectors
                .iter()
                .any(|selector| covers_family(selector, v6))
        };
        Some(Self {
            index,
            spi: spec.id.spi,
            esn: spec.esn,
            transport: spec.mode == SaMode::Transport,
            rules: rules(&spec),
            tfc_padding: spec.tfc_padding,
            all_v4: covered(false),
            all_v6: covered(true),
            about_ports: spec.selectors.iter().any(Selector::looks_at_ports),
            endpoints,
            outer: OuterHeader::new(endpoints.source, endpoints.destination, endpoints.udp)?,
            spread: endpoints.spread(spec.id.spi)?,
            state,
            many: (spec.selectors.len() > FEW).then(|| classifier(&spec.selectors)),
            spec,
        })
    }

    /// The packet is one that this SA carries (RFC 4301 section 5.2 step 4). `flow` is read only if a selector looks
    /// at more than the family.
    #[inline(always)]
    pub fn carries(&self, v6: bool, flow: impl FnOnce() -> Option<Flow>) -> bool {
        if if v6 { self.all_v6 } else { self.all_v4 } {
            return true;
        }
        flow().is_some_and(|flow| match &self.many {
            Some(many) => many.find(&flow).is_some(),
            None => self
                .spec
                .selectors
                .iter()
                .any(|selector| selector.matches(&flow)),
        })
    }

    /// Whether it carries a packet of this family may depend on the packet's ports.
    #[inline(always)]
    pub fn looks_at_ports(&self, v6: bool) -> bool {
        self.about_ports && !if v6 { self.all_v6 } else { self.all_v4 }
    }

    /// Whether a packet with this low half of a sequence number can have been sent.
    pub fn may_have_sent(&self, sequence: u32) -> bool {
        let sent = self.state.sent.load(Ordering::Relaxed);
        // Before the last wrap of the low half every number was used; 0 is the first that none was.
        sent > u64::from(u32::MAX) || (sequence != 0 && u64::from(sequence) <= sent)
    }

    /// Bytes of the largest packet that fits into `mtu` bytes; in transport mode, if its IP header is a plain one.
    #[inline]
    pub fn inner_mtu(&self, mtu: u16) -> u16 {
        let suite = &self.spec.suite;
        let room = usize::from(mtu).saturating_sub(self.outer.len());
        let kept = match (self.transport, self.outer.is_v6()) {
            (false, _) => 0,
            (true, false) => Ipv4Header::LEN,
            (true, true) => Ipv6Header::LEN,
        };
        suite
            .max_payload(room)
            .and_then(|bytes| u16::try_from(bytes + kept).ok())
            .unwrap_or(0)
    }
}

/// As charon asks for them: what is not copied is clear.
fn rules(spec: &SaSpec) -> OuterRules {
    let rules = OuterRules::default()
        .dscp((!spec.copy_dscp).then_some(0))
        .ecn(spec.copy_ecn);
    OuterRules {
        dont_fragment: if spec.copy_df {
            DontFragment::Copy
        } else {
            DontFragment::Clear
        },
        ..rules
    }
}

/// Of packets with these lengths, how many go until so many bytes are used up, and their bytes.
#[cold]
fn fitting(lengths: impl Iterator<Item = u64>, room: u64) -> (usize, u64) {
    let (mut packets, mut bytes) = (0, 0);
    for length in lengths {
        if bytes >= room {
            break;
        }
        packets += 1;
        bytes += length;
    }
    (packets, bytes)
}

/// What traffic changes in an SA, and its keys: one allocation for its whole life.
#[repr(align(64))]
pub struct SaState {
    /// The last sequence number used. Every writer adds, so a number is never used twice.
    sent: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    last_use_s: AtomicU64,
    limits: Limits,
    /// Largest sequence number that is sent: 2^32-1 without ESN, [`LAST_EXTENDED`] with it.
    last_sequence: u64,
    /// No packet passes: a hard limit was reached, or the SA was deleted.
    dead: AtomicBool,
    soft_alarm: Alarm,
    hard_alarm: Alarm,
    mapping_alarm: Alarm,
    window: Mutex<ReplayWindow>,
    replayed: AtomicU64,
    late: AtomicU64,
    bad_icv: AtomicU64,
    lost: AtomicU64,
    key: SaKey,
    #[cfg(feature = "fingerprint")]
    fingerprint: [u8; 16],
}

/// Tells the control thread something that stays true: now, and again after a while, for what does not fit into the
/// queue of events is lost.
#[derive(Default)]
struct Alarm(AtomicU64);

impl Alarm {
    #[inline]
    fn due(&self, now_ns: u64, interval_ns: u64) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        (last == 0 || now_ns.saturating_sub(last) >= interval_ns)
            && self
                .0
                .compare_exchange(last, now_ns.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Sequence numbers for the packets of one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The first number.
    pub first: u64,
    /// How many packets may go; the others are over a limit.
    pub granted: usize,
    /// Their bytes.
    pub bytes: u64,
    /// A limit was reached: tell the control thread.
    pub report: Option<LimitKind>,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// A new SA is wanted.
    Soft,
    /// This one ends.
    Hard,
}

/// What an SA has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Good packets.
    pub packets: u64,
    /// Bytes of the packets inside.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` seconds of the last good packet; 0: none yet.
    pub last_use_s: u64,
    /// Duplicates.
    pub replayed: u64,
    /// Older than the window.
    pub late: u64,
    /// Damaged or forged.
    pub bad_icv: u64,
    /// Sequence numbers that the replay window has left behind without having seen them.
    pub lost: u64,
}

/// Time between two reports of one limit.
const LIMIT_INTERVAL_NS: u64 = 5_000_000_000;
/// Time between two reports of a changed address: an attacker who can replay fast must not make charon busy.
const MAPPING_INTERVAL_NS: u64 = 1_000_000_000;
/// Sequence numbers before the last one at which a new SA is wanted: 1/16 of them.
const SOFT_SEQUENCE_SHARE: u64 = 16;
/// The last extended number that is sent. The 2^32 behind it stay unused, for workers that add to the counter while
/// another one ends the SA: it never wraps, whatever they ask for.
const LAST_EXTENDED: u64 = u64::MAX - (1 << 32);

impl SaState {
    /// The state of a new SA.
    pub fn new(spec: &SaSpec, key: SaKey, window: ReplayWindow) -> Self {
        Self {
            sent: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_use_s: AtomicU64::new(0),
            limits: spec.limits,
            last_sequence: if spec.esn {
                LAST_EXTENDED
            } else {
                u64::from(u32::MAX)
            },
            dead: AtomicBool::new(false),
            soft_alarm: Alarm::default(),
            hard_alarm: Alarm::default(),
            mapping_alarm: Alarm::default(),
            window: Mutex::new(window),
            replayed: AtomicU64::new(0),
            late: AtomicU64::new(0),
            bad_icv: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            key,
            #[cfg(feature = "fingerprint")]
            fingerprint: [0; 16],
        }
    }

    /// The keyed fingerprint of key and salt, for tests that prove that no pair of key and IV came twice.
    #[cfg(feature = "fingerprint")]
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Keeps the fingerprint of the keys.
    #[cfg(feature = "fingerprint")]
    #[must_use]
    pub fn with_fingerprint(self, fingerprint: [u8; 16]) -> Self {
        Self {
            fingerprint,
            ..self
        }
    }

    /// Asks for what every vector of packets looks at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch::line(&self.sent);
        prefetch::line(&self.dead);
        prefetch::line(&self.key);
    }

    /// The expanded keys.
    #[inline(always)]
    pub fn key(&self) -> &SaKey {
        &self.key
    }

    /// Takes sequence numbers for `packets` packets of `bytes` bytes in all: one atomic addition a vector, so that
    /// any worker encrypts for any SA. Past a hard limit, and past the last number, nothing is granted any more:
    /// the sequence never wraps (RFC 4303 section 3.3.3), so no nonce comes twice. `lengths` are those of the packets,
    /// asked for only where a limit is near. The packet with which the bytes reach theirs still goes.
    #[inline]
    pub fn reserve(
        &self,
        packets: usize,
        bytes: u64,
        lengths: impl Iterator<Item = u64>,
        now_ns: u64,
    ) -> Reservation {
        if self.dead.load(Ordering::Relaxed) {
            return Reservation {
                first: 0,
                granted: 0,
                bytes: 0,
                report: self.remind(now_ns),
            };
        }
        let before = self.sent.fetch_add(packets as u64, Ordering::Relaxed);
        let last = self.last_sequence.min(self.limits.hard_packets);
        let numbers = last.saturating_sub(before).min(packets as u64) as usize;
        let carried = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let hard_bytes = self.limits.hard_bytes;
        let (granted, granted_bytes) =
            if numbers == packets && carried.saturating_add(bytes) < hard_bytes {
                (packets, bytes)
            } else {
                let fitting = fitting(lengths.take(numbers), hard_bytes.saturating_sub(carried));
                self.bytes
                    .fetch_sub(bytes - fitting.1.min(bytes), Ordering::Relaxed);
                fitting
            };
        let used = before.saturating_add(packets as u64);
        let ends = granted < packets || used >= self.last_sequence;
        let carried = carried.saturating_add(granted_bytes);
        let report = self.account(granted, carried, used, ends, now_ns);
        Reservation {
            first: before.wrapping_add(1),
            granted,
            bytes: granted_bytes,
            report,
        }
    }

    /// Leaves all sequence numbers up to this one unused. Never goes back.
    pub fn skip_to(&self, sequence: u64) {
        self.sent.fetch_max(sequence, Ordering::Relaxed);
    }

    /// Counts good inbound packets. `top` is that of the window: of the peer's numbers, which are what runs out, it
    /// has seen fewer than were sent.
    #[inline]
    pub fn received(&self, packets: usize, bytes: u64, top: u64, now_ns: u64) -> Option<LimitKind> {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.account(packets, bytes, top, false, now_ns)
    }

    /// `bytes` are all that it has carried, `sequence` is the last number used, `ends` that no other packet passes.
    #[inline(always)]
    fn account(
        &self,
        good: usize,
        bytes: u64,
        sequence: u64,
        ends: bool,
        now_ns: u64,
    ) -> Option<LimitKind> {
        let packets = self.packets.fetch_add(good as u64, Ordering::Relaxed) + good as u64;
        if good > 0 {
            self.last_use_s
                .store((now_ns / 1_000_000_000).max(1), Ordering::Relaxed);
        }
        let limits = &self.limits;
        if ends || packets >= limits.hard_packets || bytes >= limits.hard_bytes {
            self.dead.store(true, Ordering::Relaxed);
            return self.remind(now_ns);
        }
        let soft_sequence = self.last_sequence - self.last_sequence / SOFT_SEQUENCE_SHARE;
        if packets >= limits.soft_packets || bytes >= limits.soft_bytes || sequence >= soft_sequence
        {
            let due = self.soft_alarm.due(now_ns, LIMIT_INTERVAL_NS);
            return due.then_some(LimitKind::Soft);
        }
        None
    }

    /// Whether to tell that no packet passes any more.
    #[inline]
    pub fn remind(&self, now_ns: u64) -> Option<LimitKind> {
        self.hard_alarm
            .due(now_ns, LIMIT_INTERVAL_NS)
            .then_some(LimitKind::Hard)
    }

    /// No packet passes any more.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends the SA now: workers that still hold an older version of the tables see it in their next vector.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// The replay window, for one pass over a vector.
    #[inline]
    pub fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        // A worker that panicked leaves a window that is older at worst, never newer.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts packets that did not pass.
    #[inline]
    pub fn refused(&self, replayed: u64, late: u64, bad_icv: u64) {
        for (counter, amount) in [
            (&self.replayed, replayed),
            (&self.late, late),
            (&self.bad_icv, bad_icv),
        ] {
            if amount > 0 {
                counter.fetch_add(amount, Ordering::Relaxed);
            }
        }
    }

    /// Publishes what the window has left behind. The caller holds the window, so that the count never goes back.
    #[inline(always)]
    pub fn left_behind(&self, window: &ReplayWindow) {
        self.lost.store(window.lost(), Ordering::Relaxed);
    }

    /// Whether a changed address may be reported now: at most once a second.
    pub fn may_report_mapping(&self, now_ns: u64) -> bool {
        self.mapping_alarm.due(now_ns, MAPPING_INTERVAL_NS)
    }

    /// What it has carried so far.
    pub fn usage(&self) -> Usage {
        Usage {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_use_s: self.last_use_s.load(Ordering::Relaxed),
            replayed: self.replayed.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
            bad_icv: self.bad_icv.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}
