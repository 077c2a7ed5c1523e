//! What is committed, refused, merged and taken back.

use super::*;

#[tokio::test]
async fn what_is_committed_is_stored_followed_and_read_back() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(&candidate, &[WAN, "interfaces wan mtu 1400"])
        .await;
    assert_eq!(bench.running().await, "");
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
    assert!(
        reply
            .changes
            .iter()
            .any(|change| change.key == "interface/wan")
    );
    assert_eq!(bench.hands.revision(), 2);
    assert!(
        bench
            .running()
            .await
            .contains("set interfaces wan mtu 1400")
    );
    let again = bench.commit(&candidate).await;
    assert_eq!((again.outcome(), again.revision), (Outcome::Unchanged, 2));
    assert_eq!(bench.hands.told().followed.len(), 1);
}

#[tokio::test]
async fn all_edits_or_none_and_the_wrong_word_is_named() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let problems = bench
        .try_set(&candidate, &[WAN, "interfaces wan mut 1400"])
        .await;
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].edit, problems[0].word), (Some(1), Some(2)));
    assert!(problems[0].message.contains("mtu"), "{problems:?}");
    assert_eq!(
        bench
            .text(api::source::Which::Candidate(candidate.clone()))
            .await,
        ""
    );
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused_and_nothing_changes() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(&candidate, &[WAN, "interfaces wan vrf nowhere"])
        .await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Refused, 1));
    assert!(
        reply.problems[0].path.contains("interfaces[wan]"),
        "{reply:?}"
    );
    assert_eq!(bench.hands.told().followed.len(), 0);
    bench.set(&candidate, &["delete interfaces wan vrf"]).await;
    bench.hands.told().refusal = Some("there is no device wan".to_owned());
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Refused, 1));
    assert_eq!(reply.problems[0].message, "there is no device wan");
}

#[tokio::test]
async fn a_check_says_what_would_happen_and_changes_nothing() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let request = api::CommitRequest {
        candidate,
        check: true,
        ..api::CommitRequest::default()
    };
    let reply = bench.agent.commit(&root(), request).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Checked, 1));
    assert!(!reply.changes.is_empty());
    assert_eq!(bench.hands.told().followed.len(), 0);
}

#[tokio::test]
async fn two_at_once_are_merged_unless_they_change_the_same() {
    let bench = Bench::new();
    let (one, two, three) = (bench.open().await, bench.open().await, bench.open().await);
    bench.set(&one, &[WAN, "interfaces wan mtu 1400"]).await;
    bench
        .set(&two, &["interfaces lan addresses 10.1.0.1/24"])
        .await;
    bench.set(&three, &[WAN, "interfaces wan mtu 1300"]).await;
    assert_eq!(bench.commit(&one).await.outcome(), Outcome::Applied);
    assert_eq!(bench.commit(&two).await.outcome(), Outcome::Applied);
    let running = bench.running().await;
    assert!(running.contains("wan mtu 1400") && running.contains("lan addresses"));
    let reply = bench.commit(&three).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Conflict, 3));
    let conflict = &reply.conflicts[0];
    assert!(conflict.path.contains("mtu"), "{conflict:?}");
    assert_eq!(conflict.theirs.as_deref(), Some("1400"));
    assert_eq!(conflict.ours.as_deref(), Some("1300"));
}

