//! `configure exclusive`: for as long as it is used.

use super::super::records::EXCLUSIVE;
use super::*;

const MINUTE: Duration = Duration::from_mins(1);

impl Bench {
    async fn hold(&self) -> Result<String, Refusal> {
        let request = api::OpenRequest {
            exclusive: true,
            ..api::OpenRequest::default()
        };
        let reply = self.agent.open(&root(), request).await?;
        Ok(reply.candidate)
    }

    /// Who holds the configuration, and for how many minutes more.
    async fn holder(&self) -> Option<(String, u64)> {
        let status = self.agent.status(&root(), api::StatusRequest {}).await;
        let hold = status.unwrap().exclusive?;
        assert_eq!(hold.principal, "root");
        Some((hold.candidate, hold.seconds / 60))
    }

    async fn mtu(&self, candidate: &str, mtu: u32) -> Result<(), Refusal> {
        let line = format!("interfaces wan mtu {mtu}");
        let request = api::EditRequest {
            candidate: candidate.to_owned(),
            at: Vec::new(),
            edits: vec![edit(Change::Set(words(&line)))],
        };
        let reply = self.agent.edit(&root(), request).await?;
        assert_eq!(reply.problems, []);
        Ok(())
    }

    async fn try_commit(&self, candidate: &str) -> Result<api::CommitReply, Refusal> {
        let request = api::CommitRequest {
            candidate: candidate.to_owned(),
            ..api::CommitRequest::default()
        };
        self.agent.commit(&root(), request).await
    }
}

fn is_over(refusal: &Refusal) -> bool {
    let told = refusal.to_string();
    assert!(
        told.contains("exclusive hold") && told.contains("is over"),
        "{told}"
    );
    matches!(refusal, Refusal::HoldOver { .. })
}

#[tokio::test]
async fn a_hold_lasts_for_as_long_as_somebody_edits() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    assert_eq!(bench.holder().await, None);
    let other = bench.open().await;
    bench.set(&other, &[WAN]).await;
    let held = bench.hold().await.unwrap();
    assert_eq!(bench.holder().await, Some((held.clone(), 30)));
    for step in 0..9 {
        clocks.pass(20 * MINUTE);
        assert_eq!(bench.holder().await, Some((held.clone(), 10)));
        bench.mtu(&held, 1400 + step).await.unwrap();
        assert_eq!(bench.holder().await, Some((held.clone(), 30)));
        assert!(matches!(
            bench.try_commit(&other).await,
            Err(Refusal::Held(_))
        ));
    }
    // What is used again at once is not written again.
    clocks.pass(MINUTE / 2);
    bench.mtu(&held, 1500).await.unwrap();
    assert_eq!(bench.holder().await, Some((held.clone(), 29)));
    // It outlives mgmt, and a commit.
    let bench = bench.restart().await.by(&clocks);
    clocks.pass(20 * MINUTE);
    bench.set(&held, &[WAN]).await;
    assert_eq!(bench.holder().await, Some((held.clone(), 30)));
    clocks.pass(20 * MINUTE);
    bench.try_commit(&held).await.unwrap();
    assert_eq!(bench.holder().await, Some((held, 30)));
}

#[tokio::test]
async fn who_has_lost_a_hold_is_told_by_the_next_edit_and_goes_on_without() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let other = bench.open().await;
    bench.set(&other, &[WAN]).await;
    let held = bench.hold().await.unwrap();
    bench.set(&held, &["interfaces lan mtu 1300"]).await;
    clocks.pass(EXCLUSIVE);
    assert_eq!(bench.holder().await, None);
    // Others have not waited to be told.
    let reply = bench.try_commit(&other).await.unwrap();
    assert_eq!(reply.outcome(), Outcome::Applied);
    let before = bench
        .text(api::source::Which::Candidate(held.clone()))
        .await;
    assert!(is_over(&bench.mtu(&held, 1400).await.unwrap_err()));
    let after = bench
        .text(api::source::Which::Candidate(held.clone()))
        .await;
    assert_eq!(after, before);
    bench.mtu(&held, 1400).await.unwrap();
    assert_eq!(bench.holder().await, None);
    let reply = bench.try_commit(&held).await.unwrap();
    assert_eq!(reply.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn who_has_lost_a_hold_to_another_is_told_by_the_next_commit_and_whose_it_is() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let first = bench.hold().await.unwrap();
    bench.set(&first, &[WAN]).await;
    assert!(matches!(bench.hold().await, Err(Refusal::Held(_))));
    clocks.pass(EXCLUSIVE);
    let second = bench.hold().await.unwrap();
    let refusal = bench.try_commit(&first).await.unwrap_err();
    assert!(is_over(&refusal));
    assert!(
        refusal.to_string().contains("root holds it now"),
        "{refusal}"
    );
    // From then on it is like any other.
    assert!(matches!(
        bench.try_commit(&first).await,
        Err(Refusal::Held(_))
    ));
    assert_eq!(bench.holder().await, Some((second, 30)));
    assert_eq!(bench.hands.revision(), 0);
}

#[tokio::test]
async fn a_hold_that_ended_while_mgmt_or_the_box_began_anew_is_told_of_too() {
    for boots in [false, true] {
        let clocks = Clocks::new();
        let bench = Bench::new().by(&clocks);
        let held = bench.hold().await.unwrap();
        bench.set(&held, &[WAN]).await;
        if boots {
            clocks.boot();
        } else {
            clocks.pass(EXCLUSIVE);
        }
        let bench = bench.restart().await.by(&clocks);
        assert_eq!(bench.holder().await, None);
        assert!(is_over(&bench.try_commit(&held).await.unwrap_err()));
        let reply = bench.try_commit(&held).await.unwrap();
        assert_eq!(reply.outcome(), Outcome::Applied);
        // Nobody is told twice, and nobody who never held it.
        bench.mtu(&held, 1400).await.unwrap();
    }
}
