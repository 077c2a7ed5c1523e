//! Keeps the CHILD SAs up that the plan wants up.
//!
//! charon's own actions start a tunnel once; the keeper looks at what is there and makes good what is missing, with
//! growing pauses. When both ends of a tunnel make good the same thing at once there are two; both ends then agree
//! without a word on which one stays.
//!
//! ```text
//!   list-sas ──> look(now) ──> initiate what is missing
//!                          ──> give up what connects to nobody, and try again
//!                          ──> terminate what is there twice
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strongswan_vici::{ChildSa, IkeSa};

/// A CHILD SA that vanished may be coming back by itself (charon recreates what it was told is at its hard end, the
/// peer does the same): so long it is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pauses between attempts: the first, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An attempt that no peer has answered. charon sends at 0, 4 and 11.2 s and then rarer and rarer; a peer that comes up
/// after that should not wait a minute for us.
const STUCK: Duration = Duration::from_secs(12);

/// Two of a kind are left alone for so long: a rekey has two for a moment. The end that did not begin the superfluous
/// one waits longer, so that one end acts.
const TWICE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// A child of a connection that is to be up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Connection.
    pub ike: String,
    /// Its child.
    pub child: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Begin to negotiate.
    Initiate(Wanted),
    /// Give up an IKE SA, by its unique id.
    DropIke(u32),
    /// Terminate a CHILD SA, by its unique id.
    DropChild(u32),
}

#[derive(Debug, Default)]
struct Progress {
    if_id: u32,
    /// Since when it is missing; none: it is there.
    missing_since: Option<Duration>,
    /// It has been there, or has been initiated, in this charon.
    begun: bool,
    next_attempt: Duration,
    pause: Duration,
    twice_since: Option<Duration>,
}

/// The state machine. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct Keeper {
    wanted: BTreeMap<Wanted, Progress>,
    /// IKE SAs that connect, and since when, by unique id.
    connecting: BTreeMap<u32, Duration>,
}

impl Keeper {
    /// Replaces what is wanted; what was wanted before keeps its pauses. With the `if_id` of each.
    pub fn want(&mut self, wanted: impl IntoIterator<Item = (Wanted, u32)>) {
        let mut old = std::mem::take(&mut self.wanted);
        for (one, if_id) in wanted {
            let mut progress = old.remove(&one).unwrap_or_default();
            progress.if_id = if_id;
            self.wanted.insert(one, progress);
        }
    }

    /// A new charon: everything is to be begun at once.
    pub fn restart(&mut self) {
        for progress in self.wanted.values_mut() {
            *progress = Progress {
                if_id: progress.if_id,
                ..Progress::default()
            };
        }
        self.connecting.clear();
    }

    /// Traffic waits for the tunnel of this `if_id`: no pause.
    pub fn hurry(&mut self, now: Duration, if_id: u32) {
        for progress in self.wanted.values_mut() {
            if progress.if_id == if_id && progress.missing_since.is_some() {
                progress.next_attempt = progress.next_attempt.min(now);
            }
        }
    }

    /// When to look again at the latest, with nothing heard of charon.
    pub fn next_look(&self) -> Duration {
        let unsettled = self
            .wanted
            .values()
            .any(|progress| progress.missing_since.is_some() || progress.twice_since.is_some());
        if unsettled {
            Duration::from_millis(500)
        } else {
            Duration::from_secs(30)
        }
    }

    /// Whether everything wanted is there.
    pub fn is_content(&self) -> bool {
        self.wanted
            .values()
            .all(|progress| progress.begun && progress.missing_since.is_none())
    }

