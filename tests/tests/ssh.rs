//! Operators of a gateway as they come: Debian's `ssh` on a host of the LAN, through the dataplane to the sshd that
//! `culvert run` keeps, to the command line and mgmt.
//!
//! ```text
//!   host-a: ssh -i KEY culvert@10.1.0.1 ── lan0 ── dataplane ── TAP ── sshd ── culvert -c "culvert cli ..." ── mgmt
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::process::ProcessIdentity;
use culvert_tests::configuration::{SECRET, gateway};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::ssh_key::make_key;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// What somebody who is removed may notice late.
const SOON: Duration = Duration::from_secs(5);
/// ssh's own: it did not get as far as a command.
const NOT_IN: Option<i32> = Some(255);
/// Where the machine has no account `culvert`.
const ACCOUNT: &str = "65531";

const USERS: [(&str, &str); 3] = [
    ("alice", "admin"),
    ("bob", "operator"),
    ("carol", "read-only"),
];

/// A gateway that people log in to, and where their keys are.
struct Site {
    lab: Laboratory,
}

/// Somebody who is in, and says nothing for the moment.
struct Guest {
    ssh: Child,
    says: Option<ChildStdin>,
    hears: BufReader<std::process::ChildStdout>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

impl Site {
    fn open() -> Self {
        let mut lab = Laboratory::build().unwrap();
        let configuration = Self::configuration(&lab);
        lab.start(Side::A, &configuration).unwrap();
        let site = Self { lab };
        site.wait_for_sshd();
        site
    }

    fn configuration(lab: &Laboratory) -> Value {
        let users: Vec<Value> = USERS
            .iter()
            .map(|(name, role)| {
                let key = make_key(&lab.folder().join(name)).unwrap();
                json!({ "name": name, "role": role, "ssh_keys": [{ "name": "laptop", "public_key": key }] })
            })
            .collect();
        make_key(&lab.folder().join("mallory")).unwrap();
        let listen: Vec<Value> = Family::BOTH
            .iter()
            .map(|family| json!({ "address": Side::A.addresses().gateway_lan(*family).addr().to_string() }))
            .collect();
        let mut configuration = gateway(Side::A);
        configuration["system"]["users"] = json!(users);
        configuration["system"]["ssh_server"] = json!({ "listen_addresses": listen });
        configuration["system"]["login"] = json!({ "banner": "Members only" });
        configuration
    }

    fn root(&self) -> PathBuf {
        self.lab.folder().join(Side::A.gateway().name())
    }

    fn wait_for_sshd(&self) {
        wait_for("sshd", PATIENCE, || {
            let status = self.lab.gateway(Side::A).status()?;
            (status.processes.get("sshd")?.state == "ready").then_some(())
        })
        .unwrap();
    }

    /// The key that the gateway had when this was called.
    fn remember_host_key(&self) -> String {
        let public = self.root().join("etc/ssh/ssh_host_ed25519_key.pub");
        let key = fs::read_to_string(public).unwrap();
        let key = key.trim().to_owned();
        let hosts = Family::BOTH.map(|family| {
            let address = Side::A.addresses().gateway_lan(family).addr();
            format!("{address} {key}\n")
        });
        fs::write(self.lab.folder().join("known_hosts"), hosts.concat()).unwrap();
        key
    }

    fn client(&self, name: &str, family: Family) -> Command {
        self.client_of("culvert", name, family)
    }

    fn client_of(&self, account: &str, name: &str, family: Family) -> Command {
        let folder = self.lab.folder();
        let mut command = Command::new("timeout");
        command.args(["60", "ssh", "-F", "none"]);
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "ConnectTimeout=20",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
        ] {
            command.args(["-o", option]);
        }
        command
            .arg("-o")
            .arg(format!(
                "UserKnownHostsFile={}",
                folder.join("known_hosts").display()
            ))
            .arg("-i")
            .arg(folder.join(name))
            .args(["-l", account])
            .arg(Side::A.addresses().gateway_lan(family).addr().to_string())
            .env("LD_LIBRARY_PATH", "")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `ssh gateway WORDS`.
    fn ssh(&self, name: &str, words: &str) -> Output {
        self.by(Family::V4, name, words)
    }

    fn by(&self, family: Family, name: &str, words: &str) -> Output {
        self.run(self.client(name, family), words)
    }

