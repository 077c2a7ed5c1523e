//! The fragments of one packet: where each belongs, and when nothing is missing (RFC 5722, RFC 8200 section 4.5).

use arrayvec::ArrayVec;
use culvert_net::fragment::Place;

use super::{Fragment, Gone, Intent, Key, MOST_PIECES, Outcome, Why};

/// What is known of one packet.
pub(super) struct Context<T> {
    pub(super) key: Key,
    pub(super) since: u64,
    /// How many contexts there were before it: many have the same time.
    pub(super) born: u64,
    pub(super) intent: Intent,
    /// Given up; what comes of it is refused for this reason until its time is up.
    pub(super) given_up: Option<Why>,
    /// Bytes of the whole payload, once the last fragment is there.
    total: Option<usize>,
    bytes: usize,
    pub(super) pieces: ArrayVec<Fragment<T>, MOST_PIECES>,
}

impl<T> Context<T> {
    /// Of a packet of which nothing is there yet.
    pub(super) fn new(key: Key, since: u64, born: u64) -> Self {
        Self {
            key,
            since,
            born,
            intent: Intent::Unknown,
            given_up: None,
            total: None,
            bytes: 0,
            pieces: ArrayVec::new(),
        }
    }

    /// Takes a fragment in, in its place.
    pub(super) fn take(
        &mut self,
        place: Place,
        intent: Intent,
        packet: T,
        gone: &mut Gone<T>,
    ) -> Outcome<T> {
        let (start, end) = (usize::from(place.offset), place.end());
        match (self.intent, intent) {
            (Intent::Unknown, _) => self.intent = intent,
            // Another beginning: which of the two the others belong to, nobody knows.
            (Intent::Pass(said), Intent::Pass(says)) if said != says => {
                self.give_up(Why::Overlap, gone);
            }
            _ => {}
        }
        match (self.given_up, self.intent) {
            (None | Some(Why::Passed(_)), Intent::Pass(transport)) => {
                let why = Why::Passed(transport);
                self.bytes += usize::from(place.length);
                if !place.more {
                    self.total = Some(end);
                }
                self.give_up(why, gone);
                return Outcome::Refused(packet, why);
            }
            (Some(why), _) => return Outcome::Refused(packet, why),
            (None, _) => {}
        }
        let at = self
            .pieces
            .partition_point(|piece| piece.place.offset < place.offset);
        let twin = self.pieces.get(at).map(|piece| piece.place);
        if twin.is_some_and(|twin| {
            twin.offset == place.offset && twin.length == place.length && twin.more == place.more
        }) {
            return Outcome::Refused(packet, Why::Duplicate);
        }
        let behind = twin.is_some_and(|next| usize::from(next.offset) < end);
        let before = at
            .checked_sub(1)
            .and_then(|at| self.pieces.get(at))
            .is_some_and(|piece| piece.place.end() > start);
        let total = if place.more { self.total } else { Some(end) };
        let contradicts = self.total.is_some() && total != self.total
            || total.is_some_and(|total| end > total)
            || !place.more
                && self
                    .pieces
                    .last()
                    .is_some_and(|last| last.place.end() > end);
        let furthest = self
            .pieces
            .last()
            .map_or(0, |last| last.place.end())
            .max(end);
        let why = if behind || before || contradicts {
            Why::Overlap
        } else if matches!(self.intent, Intent::Collect(most) if furthest > most) {
            Why::TooLarge
        } else if self.pieces.is_full() {
            Why::TooMany
        } else {
            self.total = total;
            self.bytes += usize::from(place.length);
            self.pieces.insert(at, Fragment { place, packet });
            let whole = self.total == Some(self.bytes) && self.intent != Intent::Unknown;
            return if whole {
                Outcome::Whole(std::mem::take(&mut self.pieces))
            } else {
                Outcome::Waits
            };
        };
        self.give_up(why, gone);
        Outcome::Refused(packet, why)
    }

    /// All of the packet has passed: its identification may be another's now. Fragments that came twice count twice, and
    /// may keep the context until its time is up.
    pub(super) fn is_through(&self) -> bool {
        matches!(self.given_up, Some(Why::Passed(_))) && self.total == Some(self.bytes)
    }

    /// Gives the packet up, and refuses what comes of it later.
    pub(super) fn give_up(&mut self, why: Why, gone: &mut Gone<T>) {
        self.given_up = Some(why);
        gone.extend(self.pieces.drain(..).map(|piece| (piece.packet, why)));
    }
}