    /// Compares what is wanted with charon's list.
    pub fn look(&mut self, now: Duration, ikes: &[IkeSa]) -> Vec<Step> {
        let mut steps = Vec::new();
        let connecting: Vec<&IkeSa> = ikes
            .iter()
            .filter(|ike| matches!(ike.state.as_str(), "CREATED" | "CONNECTING"))
            .collect();
        let present: BTreeSet<u32> = connecting.iter().map(|ike| ike.unique_id).collect();
        self.connecting.retain(|id, _| present.contains(id));
        let mut under_way: BTreeSet<&str> = BTreeSet::new();
        for ike in &connecting {
            let since = *self.connecting.entry(ike.unique_id).or_insert(now);
            let ours = ike.initiator && self.wanted.keys().any(|wanted| wanted.ike == ike.name);
            if ours && now >= since + STUCK {
                self.connecting.remove(&ike.unique_id);
                steps.push(Step::DropIke(ike.unique_id));
            } else {
                under_way.insert(&ike.name);
            }
        }
        let mut by_name: BTreeMap<(&str, &str), Vec<(&IkeSa, &ChildSa)>> = BTreeMap::new();
        for ike in ikes {
            for child in &ike.children {
                let of_a_name = by_name.entry((&ike.name, &child.name)).or_default();
                of_a_name.push((ike, child));
            }
        }
        for (wanted, progress) in &mut self.wanted {
            let there = by_name
                .remove(&(wanted.ike.as_str(), wanted.child.as_str()))
                .unwrap_or_default();
            // Deleting an IKE SA whose peer is gone takes minutes of retransmissions: what hangs on it is not waited for.
            let alive = there
                .iter()
                .any(|(ike, child)| !ends(&ike.state) && !ends(&child.state));
            if alive {
                progress.missing_since = None;
                progress.begun = true;
                progress.pause = Duration::ZERO;
                progress.next_attempt = Duration::ZERO;
                steps.extend(superfluous(now, progress, &there));
                continue;
            }
            progress.twice_since = None;
            let since = *progress.missing_since.get_or_insert(now);
            let waited = !progress.begun || now >= since + PATIENCE;
            if waited && now >= progress.next_attempt && !under_way.contains(wanted.ike.as_str()) {
                progress.begun = true;
                progress.pause = (progress.pause * 2).clamp(RETRY.0, RETRY.1);
                progress.next_attempt = now + progress.pause;
                steps.push(Step::Initiate(wanted.clone()));
            }
        }
        steps
    }
}

/// Whether an SA in this state, IKE or CHILD, is on its way out.
fn ends(state: &str) -> bool {
    matches!(state, "REKEYED" | "DELETING" | "DELETED" | "DESTROYING")
}

/// Local and remote traffic selectors, sorted.
type Selectors = (Vec<String>, Vec<String>);

