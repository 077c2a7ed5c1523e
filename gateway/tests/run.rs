//! `culvert run` from outside, before and around its processes: what it refuses, what it takes of the machine, and what
//! it leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A network namespace with a NIC `eth7` that has an address, and a neighbour on its link.
struct Machine {
    name: String,
    neighbour: String,
    place: TempDir,
    program: PathBuf,
}

/// A running gateway; killed if a test ends early.
struct Running(Child);

impl Running {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    fn new(name: &str) -> Self {
        let name = format!("culvert-test-run-{name}-{}", std::process::id());
        let this = Self {
            neighbour: format!("{name}-far"),
            place: tempfile::tempdir().unwrap(),
            program: env!("CARGO_BIN_EXE_culvert").into(),
            name,
        };
        ip(&format!("netns add {}", this.name));
        ip(&format!("netns add {}", this.neighbour));
        this.plug_in();
        this
    }

    fn plug_in(&self) {
        self.ip(&format!(
            "link add eth7 type veth peer name far netns {}",
            self.neighbour
        ));
        self.ip("link set eth7 up mtu 1400");
        self.ip("address add 192.0.2.9/24 dev eth7");
        ip(&format!("-n {} link set far up", self.neighbour));
        ip(&format!(
            "-n {} address add 192.0.2.2/24 dev far",
            self.neighbour
        ));
    }

    /// Whether the gateway answers its neighbour.
    fn answers(&self) -> bool {
        let arguments = format!("netns exec {} ping -c 1 -W 1 192.0.2.1", self.neighbour);
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output();
        output.unwrap().status.success()
    }

    fn process(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.root().join("run/pids").join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    fn configure(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> std::path::PathBuf {
        self.place.path().join("config.json")
    }

    fn root(&self) -> std::path::PathBuf {
        self.place.path().join("root")
    }

    /// The plugin is any file: charon is not reached here.
    fn run(&self) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(&self.program)
            .args(["run", "--keep-clock"])
            .args(["--charon-plugin", env!("CARGO_BIN_EXE_culvert")])
            .arg("--root")
            .arg(self.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// For a root that is empty.
    fn run_with_file(&self) -> Command {
        let mut command = self.run();
        command.arg("--config").arg(self.config());
        command
    }

    /// Replaces what is committed, as an operator does; gives the exit status and all that was said.
    fn commit(&self, text: &str) -> (bool, String) {
        self.configure(text);
        let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .args(["cli", "--root"])
            .arg(self.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = format!("load override {}\ncommit\n", self.config().display());
        let mut input = child.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    fn start(&self) -> Running {
        let mut command = if self.root().join("var/mgmt").exists() {
            self.run()
        } else {
            self.run_with_file()
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = Running(child.unwrap());
        until("status.json", || {
            self.root().join("run/status.json").exists()
        });
        child
    }

    fn sockets(&self) -> usize {
        fs::read_dir(self.root().join("run/bus")).map_or(0, Iterator::count)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for name in [&self.name, &self.neighbour] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::sleep(Duration::from_millis(10));
    }
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Processes whose command line names the root.
fn processes(root: &Path) -> Vec<u32> {
    let root = root.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&line).contains(root).then_some(pid)
        })
        .collect()
}

/// Before the rest of a configuration.
const ADMIN: &str = r#"{"system": {"users": [{"name": "ada", "role": "admin", "ssh_keys": [{"name": "laptop",
    "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5xwVYvVnZ0dPTLuLpM6pGz8J1l0b9WmAqCk7"}]}],
    "ssh_server": {"listen_addresses": [{"address": "192.0.2.1"}]}}, "#;
const ONE_NIC: &str =
    r#"{"interfaces": [{"name": "eth7", "addresses": [{"address": "192.0.2.1/24"}]}]}"#;

#[test]
fn a_refused_configuration_starts_nothing_and_says_why() {
    let machine = Machine::new("refused");
    machine.configure(r#"{"interfaces": [{"name": "wan", "device": "eth7", "mtuu": 9}]}"#);
    let output = machine.run_with_file().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    let said = message(&output);
    assert!(
        said.contains("interfaces[wan]") && said.contains("mtuu"),
        "{said}"
    );
    assert!(!machine.root().exists());
    assert!(machine.ip("address show eth7").contains("192.0.2.9/24"));
}

#[test]
fn a_missing_device_is_named_and_what_was_there_stays() {
    let machine = Machine::new("missing");
    machine.configure(
        r#"{"interfaces": [{"name": "wan", "device": "eth7"}, {"name": "lan", "device": "eth8"}]}"#,
    );
    for _ in 0..2 {
        // Nothing was stored: the same command line is right once the device is there.
        let output = machine.run_with_file().output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", message(&output));
        assert!(
            message(&output).contains("there is no device eth8"),
            "{}",
            message(&output)
        );
        assert!(machine.ip("address show eth7").contains("192.0.2.9/24"));
    }
}

#[test]
fn a_file_is_for_an_empty_root_alone() {
    let machine = Machine::new("again");
    machine.configure(ONE_NIC);
    let gateway = machine.start();
    until("an answer", || machine.answers());
    assert_eq!(gateway.stop(), Some(0));

    machine.configure(&ONE_NIC.replace("192.0.2.1/24", "192.0.2.7/24"));
    let output = machine.run_with_file().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    assert!(
        message(&output).contains("start it without --config"),
        "{}",
        message(&output)
    );
    assert!(!machine.root().join("run/status.json").exists());
    assert_eq!(processes(&machine.root()), [] as [u32; 0]);

    let gateway = machine.start();
    until("an answer of the first one", || machine.answers());
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn a_root_that_is_too_long_for_sockets_is_refused() {
    let machine = Machine::new("long");
    machine.configure(ONE_NIC);
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    let output = command
        .args(["run", "--config"])
        .arg(machine.place.path().join("config.json"))
        .arg("--root")
        .arg(machine.place.path().join("x".repeat(100)))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message(&output).contains("of at most 107"),
        "{}",
        message(&output)
    );
}

#[test]
fn a_running_gateway_has_its_root_for_itself_and_gives_everything_back() {
    let machine = Machine::new("whole");
    machine.configure(ONE_NIC);
    let mac = |text: &str| {
        text.split("link/ether ")
            .nth(1)
            .map(|rest| rest[..17].to_owned())
    };
    let nic = mac(&machine.ip("link show eth7"));
    let gateway = machine.start();
    // The TAP has the NIC's name and MAC address; the NIC is gone from here.
    until("the TAP", || {
        machine.ip("-d link show").contains("tun type tap")
    });
    assert!(!machine.ip("link show eth7").contains("eth7@"));
    until("the MAC address", || {
        mac(&machine.ip("link show eth7")) == nic
    });
    until("an answer", || machine.answers());

    let second = machine.run().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        message(&second).contains("another gateway runs"),
        "{}",
        message(&second)
    );

    assert_eq!(gateway.stop(), Some(0));
    let back = machine.ip("address show eth7");
    assert!(
        back.contains("192.0.2.9/24") && back.contains("mtu 1400"),
        "{back}"
    );
    assert!(back.contains("eth7@") && back.contains(",UP"), "{back}");
    assert_eq!(machine.sockets(), 0);
    assert!(!machine.root().join("run/status.json").exists());
    assert_eq!(processes(&machine.root()), [] as [u32; 0]);
}