    fn as_account(&self, account: &str, name: &str, words: &str) -> Output {
        self.run(self.client_of(account, name, Family::V4), words)
    }

    fn run(&self, mut command: Command, words: &str) -> Output {
        command.arg("--").arg(words).stdin(Stdio::null());
        let host = self.lab.open(Place::HostA);
        host.enter(|| command.output().unwrap()).unwrap()
    }

    /// `ssh gateway <<END`.
    fn script(&self, name: &str, lines: &str) -> Output {
        let mut command = self.client(name, Family::V4);
        let host = self.lab.open(Place::HostA);
        let mut child = host.spawn(command.stdin(Stdio::piped())).unwrap();
        let mut input = child.stdin.take().unwrap();
        // Whoever is refused does not listen.
        let _ = input.write_all(lines.as_bytes());
        drop(input);
        child.wait_with_output().unwrap()
    }

    /// Comes in and stays, once it was answered.
    fn enter(&self, name: &str, options: &[&str]) -> Guest {
        let mut command = self.client(name, Family::V4);
        command.args(options).env("TERM", "xterm");
        let host = self.lab.open(Place::HostA);
        let mut ssh = host.spawn(command.stdin(Stdio::piped())).unwrap();
        let mut guest = Guest {
            says: ssh.stdin.take(),
            hears: BufReader::new(ssh.stdout.take().unwrap()),
            ssh,
        };
        guest.ask("show configuration revisions", "import");
        guest
    }

    /// What the gateway knows of itself, by the console.
    fn console(&self, lines: &str) -> String {
        self.lab.gateway(Side::A).operate(lines).unwrap()
    }

    /// The processes that run as the account.
    fn of_account(&self) -> Vec<(u32, String)> {
        self.lab
            .open(Place::GatewayA)
            .processes()
            .unwrap()
            .into_iter()
            .filter_map(|pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                (field(&status, "Uid:") == ACCOUNT).then_some((pid, status))
            })
            .collect()
    }
}

