//! What is refused only after the answer to its commit.

use std::sync::atomic::Ordering;

use super::*;

const LAN: &str = "interfaces lan addresses 10.1.0.1/24";

impl Bench {
    /// WAN is in place, as revision 2.
    async fn in_place() -> (Self, String) {
        Self::new().with_wan().await
    }

    async fn with_wan(self) -> (Self, String) {
        let mut bench = self;
        bench.agent.patience = Duration::from_millis(30);
        bench.agent.begin_once().await.unwrap();
        let candidate = bench.open().await;
        bench.set(&candidate, &[WAN]).await;
        let reply = bench.commit(&candidate).await;
        assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
        (bench, candidate)
    }

    async fn pending(&self, candidate: &str, line: &str) {
        self.set(candidate, &[line]).await;
        let reply = self.commit(candidate).await;
        assert_eq!(reply.outcome(), Outcome::Pending);
    }

    /// Sources of the revisions, newest first.
    async fn sources(&self) -> Vec<String> {
        let request = api::ListRevisionsRequest::default();
        let reply = self.agent.revisions(&root(), request).await.unwrap();
        reply.revisions.into_iter().map(|one| one.source).collect()
    }

    async fn edits(&self, candidate: &str) -> String {
        let which = api::source::Which::Candidate(candidate.to_owned());
        self.text(which).await
    }

    fn fails(&self, key: &str) {
        let failing = (key.to_owned(), true);
        self.hands.told().failing.extend([failing]);
    }

    async fn looks(&self) {
        let _ = self.agent.catch_up().await;
        self.agent.judge().await.unwrap();
    }
}

#[tokio::test]
async fn what_fails_when_it_is_told_late_is_taken_back() {
    let (bench, candidate) = Bench::in_place().await;
    let before = bench.running().await;
    bench.hands.told().deaf = true;
    bench.pending(&candidate, LAN).await;
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await, ["cli", "cli", "import"]);
    // A minute later they are back, and do not like it.
    bench.hands.told().deaf = false;
    bench.looks().await;
    assert_eq!(bench.sources().await, ["revert", "cli", "cli", "import"]);
    assert_eq!(bench.running().await, before);
    assert_eq!(bench.hands.revision(), 4);
    let trail = bench
        .agent
        .audit_trail(&root(), api::ListAuditRequest::default())
        .await
        .unwrap();
    let reverts = trail.entries.iter().filter(|entry| entry.what == "revert");
    let causes: Vec<&str> = reverts.map(|entry| entry.result.as_str()).collect();
    assert_eq!(causes, ["revision 3 failed later: it does not like it"]);
    // Its edits are edits again, also for another mgmt.
    let bench = bench.restart().await;
    bench.hands.told().failing.clear();
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert!(bench.running().await.contains("lan"));
}

#[tokio::test]
async fn a_plan_that_is_refused_late_is_taken_back_once() {
    let (bench, candidate) = Bench::in_place().await;
    let before = bench.running().await;
    bench.hands.told().deaf = true;
    bench.pending(&candidate, LAN).await;
    bench.hands.told().deaf = false;
    bench.hands.told().refused = Some("interface/lan".to_owned());
    bench.looks().await;
    assert_eq!(bench.running().await, before);
    assert_eq!(bench.hands.revision(), 4);

    // What was in place is not any more: that is shown, and nobody goes further back.
    bench.hands.told().refused = None;
    bench.hands.told().deaf = true;
    bench.pending(&candidate, LAN).await;
    bench.hands.told().deaf = false;
    bench.hands.told().refused = Some("interface/wan".to_owned());
    for _ in 0..3 {
        bench.looks().await;
    }
    let sources = bench.sources().await;
    assert_eq!(sources, ["revert", "cli", "revert", "cli", "cli", "import"]);
    assert!(matches!(
        bench.agent.catch_up().await,
        Err(Refusal::Hands(HandsError::Refused(_)))
    ));
    // It is followed as soon as it can be.
    bench.hands.told().refused = None;
    bench.looks().await;
    assert_eq!(bench.hands.revision(), 6);
    assert_eq!(bench.sources().await.len(), 6);
}

