//! Mobile networks: what waits for a modem, and keeps its secrets meanwhile.

use super::*;

const PASSWORD: &str = "canary-of-a-mobile-network";
const PIN: &str = "83619274";

#[tokio::test]
async fn an_interface_without_its_modem_is_committed_and_pending() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let lines = [
        "wwan_interfaces mobile device wwan0",
        "wwan_interfaces mobile apn internet.example",
        "wwan_interfaces mobile authentication chap",
        "wwan_interfaces mobile user_name branch",
        &format!("wwan_interfaces mobile password {PASSWORD}"),
        &format!("wwan_interfaces mobile pin {PIN}"),
    ];
    bench.set(&candidate, &lines).await;
    let of_candidate = api::source::Which::Candidate(candidate.clone());
    let shown = bench.text(of_candidate).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    let [waiting] = reply.waiting.as_slice() else {
        panic!("{:?}", reply.waiting);
    };
    assert_eq!(waiting.key, "wwan/mobile");
    assert_eq!(waiting.standing, "pending");
    assert_eq!(waiting.reason, "waits for modem/wwan0");

    let running = bench.running().await;
    assert!(
        running.contains("set wwan_interfaces mobile pin"),
        "{running}"
    );
    let told = format!("{shown}{running}{reply:?}{:?}", bench.hands.told().followed);
    assert!(!told.contains(PASSWORD) && !told.contains(PIN), "{told}");
    for entry in std::fs::read_dir(bench.place.path().join("mgmt")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        for secret in [PASSWORD, PIN] {
            let mut windows = bytes.windows(secret.len());
            assert!(
                !windows.any(|window| window == secret.as_bytes()),
                "{} holds a secret",
                path.display()
            );
        }
    }

    // The parts get the secrets themselves, once more after a restart.
    let bench = bench.restart().await;
    let candidate = bench.open().await;
    bench
        .set(&candidate, &["wwan_interfaces mobile mtu 1400"])
        .await;
    bench.commit(&candidate).await;
    let told = bench.hands.told();
    let (_, plan) = told.followed.last().unwrap();
    let planned = plan.iter().find(|(key, _)| key.as_str() == "wwan/mobile");
    let Some(bus::value::Kind::Wwan(value)) = &planned.unwrap().1.value.kind else {
        panic!("another kind");
    };
    assert_eq!(
        (value.password.as_str(), value.pin.as_str()),
        (PASSWORD, PIN)
    );
    assert_eq!(value.mtu, Some(1400));
}