impl Guest {
    fn say(&mut self, line: &str) {
        let says = self.says.as_mut().unwrap();
        says.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Says a line and waits for an answer with this in it.
    fn ask(&mut self, line: &str, answer: &str) {
        self.say(line);
        let mut heard = Vec::new();
        loop {
            let mut bytes = Vec::new();
            let read = self.hears.read_until(b'\n', &mut bytes).unwrap();
            let line = String::from_utf8_lossy(&bytes).into_owned();
            assert!(read > 0, "{answer:?} was not heard: {heard:?}");
            if line.contains(answer) {
                return;
            }
            heard.push(line);
        }
    }

    fn wait_gone(&mut self) {
        self.wait_gone_within(SOON);
    }

    fn wait_gone_within(&mut self, limit: Duration) {
        wait_for("the end of a session", limit, || {
            self.ssh.try_wait().unwrap()
        })
        .unwrap();
    }
}

fn public_key(site: &Site, name: &str) -> String {
    let path = site.lab.folder().join(name).with_extension("pub");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn well(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    said(output)
}

fn badly(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert_ne!(
        output.status.code(),
        Some(124),
        "it does not end: {output:?}"
    );
    said(output)
}

#[test]
fn operators_come_by_ssh_and_do_what_their_role_allows() {
    let site = Site::open();
    site.remember_host_key();

    // Everybody reads, by both families, and nobody a secret.
    for (name, _) in USERS {
        for family in Family::BOTH {
            let text = well(&site.by(family, name, "show configuration | display set"));
            assert!(text.contains("set system host_name gateway-a"), "{text}");
            assert!(text.contains("Members only"), "{text}");
            assert!(!text.contains(SECRET), "{text}");
        }
    }

    // Nobody without a key of a user, and nobody as another account.
    let text = badly(&site.ssh("mallory", "show configuration"));
    assert!(text.contains("Permission denied (publickey)"), "{text}");
    assert!(!text.contains("host_name"), "{text}");
    let text = badly(&site.as_account("root", "alice", "show configuration"));
    assert!(text.contains("Permission denied (publickey)"), "{text}");

    // An administrator changes it, under his name and from where he is.
    well(&site.script(
        "alice",
        "set interfaces lan mtu 1400\ncommit comment \"over ssh\"\n",
    ));
    let revisions = well(&site.ssh("alice", "show configuration revisions"));
    let row = revisions
        .lines()
        .find(|line| line.contains("over ssh"))
        .unwrap_or_else(|| panic!("{revisions}"));
    assert!(row.contains("alice"), "{row}");
    let audit = well(&site.ssh("bob", "show audit"));
    let from = Side::A.addresses().host(Family::V4).addr().to_string();
    assert!(
        audit
            .lines()
            .any(|line| line.contains("alice") && line.contains("commit") && line.contains(&from)),
        "{audit}"
    );

    // Others may not, and are told by whom and why.
    for (name, role) in &USERS[1..] {
        let text = badly(&site.script(name, "set interfaces lan mtu 1300\ncommit\n"));
        assert!(text.contains(role) && text.contains("admin"), "{text}");
    }
    let text = badly(&site.ssh("carol", "show audit"));
    assert!(text.contains("operator"), "{text}");
    assert!(
        site.console("show configuration | display set\n")
            .contains("mtu 1400")
    );

    // What would cut off whoever does it takes a second word.
    let lan = Side::A.addresses().gateway_lan(Family::V4);
    let text = badly(&site.script(
        "alice",
        &format!("delete interfaces lan addresses {lan}\ncommit\n"),
    ));
    assert!(
        text.contains(&format!(
            "{} is the address that this session came in by",
            lan.addr()
        )),
        "{text}"
    );
    let text = badly(&site.script(
        "alice",
        "delete system users alice ssh_keys laptop\ncommit\n",
    ));
    assert!(text.contains("no administrator with an SSH key"), "{text}");
    let address = site.console("show configuration | display set\n");
    assert!(address.contains(&lan.to_string()), "{address}");

    completes(&site);

    // A session is the account's, without any privilege, and cannot get one.
    let guest = site.enter("carol", &[]);
    let sessions = site.of_account();
    assert!(!sessions.is_empty());
    for (_, status) in &sessions {
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(status, set), "0000000000000000", "{status}");
        }
        assert_eq!(field(status, "NoNewPrivs:"), "1", "{status}");
        assert_eq!(field(status, "Seccomp:"), "2", "{status}");
    }
    drop(guest);
    wait_for("the end of the account's processes", PATIENCE, || {
        site.of_account().is_empty().then_some(())
    })
    .unwrap();
    // Of the root it passes, and reads what sshd must read as it; its secrets are closed.
    for (name, mode) in [
        ("", 0o711),
        ("run", 0o711),
        ("run/bus", 0o700),
        ("etc/ssh/ssh_host_ed25519_key", 0o600),
    ] {
        let found = fs::metadata(site.root().join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
}

/// Whoever came in with it goes, too, and nobody else.
fn one_key_of_two_goes(site: &Site) {
    let phone = make_key(&site.lab.folder().join("bob-phone")).unwrap();
    well(&site.script(
        "alice",
        &format!("set system users bob ssh_keys phone public_key \"{phone}\"\ncommit\n"),
    ));
    let mut laptop = site.enter("bob", &[]);
    let mut kept = site.enter("bob-phone", &["-tt"]);
    well(&site.script("alice", "delete system users bob ssh_keys laptop\ncommit\n"));
    laptop.wait_gone();
    badly(&site.ssh("bob", "show configuration"));
    kept.ask("show configuration revisions", "import");
    drop(kept);
    let public = public_key(site, "bob");
    well(&site.script(
        "alice",
        &format!("set system users bob ssh_keys laptop public_key \"{public}\"\ncommit\n"),
    ));
}

/// TAB at a terminal writes words on, and names that this gateway has.
fn completes(site: &Site) {
    let mut carol = site.enter("carol", &["-tt"]);
    carol.ask("show configuration interfaces la\t", "device lan0;");
    carol.ask("sho\tconfi\tinterf\twa\t", "device wan0;");
    carol.say("exit");
    carol.wait_gone_within(PATIENCE);
    // What is only in somebody's candidate, too.
    let mut alice = site.enter("alice", &["-tt"]);
    alice.say("configure");
    alice.say("set interfaces cellar description \"below the stairs\"");
    alice.ask("show interfaces cel\t", "below the stairs\";");
    for line in ["discard", "exit", "exit"] {
        alice.say(line);
    }
    alice.wait_gone_within(PATIENCE);
}

/// Two who are in, at a terminal and without, are out within seconds; and stay out.
fn two_users_go(site: &Site) {
    let mut bob = site.enter("bob", &["-tt"]);
    let mut carol = site.enter("carol", &[]);
    well(&site.script(
        "alice",
        "delete system users bob\ndelete system users carol\ncommit\n",
    ));
    bob.wait_gone();
    carol.wait_gone();
    for name in ["bob", "carol"] {
        let text = badly(&site.ssh(name, "show configuration"));
        assert!(text.contains("Permission denied (publickey)"), "{text}");
    }
    let audit = site.console("show audit\n");
    for name in ["bob", "carol"] {
        assert!(
            audit.lines().any(|line| line.contains(name)
                && line.contains("session")
                && line.contains("ended")),
            "{audit}"
        );
    }
}

#[test]
fn who_is_removed_is_logged_out_and_sshd_comes_and_goes_with_the_configuration() {
    let mut site = Site::open();
    let key = site.remember_host_key();
    let namespace = site.lab.open(Place::GatewayA);

    one_key_of_two_goes(&site);
    two_users_go(&site);

    // sshd dies: whoever is in stays, another one lets in whoever comes.
    let mut alice = site.enter("alice", &[]);
    let before = site.lab.gateway(Side::A).process("sshd").unwrap();
    let revisions = site.console("show configuration revisions\n");
    before.signal(Signal::SIGKILL);
    wait_for("another sshd", PATIENCE, || {
        let process = site.lab.gateway(Side::A).process("sshd").ok()?;
        (process.pid != before.pid).then_some(())
    })
    .unwrap();
    site.wait_for_sshd();
    alice.ask("show configuration revisions", "import");
    well(&site.ssh("alice", "show configuration"));
    assert_eq!(site.console("show configuration revisions\n"), revisions);

    // mgmt dies: whoever is in goes on.
    let mgmt = site
        .lab
        .gateway(Side::A)
        .signal("mgmt", Signal::SIGKILL)
        .unwrap();
    assert!(mgmt.wait_gone(PATIENCE));
    wait_for("mgmt answers", PATIENCE, || {
        let gateway = site.lab.gateway(Side::A);
        gateway.operate("show configuration revisions\n").ok()
    })
    .unwrap();
    alice.ask("show configuration revisions", "import");

    // Without an address there is no sshd; who is in may put it right.
    let sshd = site.lab.gateway(Side::A).process("sshd").unwrap();
    alice.say("delete system ssh_server\ncommit");
    assert!(sshd.wait_gone(PATIENCE));
    let output = site.ssh("alice", "show configuration");
    assert_eq!(output.status.code(), NOT_IN, "{output:?}");
    assert!(said(&output).contains("refused"), "{output:?}");
    assert!(site.lab.gateway(Side::A).process("sshd").is_err());
    let lan = Side::A.addresses().gateway_lan(Family::V4).addr();
    alice.say(&format!(
        "set system ssh_server listen_addresses {lan}\ncommit"
    ));
    site.wait_for_sshd();
    well(&site.ssh("alice", "show configuration"));

    // Another port: the same sshd listens there, and whoever is in stays.
    let sshd = site.lab.gateway(Side::A).process("sshd").unwrap();
    alice.say("set system ssh_server port 2022\ncommit");
    wait_for("the other port", PATIENCE, || {
        let mut command = site.client("alice", Family::V4);
        // Known by its address at any port.
        command
            .args(["-p", "2022", "-o"])
            .arg(format!("HostKeyAlias={lan}"));
        let output = site.run(command, "show configuration");
        output.status.success().then_some(())
    })
    .unwrap();
    let now = site.lab.gateway(Side::A).process("sshd").unwrap();
    assert_eq!(now.pid, sshd.pid);
    site.console("delete system ssh_server port\ncommit\n");

    // The end of the gateway is the end of all sessions, and the next start has the same key.
    site.lab.stop(Side::A).unwrap();
    alice.wait_gone();
    let left: Vec<ProcessIdentity> = namespace
        .processes()
        .unwrap()
        .into_iter()
        .filter_map(ProcessIdentity::of)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    site.lab.start_again(Side::A).unwrap();
    site.wait_for_sshd();
    well(&site.ssh("alice", "show configuration"));
    assert_eq!(site.remember_host_key(), key);
}