#[tokio::test]
async fn what_fails_after_it_has_settled_or_long_after_is_shown() {
    let (mut bench, candidate) = Bench::in_place().await;
    // This fails already, and is not the commit's fault.
    bench.fails("interface/wan");
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    bench.looks().await;
    // A part has come back and is content.
    bench.hands.told().restless = false;
    bench.looks().await;
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await, ["cli", "cli", "import"]);

    bench.hands.told().failing.clear();
    bench.hands.told().restless = true;
    bench.agent.trying = Duration::ZERO;
    bench.pending(&candidate, "interfaces lan mtu 1400").await;
    bench.looks().await;
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await, ["cli", "cli", "cli", "import"]);
}

#[tokio::test]
async fn what_is_built_on_a_trial_goes_back_to_what_was_in_place() {
    let (bench, candidate) = Bench::in_place().await;
    let before = bench.running().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    let other = bench.open().await;
    bench.pending(&other, "interfaces wan mtu 1400").await;
    bench.fails("interface/lan");
    bench.looks().await;
    let reply = bench
        .agent
        .revisions(&root(), api::ListRevisionsRequest::default())
        .await
        .unwrap();
    assert_eq!(reply.revisions[0].source, "revert");
    assert!(reply.revisions[0].comment.contains("revision 4"));
    assert_eq!(bench.running().await, before);
    // Each has their own edits again, and not the other's.
    let (ours, theirs) = (bench.edits(&candidate).await, bench.edits(&other).await);
    assert!(ours.contains("lan") && !ours.contains("mtu"), "{ours}");
    assert!(
        theirs.contains("mtu") && !theirs.contains("lan"),
        "{theirs}"
    );

    // The one on top fails at once: only it is taken back, and the one below is on trial still.
    bench.hands.told().failing.clear();
    bench.pending(&candidate, LAN).await;
    bench.fails("interface/dmz");
    bench
        .set(&other, &["interfaces dmz addresses 10.2.0.1/24"])
        .await;
    assert_eq!(bench.commit(&other).await.outcome(), Outcome::Reverted);
    assert!(bench.running().await.contains("lan"));
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.running().await, before);
}

#[tokio::test]
async fn nothing_goes_back_to_what_is_not_known_to_have_been_in_place() {
    let mut bench = Bench::new();
    bench.agent.patience = Duration::from_millis(30);
    bench.hands.told().restless = true;
    let candidate = bench.open().await;
    bench.pending(&candidate, WAN).await;
    bench.fails("interface/wan");
    bench.looks().await;
    assert_eq!(bench.sources().await, ["cli", "import"]);
}

#[tokio::test]
async fn all_that_a_session_committed_is_its_edits_again() {
    let (bench, candidate) = Bench::in_place().await;
    let before = bench.running().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    // On top of what the first one added.
    bench.pending(&candidate, "interfaces lan mtu 1300").await;
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.running().await, before);
    let edits = bench.edits(&candidate).await;
    assert!(
        edits.contains("lan addresses 10.1.0.1/24") && edits.contains("lan mtu 1300"),
        "{edits}"
    );
    let bench = bench.restart().await;
    bench.hands.told().failing.clear();
    bench.hands.told().restless = false;
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert_eq!(bench.running().await, edits);
}

#[tokio::test]
async fn all_that_a_session_committed_around_anothers_is_its_edits_again() {
    let (bench, candidate) = Bench::in_place().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    let other = bench.open().await;
    bench.pending(&other, "interfaces wan mtu 1400").await;
    bench.pending(&candidate, "interfaces lan mtu 1300").await;
    // Not committed at all.
    bench.set(&candidate, &["system host_name here"]).await;
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await[0], "revert");
    let (ours, theirs) = (bench.edits(&candidate).await, bench.edits(&other).await);
    assert!(
        ours.contains("lan addresses 10.1.0.1/24")
            && ours.contains("lan mtu 1300")
            && ours.contains("here")
            && !ours.contains("1400"),
        "{ours}"
    );
    assert!(
        theirs.contains("mtu 1400") && !theirs.contains("lan"),
        "{theirs}"
    );
}

#[tokio::test]
async fn what_had_settled_before_the_next_commit_stays() {
    let (bench, candidate) = Bench::in_place().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    let settled = bench.running().await;
    // Nobody has looked since.
    bench.hands.told().restless = false;
    bench
        .set(&candidate, &["interfaces dmz addresses 10.2.0.1/24"])
        .await;
    bench.hands.told().deaf = true;
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Pending);
    bench.hands.told().deaf = false;
    bench.fails("interface/dmz");
    bench.looks().await;
    assert_eq!(bench.sources().await[0], "revert");
    assert_eq!(bench.running().await, settled);
}

