//! `culvert lab up`, `status` and `down`, without gateways: what they make, leave alone and take away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::Duration,
};

use culvert_netlab::{
    addressing::{Place, Side},
    namespace::Namespace,
    process::ProcessIdentity,
    topology::Topology,
};

/// A tag and a folder of its own; nothing of it outlives the test.
struct Lab {
    tag: String,
    folder: PathBuf,
    _parent: tempfile::TempDir,
}

impl Lab {
    fn new(name: &str) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let tag = format!("it-{name}-{}", std::process::id());
        Self {
            tag,
            folder: parent.path().join("lab"),
            _parent: parent,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_culvert"))
            .arg("lab")
            .args(arguments)
            .args(["--tag", &self.tag, "--folder"])
            .arg(&self.folder)
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn present(&self) -> Vec<Place> {
        Topology::new(&self.tag).unwrap().present()
    }

    fn open(&self, place: Place) -> Namespace {
        Topology::new(&self.tag).unwrap().open(place).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

/// Looks like a process of a gateway, and lives until killed.
fn impostor(root: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "sleep 60; true", "--root"])
        .arg(root)
        .spawn()
        .unwrap()
}

#[test]
fn a_bare_laboratory_comes_and_goes() {
    let lab = Lab::new("bare");
    assert!(!lab.run(&["status"]).status.success());
    assert!(!lab.folder.exists(), "to look at it makes nothing");
    let text = lab.succeeds(&["up", "--bare"]);
    assert!(
        text.contains(&format!("culvert-{}-host-a", lab.tag)),
        "{text}"
    );
    assert_eq!(lab.present(), Place::ALL.to_vec());
    let before = lab.open(Place::Wan).id().unwrap();
    lab.succeeds(&["up", "--bare"]);
    assert_eq!(
        lab.open(Place::Wan).id().unwrap(),
        before,
        "what is there stays"
    );
    let status = lab.run(&["status"]);
    assert!(!status.status.success(), "without gateways it is not whole");
    assert!(String::from_utf8_lossy(&status.stdout).contains("not running"));
    lab.succeeds(&["down"]);
    assert!(lab.present().is_empty());
    assert!(!lab.folder.exists());
    lab.succeeds(&["down"]);
}

#[test]
fn what_a_crash_leaves_is_replaced_and_nothing_else_is_touched() {
    let lab = Lab::new("crash");
    let other = Lab::new("other");
    lab.succeeds(&["up", "--bare"]);
    other.succeeds(&["up", "--bare"]);

    // A dataplane that was killed took a device with it, and a gateway has left a process behind.
    lab.open(Place::GatewayB)
        .netlink(async |netlink| netlink.remove_link("lan0").await)
        .unwrap();
    // Held, it lives on without its name, as while the kernel is clearing it away.
    let going = lab.open(Place::Wan);
    Namespace::remove(&format!("culvert-{}-wan", lab.tag)).unwrap();
    let mut orphan = impostor(&lab.folder.join("gateway-a"));
    let mut stranger = impostor(&other.folder.join("gateway-a"));
    let status = String::from_utf8(lab.run(&["status"]).stdout).unwrap();
    assert!(
        status.contains("missing") && status.contains("left behind"),
        "{status}"
    );

    // A record whose number was given to somebody else since.
    let innocent = ProcessIdentity::of(stranger.id()).unwrap();
    let stale = ProcessIdentity {
        start_ticks: innocent.start_ticks - 1,
        ..innocent
    };
    std::fs::write(
        lab.folder.join("gateway-b.pid"),
        serde_json::to_vec(&stale).unwrap(),
    )
    .unwrap();

    lab.succeeds(&["up", "--bare"]);
    drop(going);
    assert!(!orphan.wait().unwrap().success(), "the orphan was ended");
    assert_eq!(lab.present(), Place::ALL.to_vec());
    for side in Side::BOTH {
        lab.open(side.gateway())
            .netlink(async |netlink| {
                assert!(netlink.has_link("lan0").await? && netlink.has_link("wan0").await?);
                Ok(())
            })
            .unwrap();
    }
    lab.succeeds(&["down"]);
    assert!(
        innocent.is_running(),
        "a process of another laboratory is not touched"
    );
    assert_eq!(other.present(), Place::ALL.to_vec());
    other.succeeds(&["down"]);
    assert!(!stranger.wait().unwrap().success());
}

#[test]
fn one_process_at_a_time_builds_or_removes() {
    let lab = Lab::new("busy");
    lab.succeeds(&["up", "--bare"]);
    let file = std::fs::File::open(lab.folder.join("lock")).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let refused = lab.run(&["down"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another culvert lab"));
    assert_eq!(lab.present(), Place::ALL.to_vec());
    drop(held);
    std::thread::sleep(Duration::from_millis(1));
    lab.succeeds(&["down"]);
}

#[test]
fn a_wrong_tag_is_refused_before_anything_is_made() {
    let output = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["lab", "up", "--bare", "--tag", "../../etc"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a tag"));
}
