//! A gateway as it is operated: changed by the command line under traffic, taken back when nobody
//! confirms, there again after a restart, and untouched by the death of mgmt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::{CHILD, CONNECTION, IF_ID, SECRET, gateway, identity};
use culvert_tests::gateway::{Gateway, program};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::traffic::Traffic;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// From host to host through the tunnel, 50 a second, while `work` is done.
fn pinging(lab: &Laboratory, count: u32, work: impl FnOnce()) -> PingReport {
    let host = lab.open(Place::HostA);
    let ping = Ping {
        destination: Side::B.addresses().host(Family::V4).addr(),
        count,
        interval: Duration::from_millis(20),
        patience: Duration::from_secs(2),
        size: 56,
        marker: b"",
    };
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping.run(&host, &Interrupt::default()).unwrap());
        work();
        pinging.join().unwrap()
    })
}

fn mtu_of_lan(gateway: &Gateway) -> u32 {
    let text = gateway.operate("show interfaces | display json\n").unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let lan = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "lan")
        .unwrap()
        .clone();
    lan["mtu"].as_u64().unwrap() as u32
}

/// Files below a folder that hold these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let text = fs::read(entry.path()).unwrap();
                if text.windows(bytes.len()).any(|window| window == bytes) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}

/// What waits for a modem keeps nothing else waiting, and its secrets to itself.
fn waits_for_a_modem(a: &Gateway) {
    let text = a
        .operate(
            "set wwan_interfaces mobile device wwan0\nset wwan_interfaces mobile pin 83619274\ncommit\n",
        )
        .unwrap();
    assert!(text.contains("waits for modem/wwan0"), "{text}");
    let status = a.status().unwrap();
    assert!(status.healthy, "{status:?}");
    let shown = a
        .operate("show configuration status\nshow configuration | display set\nshow interfaces\n")
        .unwrap();
    assert!(
        shown.contains("wwan/mobile") && shown.contains("modem/wwan0"),
        "{shown}"
    );
    assert!(!shown.contains("83619274"), "{shown}");
    assert_eq!(
        holding(a.root(), b"83619274"),
        Vec::<std::path::PathBuf>::new()
    );
    a.operate("delete wwan_interfaces mobile\ncommit\n")
        .unwrap();
}

#[test]
fn a_gateway_is_changed_under_traffic_and_comes_back_as_it_was_committed() {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, PATIENCE).unwrap();

    // A commit that concerns one interface loses nothing on the others, and not on that one.
    let report = pinging(&lab, 150, || {
        let a = lab.gateway(Side::A);
        a.operate("set interfaces lan mtu 1400\ncommit comment \"smaller frames\"\n")
            .unwrap();
        assert_eq!(mtu_of_lan(a), 1400);
        let revisions = a.operate("show configuration revisions\n").unwrap();
        assert!(revisions.contains("smaller frames"), "{revisions}");
    });
    assert_eq!(report.received, 150, "{report:?}");

    waits_for_a_modem(lab.gateway(Side::A));

    // Who dies is mgmt alone, and nothing notices.
    let report = pinging(&lab, 150, || {
        let a = lab.gateway(Side::A);
        let before = a.process("mgmt").unwrap();
        a.signal("mgmt", Signal::SIGKILL).unwrap();
        wait_for("another mgmt", PATIENCE, || {
            let now = a.process("mgmt").ok()?;
            (now.pid != before.pid && a.status()?.healthy).then_some(())
        })
        .unwrap();
    });
    assert_eq!(report.received, 150, "{report:?}");
    let a = lab.gateway(Side::A);
    assert_eq!(a.status().unwrap().processes["dataplane"].restarts, 0);
    let text = wait_for("mgmt answers", PATIENCE, || {
        a.operate("show configuration | display set\n").ok()
    })
    .unwrap();
    assert!(text.contains("set interfaces lan mtu 1400"), "{text}");
    assert!(!text.contains(SECRET), "{text}");

    // Nobody confirms, mgmt dies in between: the box goes back in time by itself.
    let report = pinging(&lab, 300, || {
        let a = lab.gateway(Side::A);
        a.operate("set interfaces lan mtu 1300\ncommit confirmed 1\n")
            .unwrap();
        assert_eq!(mtu_of_lan(a), 1300);
        a.signal("mgmt", Signal::SIGKILL).unwrap();
    });
    assert_eq!(report.received, 300, "{report:?}");
    wait_for("the old configuration", Duration::from_secs(90), || {
        (mtu_of_lan(lab.gateway(Side::A)) == 1400).then_some(())
    })
    .unwrap();
    let revisions = lab
        .gateway(Side::A)
        .operate("show configuration revisions\n")
        .unwrap();
    assert!(revisions.contains("revert"), "{revisions}");

    // What cannot be is refused, and says where.
    let error = lab
        .gateway(Side::A)
        .operate("set interfaces lan vrf nowhere\ncommit\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("nowhere"), "{error}");

    // The root keeps it: no file is needed to start again, and none is taken.
    let root = lab.gateway(Side::A).root().to_owned();
    assert_eq!(
        holding(&root, SECRET.as_bytes()),
        Vec::<std::path::PathBuf>::new()
    );
    lab.stop(Side::A).unwrap();
    let refused = std::process::Command::new(program().unwrap())
        .args(["run", "--root"])
        .arg(&root)
        .arg("--config")
        .arg(root.with_extension("json"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("a configuration already") && said.contains("without --config"),
        "{said}"
    );
    lab.start_again(Side::A).unwrap();
    lab.wait_open(Family::V4, PATIENCE).unwrap();
    assert_eq!(mtu_of_lan(lab.gateway(Side::A)), 1400);
}

/// charon's own numbers of the IKE_SA and of the CHILD_SA, and the SPIs of that.
fn sas(gateway: &Gateway) -> (Vec<u64>, Vec<(u64, u32, u32)>) {
    let control = gateway.control();
    let ikes = control.established(CONNECTION).into_iter();
    let children = control.children(CHILD).into_iter();
    (
        ikes.map(|ike| ike.unique_id).collect(),
        children
            .map(|child| (child.unique_id, child.spi_in, child.spi_out))
            .collect(),
    )
}

#[test]
fn a_timer_of_a_connection_disturbs_no_sa() {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, PATIENCE).unwrap();
    let before = sas(lab.gateway(Side::A));
    assert_eq!((before.0.len(), before.1.len()), (1, 1), "{before:?}");
    let report = pinging(&lab, 150, || {
        let a = lab.gateway(Side::A);
        a.operate(&format!(
            "set connections {CONNECTION} dpd_delay 7\ncommit\n"
        ))
        .unwrap();
        let text = a.operate("show configuration | display set\n").unwrap();
        assert!(text.contains("dpd_delay 7"), "{text}");
    });
    assert_eq!(report.received, 150, "{report:?}");
    assert_eq!(sas(lab.gateway(Side::A)), before);
}