#[tokio::test]
async fn each_commit_is_on_trial_for_its_own_time() {
    let (bench, candidate) = Bench::in_place().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    let stays = bench.running().await;
    bench.agent.told_earlier(crate::agent::trial::TRIAL);
    bench
        .pending(&candidate, "interfaces dmz addresses 10.2.0.1/24")
        .await;
    bench.fails("interface/dmz");
    bench.looks().await;
    assert_eq!(bench.sources().await[0], "revert");
    assert_eq!(bench.running().await, stays);
    let edits = bench.edits(&candidate).await;
    assert!(edits.contains("dmz"), "{edits}");

    // The time of the one below is over while the one on top is on trial.
    let most = crate::agent::trial::TRIAL * 2 / 3;
    bench.hands.told().failing.clear();
    bench.pending(&candidate, "interfaces lan mtu 1300").await;
    let stays = bench.running().await;
    bench.agent.told_earlier(most);
    bench.pending(&candidate, "interfaces wan mtu 1400").await;
    bench.agent.told_earlier(most);
    bench.fails("interface/wan");
    bench.looks().await;
    assert_eq!(bench.sources().await[0], "revert");
    assert_eq!(bench.running().await, stays);
}

#[tokio::test]
async fn what_fails_or_is_refused_after_its_time_is_not_taken_back() {
    let (bench, candidate) = Bench::in_place().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    bench.agent.told_earlier(crate::agent::trial::TRIAL);
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await, ["cli", "cli", "import"]);

    bench.hands.told().failing.clear();
    bench.pending(&candidate, "interfaces lan mtu 1300").await;
    bench.agent.told_earlier(crate::agent::trial::TRIAL);
    bench.hands.told().refused = Some("interface/lan".to_owned());
    // The gateway has begun anew.
    bench.agent.behind.store(true, Ordering::Relaxed);
    assert!(bench.agent.catch_up().await.is_err());
    assert_eq!(bench.sources().await, ["cli", "cli", "cli", "import"]);
}

#[tokio::test]
async fn what_is_below_an_unconfirmed_commit_is_on_trial_after_it_has_gone() {
    let clocks = Clocks::new();
    let (bench, candidate) = Bench::new().by(&clocks).with_wan().await;
    let before = bench.running().await;
    bench.hands.told().deaf = true;
    bench.pending(&candidate, LAN).await;
    bench.set(&candidate, &["interfaces lan mtu 1300"]).await;
    let reply = bench.commit_for(&candidate, 60).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 4));
    clocks.pass(Duration::from_mins(1));
    bench.hands.told().deaf = false;
    bench.hands.told().refused = Some("interface/lan".to_owned());
    bench.agent.go_back_in_time().await.unwrap();
    bench.looks().await;
    let sources = bench.sources().await;
    let expected = ["revert", "revert", "cli", "cli", "cli", "import"];
    assert_eq!(sources, expected);
    assert_eq!(bench.running().await, before);
    assert_eq!(bench.hands.revision(), 6);
    // What was confirmed by nobody is but in the history.
    let edits = bench.edits(&candidate).await;
    assert!(edits.contains("lan") && !edits.contains("mtu"), "{edits}");
}

#[tokio::test]
async fn a_session_whose_edits_cannot_be_saved_stops_no_revert() {
    let (bench, candidate) = Bench::in_place().await;
    let before = bench.running().await;
    bench.hands.told().restless = true;
    bench.pending(&candidate, LAN).await;
    let other = bench.open().await;
    bench.pending(&other, "interfaces wan mtu 1400").await;
    let fails_once = std::sync::atomic::AtomicBool::new(true);
    bench
        .agent
        .with(move |records| {
            records.set_clock(move || {
                if fails_once.swap(false, Ordering::Relaxed) {
                    return Err(crate::store::StoreError::DiskFull);
                }
                Moment::now()
            });
            Ok(())
        })
        .await
        .unwrap();
    bench.fails("interface/lan");
    bench.looks().await;
    assert_eq!(bench.sources().await[0], "revert");
    assert_eq!(bench.running().await, before);
    let theirs = bench.edits(&other).await;
    assert!(theirs.contains("mtu"), "{theirs}");
}