/// Of CHILD SAs with the same selectors all but one: the one whose SPIs are lowest stays. Both ends see the same SPIs.
fn superfluous(now: Duration, progress: &mut Progress, there: &[(&IkeSa, &ChildSa)]) -> Vec<Step> {
    let mut kinds: BTreeMap<Selectors, Vec<(&IkeSa, &ChildSa)>> = BTreeMap::new();
    for (ike, child) in there {
        if child.state == "INSTALLED" && ike.state == "ESTABLISHED" {
            let (mut local, mut remote) = (child.local_ts.clone(), child.remote_ts.clone());
            local.sort();
            remote.sort();
            kinds.entry((local, remote)).or_default().push((ike, child));
        }
    }
    kinds.retain(|_, of_a_kind| of_a_kind.len() > 1);
    if kinds.is_empty() {
        progress.twice_since = None;
        return Vec::new();
    }
    let since = *progress.twice_since.get_or_insert(now);
    let mut steps = Vec::new();
    for of_a_kind in kinds.values_mut() {
        of_a_kind.sort_by_key(|(ike, child)| {
            let (one, other) = (child.spi_in, child.spi_out);
            (
                ike.initiator_spi,
                ike.responder_spi,
                one.min(other),
                one.max(other),
            )
        });
        let Some(((kept, _), rest)) = of_a_kind.split_first() else {
            continue;
        };
        for (ike, child) in rest {
            let patience = if ike.initiator { TWICE.0 } else { TWICE.1 };
            if now < since + patience {
                continue;
            }
            progress.twice_since = None;
            steps.push(
                if ike.unique_id == kept.unique_id || ike.children.len() > 1 {
                    Step::DropChild(child.unique_id)
                } else {
                    Step::DropIke(ike.unique_id)
                },
            );
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use strongswan_vici::Message;

    use super::*;

    fn ike(id: u32, initiator: bool, state: &str, children: &[(u32, &str, u32, u32)]) -> IkeSa {
        let mut list = Message::new();
        for (id, state, spi_in, spi_out) in children {
            let child = Message::new()
                .with("name", "lan")
                .with("uniqueid", id.to_string())
                .with("reqid", "1")
                .with("state", state)
                .with("mode", "TUNNEL")
                .with("protocol", "ESP")
                .with("spi-in", format!("{spi_in:08x}"))
                .with("spi-out", format!("{spi_out:08x}"))
                .with_list("local-ts", ["10.1.0.0/24"])
                .with_list("remote-ts", ["10.2.0.0/24"]);
            list.set_section(format!("lan-{id}"), child);
        }
        let mut section = Message::new()
            .with("uniqueid", id.to_string())
            .with("version", "2")
            .with("state", state)
            .with("local-host", "192.0.2.1")
            .with("remote-host", "192.0.2.2")
            .with("initiator-spi", format!("{id:016x}"))
            .with("responder-spi", format!("{id:016x}"));
        if initiator {
            section.set("initiator", "yes");
        }
        let section = section.with_section("child-sas", list);
        IkeSa::from_listing(&Message::new().with_section("hq", section)).unwrap()
    }

    fn keeper() -> (Keeper, Wanted) {
        let wanted = Wanted {
            ike: "hq".into(),
            child: "lan".into(),
        };
        let mut keeper = Keeper::default();
        keeper.want([(wanted.clone(), 7)]);
        (keeper, wanted)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_missing_is_initiated_at_once_then_with_growing_pauses() {
        let (mut keeper, wanted) = keeper();
        let mut attempts = Vec::new();
        for ms in (0..120_000).step_by(500) {
            for step in keeper.look(at(ms), &[]) {
                assert_eq!(step, Step::Initiate(wanted.clone()));
                attempts.push(ms / 1000);
            }
        }
        assert_eq!(attempts, [0, 2, 4, 8, 16, 32, 62, 92]);
    }

    #[test]
    fn an_attempt_under_way_is_left_alone_until_nobody_answers() {
        let (mut keeper, wanted) = keeper();
        assert_eq!(keeper.look(at(0), &[]).len(), 1);
        let connecting = [ike(1, true, "CONNECTING", &[])];
        for ms in (100..12_000).step_by(100) {
            assert_eq!(keeper.look(at(ms), &connecting), []);
        }
        assert_eq!(
            keeper.look(at(12_100), &connecting),
            [Step::DropIke(1), Step::Initiate(wanted)]
        );
    }

    #[test]
    fn a_child_that_vanishes_is_given_time_to_come_back() {
        let (mut keeper, wanted) = keeper();
        let up = [ike(1, true, "ESTABLISHED", &[(1, "INSTALLED", 1, 2)])];
        let down = [ike(1, true, "ESTABLISHED", &[])];
        assert_eq!(keeper.look(at(0), &up), []);
        assert!(keeper.is_content());
        assert_eq!(keeper.look(at(1000), &down), []);
        assert_eq!(keeper.look(at(2900), &down), []);
        assert_eq!(keeper.look(at(2950), &up), []);
        assert_eq!(keeper.look(at(5000), &down), []);
        assert_eq!(keeper.look(at(7000), &down), [Step::Initiate(wanted)]);
    }

    #[test]
    fn an_ike_sa_that_ends_keeps_nothing_up() {
        let (mut keeper, wanted) = keeper();
        let up = [ike(1, true, "ESTABLISHED", &[(1, "INSTALLED", 1, 2)])];
        let ending = [ike(1, true, "DELETING", &[(1, "INSTALLED", 1, 2)])];
        assert_eq!(keeper.look(at(0), &up), []);
        assert_eq!(keeper.look(at(1000), &ending), []);
        assert_eq!(keeper.look(at(3000), &ending), [Step::Initiate(wanted)]);
    }

    #[test]
    fn traffic_ends_a_pause() {
        let (mut keeper, wanted) = keeper();
        for ms in (0..20_000).step_by(500) {
            keeper.look(at(ms), &[]);
        }
        assert_eq!(keeper.look(at(20_000), &[]), []);
        keeper.hurry(at(20_000), 7);
        assert_eq!(keeper.look(at(20_000), &[]), [Step::Initiate(wanted)]);
    }

    #[test]
    fn of_two_of_a_kind_both_ends_keep_the_same() {
        let both = |first_is_ours: bool| {
            [
                ike(8, first_is_ours, "ESTABLISHED", &[(1, "INSTALLED", 10, 20)]),
                ike(
                    9,
                    !first_is_ours,
                    "ESTABLISHED",
                    &[(2, "INSTALLED", 11, 21)],
                ),
            ]
        };
        let (mut here, _) = keeper();
        let (mut there, _) = keeper();
        let mut drops = Vec::new();
        for ms in (0..14_000).step_by(500) {
            drops.extend(here.look(at(ms), &both(true)));
            let theirs = there.look(at(ms), &both(false));
            if !theirs.is_empty() {
                // Whoever began the superfluous one.
                assert_eq!((ms, theirs), (5000, vec![Step::DropIke(9)]));
                return;
            }
            assert_eq!(drops, []);
        }
        panic!("nobody acted");
    }

    #[test]
    fn a_rekey_is_not_two_of_a_kind() {
        let (mut keeper, _) = keeper();
        let rekey = [ike(
            1,
            true,
            "ESTABLISHED",
            &[(1, "REKEYED", 10, 20), (2, "INSTALLED", 11, 21)],
        )];
        for ms in (0..60_000).step_by(500) {
            assert_eq!(keeper.look(at(ms), &rekey), []);
        }
        let twice = [ike(
            1,
            true,
            "ESTABLISHED",
            &[(1, "INSTALLED", 12, 20), (2, "INSTALLED", 11, 21)],
        )];
        assert_eq!(keeper.look(at(60_000), &twice), []);
        assert_eq!(keeper.look(at(65_000), &twice), [Step::DropChild(1)]);
    }
}