/// With another tunnel between the same gateways, for networks that nobody has.
fn with_another(side: Side) -> Value {
    let mut whole = gateway(side);
    let named = |side: Side| format!("other-{}", identity(side));
    let network = |side: Side| {
        if side == Side::A {
            "10.101.0.0/24"
        } else {
            "10.102.0.0/24"
        }
    };
    let mut other = whole["connections"][0].clone();
    other["name"] = json!("other");
    other["local"]["identity"] = json!(named(side));
    other["remote"]["identity"] = json!(named(side.other()));
    let child = &mut other["children"][0];
    child["name"] = json!("others");
    child["tunnel"] = json!("ipsec1");
    child["local_selectors"] = json!([{ "selector": network(side) }]);
    child["remote_selectors"] = json!([{ "selector": network(side.other()) }]);
    let identities = Side::BOTH.map(|side| json!({ "identity": named(side) }));
    let route =
        json!({ "destination": network(side.other()), "next_hops": [{ "interface": "ipsec1" }] });
    let mut add = |list: &str, item: Value| {
        whole
            .pointer_mut(list)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(item);
    };
    add("/connections", other);
    add("/tunnels", json!({ "name": "ipsec1", "if_id": IF_ID + 1 }));
    add("/routes", route);
    add(
        "/credentials/pre_shared_keys",
        json!({ "name": "other", "identities": identities, "secret": SECRET }),
    );
    whole
}

#[test]
fn another_tunnel_comes_changes_breaks_and_goes_and_nothing_is_lost_in_this_one() {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, PATIENCE).unwrap();
    let (a, b) = (lab.gateway(Side::A), lab.gateway(Side::B));
    let before = sas(a);
    assert_eq!((before.0.len(), before.1.len()), (1, 1), "{before:?}");
    let others = || -> Vec<u64> {
        let children = a.control().installed("others").into_iter();
        children.map(|child| child.unique_id).collect()
    };
    let another_than = |old: Option<u64>| {
        wait_for("the other tunnel", PATIENCE, || {
            others().into_iter().find(|one| Some(*one) != old)
        })
        .unwrap()
    };
    let stream = Traffic::start(&lab, Family::V4, 7600).unwrap();

    let mut ours = with_another(Side::A);
    b.reload(&with_another(Side::B)).unwrap();
    a.reload(&ours).unwrap();
    let first = another_than(None);
    // Its SAs outlive a change; then they break, and others come.
    ours["connections"][1]["dpd_delay"] = json!(7);
    ours["tunnels"][1]["mtu"] = json!(1300);
    a.reload(&ours).unwrap();
    assert_eq!(others(), [first]);
    a.operate("clear ike other\n").unwrap();
    another_than(Some(first));
    // The peer knows it no longer; then nobody does.
    b.reload(&gateway(Side::B)).unwrap();
    a.reload(&gateway(Side::A)).unwrap();
    wait_for("the end of the other tunnel", PATIENCE, || {
        let gone = a.control().established("other").is_empty() && others().is_empty();
        gone.then_some(())
    })
    .unwrap();

    stream.stop().unwrap().assert_nothing_lost();
    assert_eq!(sas(a), before);
}
