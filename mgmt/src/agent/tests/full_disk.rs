//! A disk that takes no more: what runs goes on, and what was edited waits.

use super::*;
use crate::store::StoreError;
use crate::store::tests::full_disk::{fill, on_a_small_disk};

#[test]
fn a_full_disk_refuses_a_commit_and_nothing_else_changes() {
    on_a_small_disk(4096, |disk| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(refused_for_want_of_room(disk));
    });
}

async fn refused_for_want_of_room(disk: &Path) {
    let place = tempfile::tempdir_in(disk).unwrap();
    let hands = Fake::default();
    let agent = agent_in(&place.path().join("mgmt"), &hands);
    let bench = Bench {
        place,
        hands,
        agent,
    };
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.applies(&candidate).await;
    let running = bench.running().await;
    // More than what is free in the files that are there already.
    let many: Vec<String> = (0..3000)
        .map(|number| {
            let (high, low) = (number / 256, number % 256);
            format!("routes 10.{high}.{low}.0/24 next_hops interface wan")
        })
        .collect();
    let lines: Vec<&str> = many.iter().map(String::as_str).collect();
    bench.set(&candidate, &lines).await;
    // That gives room back.
    rest(&bench.agent).await;
    let filler = fill(disk);
    let request = || api::CommitRequest {
        candidate: candidate.clone(),
        ..api::CommitRequest::default()
    };
    for _ in 0..2 {
        let refused = bench.agent.commit(&root(), request()).await;
        assert!(
            matches!(refused, Err(Refusal::Store(StoreError::DiskFull))),
            "{refused:?}"
        );
        assert_eq!(bench.running().await, running);
        assert_eq!(bench.hands.told().followed.len(), 1);
    }
    std::fs::remove_file(filler).unwrap();
    bench.applies(&candidate).await;
    assert!(bench.running().await.contains("10.11.183.0/24"));
    let bench = bench.restart().await;
    assert!(bench.running().await.contains("10.11.183.0/24"));
}
