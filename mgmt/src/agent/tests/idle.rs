//! What nobody uses any more.

use super::super::records::IDLE;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ALMOST: Duration = IDLE.saturating_sub(SECOND);

impl Bench {
    async fn reopen(&self, candidate: &str) -> Result<api::OpenReply, Refusal> {
        let request = api::OpenRequest {
            candidate: candidate.to_owned(),
            ..api::OpenRequest::default()
        };
        self.agent.open(&root(), request).await
    }

    /// Candidates that the store has.
    async fn kept(&self) -> Vec<String> {
        let all = |records: &mut Records| Ok(records.store.candidates()?);
        let all = self.agent.with(all).await.unwrap();
        all.iter().map(|one| one.session.to_string()).collect()
    }
}

#[tokio::test]
async fn an_idle_candidate_goes_by_itself_and_one_in_use_stays() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let (idle, used) = (bench.open().await, bench.open().await);
    bench.set(&idle, &[WAN]).await;
    clocks.pass(IDLE / 2);
    bench.set(&used, &[WAN]).await;
    clocks.pass(ALMOST.saturating_sub(IDLE / 2));
    bench.agent.sweep().await.unwrap();
    assert_eq!(bench.kept().await, [idle.clone(), used.clone()]);
    clocks.pass(SECOND);
    // Nobody asks for anything.
    let gone = async {
        while bench.kept().await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = bench.agent.watch() => {}
        done = tokio::time::timeout(Duration::from_mins(1), gone) => done.unwrap(),
    }
    assert_eq!(bench.kept().await, std::slice::from_ref(&used));
    assert!(matches!(
        bench.reopen(&idle).await,
        Err(Refusal::NoCandidate(_))
    ));
    bench.set(&used, &["interfaces wan mtu 1400"]).await;
    assert_eq!(bench.commit(&used).await.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn an_overdue_candidate_is_not_found_again() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    clocks.pass(ALMOST);
    assert_eq!(bench.reopen(&candidate).await.unwrap().candidate, candidate);
    // That was a use of it.
    clocks.pass(ALMOST);
    bench.reopen(&candidate).await.unwrap();
    clocks.pass(IDLE);
    assert!(matches!(
        bench.reopen(&candidate).await,
        Err(Refusal::NoCandidate(_))
    ));
    assert_eq!(bench.kept().await, [""; 0]);
}

#[tokio::test]
async fn an_overdue_candidate_is_gone_for_an_edit_after_a_restart_too() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    clocks.pass(IDLE);
    let bench = bench.restart().await.by(&clocks);
    let request = api::EditRequest {
        candidate,
        ..api::EditRequest::default()
    };
    assert!(matches!(
        bench.agent.edit(&root(), request).await,
        Err(Refusal::NoCandidate(_))
    ));
}

/// On a thread that writes down what happens to the disk.
#[test]
fn looking_for_idle_candidates_writes_nothing_where_there_are_none() {
    use crate::store::tests::{events_recorded, recorded, start_recording, syncs_recorded};
    let place = tempfile::tempdir().unwrap();
    let store = recorded(&place.path().join("mgmt"));
    let clocks = Clocks::new();
    let now = || *clocks.0.lock().unwrap();
    let mut records = Records::begin(store, None, &now()).unwrap();
    records.new_candidate(&root(), &now()).unwrap();
    start_recording();
    records.expire(&now()).unwrap();
    assert_eq!(events_recorded(), 0);
    clocks.pass(IDLE);
    start_recording();
    records.expire(&now()).unwrap();
    assert_eq!(syncs_recorded(), 0);
    assert_eq!(records.store.candidates().unwrap(), []);
}