#[tokio::test]
async fn a_conflict_names_who_changed_it_and_not_who_came_last() {
    let bench = Bench::new();
    let late = bench.open().await;
    bench.set(&late, &[WAN, "interfaces wan mtu 1300"]).await;
    let as_one = async |name: &str, lines: &[&str]| {
        let candidate = bench.open().await;
        bench.set(&candidate, lines).await;
        let who = Caller {
            name: name.to_owned(),
            ..root()
        };
        let id = {
            let mut records = bench.agent.records.lock().unwrap();
            let (_, _, tree) = records.candidate(&root(), &candidate).unwrap();
            let now = Moment::now().unwrap();
            let id = records.new_candidate(&who, &now).unwrap();
            let base = records.running.number;
            records.save(&id, name, base, tree, &now).unwrap();
            id
        };
        let request = api::CommitRequest {
            candidate: id.to_string(),
            ..api::CommitRequest::default()
        };
        let reply = bench.agent.commit(&who, request).await.unwrap();
        assert_eq!(reply.outcome(), Outcome::Applied);
    };
    as_one("alice", &["interfaces lan addresses 10.1.0.1/24"]).await;
    as_one("bob", &[WAN, "interfaces wan mtu 1400"]).await;
    as_one("carol", &["interfaces lan mtu 1450"]).await;
    let reply = bench.commit(&late).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Conflict, 4));
    let conflict = &reply.conflicts[0];
    assert!(conflict.path.contains("mtu"), "{conflict:?}");
    assert_eq!((conflict.author.as_str(), conflict.revision), ("bob", 3));
    assert!(conflict.unix_ms > 0);
}

#[tokio::test]
async fn a_check_says_what_would_be_interrupted() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &["tunnels ipsec0 if_id 7"]).await;
    bench.applies(&candidate).await;
    bench.set(&candidate, &["tunnels ipsec0 if_id 8"]).await;
    let request = api::CommitRequest {
        candidate: candidate.clone(),
        check: true,
        ..api::CommitRequest::default()
    };
    let reply = bench.agent.commit(&root(), request).await.unwrap();
    assert_eq!(reply.outcome(), Outcome::Checked);
    assert_eq!(reply.interrupts, ["tunnel ipsec0 is built anew"]);
    assert_eq!(bench.hands.told().followed.len(), 1);
}

#[tokio::test]
async fn what_fails_for_good_is_taken_back_as_a_revision_of_its_own() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    let before = bench.running().await;
    bench
        .hands
        .told()
        .failing
        .insert("interface/lan".to_owned(), true);
    bench
        .set(&candidate, &["interfaces lan addresses 10.1.0.1/24"])
        .await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Reverted, 4));
    assert_eq!(reply.problems[0].message, "it does not like it");
    assert_eq!(reply.problems[0].path, "interfaces[wan]");
    assert_eq!(bench.running().await, before);
    assert_eq!(bench.hands.revision(), 4);
    let revisions = bench
        .agent
        .revisions(&root(), api::ListRevisionsRequest::default())
        .await
        .unwrap()
        .revisions;
    let sources: Vec<&str> = revisions.iter().map(|one| one.source.as_str()).collect();
    assert_eq!(sources, ["revert", "cli", "cli", "import"]);
    assert!(revisions[0].comment.contains("it does not like it"));
    // Once the cause is gone the same candidate is committed again.
    bench.hands.told().failing.clear();
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 5));
    assert!(bench.running().await.contains("interfaces lan"));
}

#[tokio::test]
async fn what_waits_is_told_and_stays() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .hands
        .told()
        .failing
        .insert("interface/wan".to_owned(), false);
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    assert_eq!(reply.waiting[0].key, "interface/wan");
}