#[test]
fn a_killed_dataplane_comes_back_to_the_same_tap() {
    let machine = Machine::new("dataplane");
    machine.configure(ONE_NIC);
    let gateway = machine.start();
    until("an answer", || machine.answers());
    let tap = || machine.ip("address show eth7");
    let (before, first) = (tap(), machine.process("dataplane").unwrap());
    assert!(
        Command::new("kill")
            .args(["-9", &first])
            .status()
            .unwrap()
            .success()
    );
    until("another dataplane", || {
        machine.process("dataplane").is_some_and(|pid| pid != first)
    });
    until("an answer of the other", || machine.answers());
    // Same index, same addresses: nothing on it noticed.
    assert_eq!(tap(), before);
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn processes_come_back_when_the_program_was_replaced() {
    let mut machine = Machine::new("replaced");
    // The account that logs in passes it.
    fs::set_permissions(machine.place.path(), Permissions::from_mode(0o711)).unwrap();
    machine.configure(&ONE_NIC.replacen('{', ADMIN, 1));
    machine.program = machine.place.path().join("culvert");
    fs::copy(env!("CARGO_BIN_EXE_culvert"), &machine.program).unwrap();
    let gateway = machine.start();
    until("an answer", || machine.answers());
    until("sshd", || machine.process("sshd").is_some());
    // As an update does it; what has the name now does not even start.
    let update = machine.place.path().join("update");
    fs::write(&update, "not a program").unwrap();
    fs::rename(&update, &machine.program).unwrap();
    for again in [false, true] {
        if again {
            fs::remove_file(&machine.program).unwrap();
        }
        for name in ["mgmt", "sshd", "dataplane"] {
            let first = machine.process(name).unwrap();
            let killed = Command::new("kill").args(["-9", &first]).status().unwrap();
            assert!(killed.success());
            until(name, || {
                machine.process(name).is_some_and(|pid| pid != first)
            });
        }
        until("an answer of another dataplane", || machine.answers());
    }
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn a_commit_is_applied_and_a_wrong_one_is_not() {
    let machine = Machine::new("commit");
    machine.configure(ONE_NIC);
    let gateway = machine.start();
    until("an answer", || machine.answers());
    let dataplane = machine.process("dataplane");
    for (wrong, reason) in [
        (ONE_NIC.replace("eth7", "eth77"), "there is no device eth77"),
        (
            r#"{"interfaces": [{"name": "eth7", "addresses": "none"}]}"#.to_owned(),
            "addresses",
        ),
    ] {
        let (taken, said) = machine.commit(&wrong);
        assert!(!taken && said.contains(reason), "{said}");
    }
    assert!(machine.answers());

    let (taken, said) = machine.commit(&ONE_NIC.replace("192.0.2.1/24", "192.0.2.7/24"));
    assert!(taken, "{said}");
    until("the other address", || {
        machine.ip("address show eth7").contains("192.0.2.7/24")
    });
    until("the end of the old address", || !machine.answers());
    assert_eq!(machine.process("dataplane"), dataplane);

    // What somebody else takes away comes back when the gateway looks again.
    machine.ip("address del 192.0.2.7/24 dev eth7");
    gateway.signal("-HUP");
    until("the address again", || {
        machine.ip("address show eth7").contains("192.0.2.7/24")
    });
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn nobody_survives_a_killed_supervisor() {
    let machine = Machine::new("killed");
    machine.configure(ONE_NIC);
    let gateway = machine.start();
    until("an answer", || machine.answers());
    assert!(processes(&machine.root()).len() > 1);
    gateway.signal("-KILL");
    until("the end of all", || processes(&machine.root()).is_empty());
    drop(gateway);
    // The kernel closes the descriptors of the dead a little later: then the TAP goes, and the veth with the namespace.
    until("the end of the TAP", || {
        !machine.ip("link show").contains("eth7")
    });
    until("the end of the NIC", || {
        !ip(&format!("-n {} link show", machine.neighbour)).contains("far")
    });
    // The root can be used again at once.
    machine.plug_in();
    let gateway = machine.start();
    until("an answer", || machine.answers());
    assert_eq!(gateway.stop(), Some(0));
}