/// An edit and a commit on a thread that writes down what happens to the disk.
#[test]
fn a_commit_of_one_line_waits_for_the_disk_once() {
    use crate::store::tests::{recorded, start_recording, syncs_recorded};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = recorded(&place.path().join("mgmt"));
    let records = Records::begin(store, None, &Moment::now().unwrap()).unwrap();
    let hands = Fake::default();
    let agent = Agent::new(records, hands.clone(), ACCOUNTS, String::new());
    let bench = Bench {
        place,
        hands,
        agent,
    };
    runtime.block_on(async {
        let candidate = bench.open().await;
        bench.set(&candidate, &[WAN]).await;
        bench.commit(&candidate).await;
        let mut counts = Vec::new();
        for mtu in [1400, 1401, 1402] {
            // What follows an answer is not part of the next one.
            let maintain = |records: &mut Records| Ok(records.store.maintain()?);
            bench.agent.with(maintain).await.unwrap();
            tokio::task::spawn_blocking(start_recording).await.unwrap();
            let line = format!("interfaces wan mtu {mtu}");
            bench.set(&candidate, &[&line]).await;
            let edit = tokio::task::spawn_blocking(syncs_recorded).await.unwrap();
            tokio::task::spawn_blocking(start_recording).await.unwrap();
            let reply = bench.commit(&candidate).await;
            let commit = tokio::task::spawn_blocking(syncs_recorded);
            assert_eq!(reply.outcome(), Outcome::Applied);
            counts.push((edit, commit.await.unwrap()));
        }
        // The first to write after the log was emptied syncs its beginning; what is typed does not wait otherwise.
        assert!(counts.iter().all(|count| *count == (1, 1)), "{counts:?}");
        let maintain = |records: &mut Records| Ok(records.store.maintain()?);
        bench.agent.with(maintain).await.unwrap();
        for mtu in 1403..1420 {
            let line = format!("interfaces wan mtu {mtu}");
            bench.set(&candidate, &[&line]).await;
            if mtu == 1403 {
                tokio::task::spawn_blocking(start_recording).await.unwrap();
            }
        }
        let edits = tokio::task::spawn_blocking(syncs_recorded).await.unwrap();
        assert_eq!(edits, 0);
    });
}

#[tokio::test]
async fn a_revision_comes_back_by_rollback_and_differences_are_told() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    bench.set(&candidate, &["interfaces wan mtu 1400"]).await;
    let which = |which| Some(api::Source { which: Some(which) });
    let compare = api::CompareRequest {
        from: which(api::source::Which::Revision(2)),
        to: which(api::source::Which::Candidate(candidate.clone())),
        at: Vec::new(),
    };
    let differences = bench
        .agent
        .compare(&root(), compare)
        .await
        .unwrap()
        .differences;
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].after.as_deref(), Some("1400"));
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![edit(Change::Rollback(1))],
    };
    assert_eq!(
        bench.agent.edit(&root(), request).await.unwrap().problems,
        []
    );
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert_eq!(bench.running().await, "");
}

#[tokio::test]
async fn what_is_inactive_stays_and_is_not_followed() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let lan = "interfaces lan addresses 10.1.0.1/24";
    bench.set(&candidate, &[WAN, lan]).await;
    let change = async |candidate: &str, change: Change| {
        let request = api::EditRequest {
            candidate: candidate.to_owned(),
            at: Vec::new(),
            edits: vec![edit(change)],
        };
        let reply = bench.agent.edit(&root(), request).await.unwrap();
        reply.problems
    };
    let lan = || words("interfaces lan");
    assert_eq!(change(&candidate, Change::Deactivate(lan())).await, []);
    let note = |comment: &str| {
        Change::Annotate(api::Annotation {
            words: lan().words,
            comment: comment.to_owned(),
        })
    };
    assert_eq!(change(&candidate, note("being rebuilt")).await, []);
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let follows = |key: &str| {
        let told = bench.hands.told();
        let (_, plan) = told.followed.last().unwrap();
        plan.keys().any(|planned| planned.as_str() == key)
    };
    assert!(follows("interface/wan") && !follows("interface/lan"));
    let text = bench.running().await;
    assert!(
        text.contains("interfaces lan addresses") && text.contains("being rebuilt"),
        "{text}"
    );

    let candidate = bench.open().await;
    assert_eq!(change(&candidate, Change::Activate(lan())).await, []);
    assert_eq!(change(&candidate, note("")).await, []);
    // A second time there is nothing to take away, and nowhere a place for what has no order.
    for wrong in [
        Change::Activate(lan()),
        Change::Deactivate(words("interfaces nowhere")),
        Change::Insert(api::Insertion {
            words: lan().words,
            position: Some(api::insertion::Position::First(true)),
        }),
        Change::Insert(api::Insertion {
            words: lan().words,
            position: None,
        }),
    ] {
        assert_eq!(
            change(&candidate, wrong.clone()).await.len(),
            1,
            "{wrong:?}"
        );
    }
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert!(follows("interface/lan"));
    assert!(!bench.running().await.contains("being rebuilt"));
}
