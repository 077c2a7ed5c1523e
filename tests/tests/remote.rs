//! `culvert remote` from beginning to end: Debian's sshd, the real login shell, the real mgmt; no packets.
//!
//! ```text
//!   private mounts: passwd with the account `culvert`        private network: lo
//!   culvert remote ──127.0.0.1:2222──> sshd ──> culvert -c "culvert cli ... --principal NAME" ──> culvert mgmt
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_bus::{Router, Server};
use culvert_model::bus::{
    ResynchroniseReply, ResynchroniseRequest, SetPlanReply, SetPlanRequest, ShowPlanReply,
    ShowPlanRequest,
};
use culvert_netlab::canary::{self, Report};
use culvert_tests::bad_input::BAD;
use culvert_tests::gateway::program;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const PORT: u16 = 2222;
const CANARY: &str = canary::PRE_SHARED_KEY;
const PASSPHRASE: &str = "open sesame";

/// Says of every plan that it is carried out: there are no packets here.
fn stand_in(runtime: &Runtime, socket: &Path) {
    let newest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&newest);
    let router = Router::new("run")
        .on(move |request: SetPlanRequest, _context| {
            if request.last && !request.check {
                newest.store(request.revision, Ordering::Relaxed);
            }
            async { Ok(SetPlanReply::default()) }
        })
        .on(|_: ResynchroniseRequest, _context| async { Ok(ResynchroniseReply::default()) })
        .on(move |_: ShowPlanRequest, _context| {
            let revision = seen.load(Ordering::Relaxed);
            async move {
                Ok(ShowPlanReply {
                    revision,
                    settled: true,
                    ready: true,
                    ..ShowPlanReply::default()
                })
            }
        });
    let _guard = runtime.enter();
    let server = Server::bind_for_secrets(socket, router).unwrap().spawn();
    std::mem::forget(server.unwrap());
}

/// mgmt and sshd, seen by this thread and what it starts.
struct Branch {
    place: tempfile::TempDir,
    started: Vec<Child>,
    runtime: Runtime,
}

impl Drop for Branch {
    fn drop(&mut self) {
        for mut child in self.started.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn bind(file: &Path, over: &Path) {
    let none = None::<&str>;
    mount(Some(file), over, none, MsFlags::MS_BIND, none).unwrap();
}

fn wait(what: &str, mut there: impl FnMut() -> bool, log: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(
            Instant::now() < until,
            "{what}: {}",
            fs::read_to_string(log).unwrap_or_default()
        );
        sleep(Duration::from_millis(20));
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

impl Branch {
    fn begin() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let tmpfs = Some("tmpfs");
        mount(tmpfs, "/run", tmpfs, MsFlags::empty(), Some("mode=755")).unwrap();
        fs::create_dir("/run/sshd").unwrap();
        run(Command::new("ip").args(["link", "set", "lo", "up"]));

        let place = tempfile::tempdir().unwrap();
        let mut this = Self {
            place,
            started: Vec::new(),
            runtime: Runtime::new().unwrap(),
        };
        for folder in [
            "",
            "root",
            "root/run",
            "root/run/bus",
            "root/var",
            "root/etc/ssh",
            "home",
        ] {
            let folder = this.at(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Wherever the binary is, the account must reach it.
        fs::write(this.at("culvert"), "").unwrap();
        bind(&program().unwrap(), &this.at("culvert"));
        for (file, line) in [
            (
                "passwd",
                format!(
                    "culvert:*:64123:64123::{}:{}\n",
                    this.at("root").display(),
                    this.at("culvert").display()
                ),
            ),
            ("group", "culvert:x:64123:\n".to_owned()),
        ] {
            let machine = Path::new("/etc").join(file);
            let text = fs::read_to_string(&machine).unwrap();
            fs::write(this.at(file), format!("{text}{line}")).unwrap();
            fs::set_permissions(this.at(file), fs::Permissions::from_mode(0o644)).unwrap();
            bind(&this.at(file), &machine);
        }
        let host_key = this.at("root/etc/ssh/ssh_host_ed25519_key");
        for (key, passphrase) in [
            (host_key, ""),
            (this.at("alice"), ""),
            (this.at("carol"), ""),
            (this.at("dave"), PASSPHRASE),
            (this.at("mallory"), ""),
        ] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", passphrase, "-f"])
                .arg(key));
        }
        let config =
            culvert_model::decode::config_from_json(this.config().to_string().as_bytes()).unwrap();
        culvert_mgmt::Import::begin(&this.at("root"))
            .unwrap()
            .finish(&config)
            .unwrap();
        stand_in(&this.runtime, &this.at("root/run/bus/run"));

        let log = fs::File::create(this.at("log")).unwrap();
        let mgmt = Command::new(this.at("culvert"))
            .args(["mgmt", "--root"])
            .arg(this.at("root"))
            .args(["--login-account", "64123"])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        this.started.push(mgmt);
        let file = this.at("root/etc/ssh/sshd_config");
        let api = this.at("root/run/api");
        wait("mgmt", || file.exists() && api.exists(), &this.at("log"));
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        this.started.push(sshd);
        wait(
            "sshd",
            || TcpStream::connect(("127.0.0.1", PORT)).is_ok(),
            &this.at("log"),
        );
        this
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn config(&self) -> Value {
        let user = |name: &str, role: &str| {
            let key = fs::read_to_string(self.at(name).with_extension("pub")).unwrap();
            let keys = [json!({ "name": "laptop", "public_key": key.trim() })];
            json!({ "name": name, "role": role, "ssh_keys": keys })
        };
        json!({
            "system": {
                "host_name": "branch",
                "users": [user("alice", "admin"), user("carol", "read-only"), user("dave", "operator")],
                "ssh_server": { "listen_addresses": [{ "address": "127.0.0.1" }], "port": PORT },
            },
            "interfaces": [{ "name": "wan", "device": "eth9", "addresses": [{ "address": "192.0.2.2/24" }] }],
            "credentials": { "pre_shared_keys": [
                { "name": "hq", "identities": [{ "identity": "branch" }], "secret": CANARY },
            ], "private_keys": [{ "name": "own", "pem": canary::PRIVATE_KEY }] },
        })
    }

    /// `culvert remote`, by its own home, without an agent.
    fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg("120")
            .arg(self.at("culvert"))
            .arg("remote")
            .args(arguments)
            .current_dir(self.at("home"))
            .env("HOME", self.at("home"))
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    fn command(&self, key: &str, arguments: &[&str]) -> Command {
        let host = format!("127.0.0.1:{PORT}");
        let identity = self.at(key).display().to_string();
        self.bare(&[&["--host", &host, "--identity", &identity], arguments].concat())
    }

    fn remote(&self, key: &str, arguments: &[&str]) -> Output {
        self.command(key, arguments).output().unwrap()
    }

    /// What it is expected to answer.
    fn done(&self, key: &str, arguments: &[&str]) -> Output {
        let output = self.remote(key, arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {output:?}\n{}",
            self.log()
        );
        output
    }

    fn refused(&self, key: &str, arguments: &[&str]) -> String {
        let output = self.remote(key, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        err(&output)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at("home").join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at("home").join(name)).unwrap()
    }

    fn revisions(&self) -> String {
        out(&self.done("alice", &["show", "configuration", "revisions"]))
    }
}

#[test]
fn a_gateway_is_looked_at_and_configured_from_another_machine() {
    let gateway = Branch::begin();
    host_keys(&gateway);
    identities(&gateway);
    looking(&gateway);
    files(&gateway);
    mistakes(&gateway);
    bundles(&gateway);
    waiting(&gateway);
    leaves_no_secret(gateway);
}

/// In whatever was written below the two roots and at home, what was pulled and bundled too.
fn leaves_no_secret(mut gateway: Branch) {
    for mut child in gateway.started.drain(..) {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let search = |path: &Path, inputs: &[PathBuf]| {
        let mut report = Report::default();
        let is_input = |path: &Path| inputs.iter().any(|input| input == path);
        report.search(path, &is_input).unwrap();
        report
    };
    // What was told to the gateway; and the program knows the secrets of its own laboratory.
    let inputs = [gateway.at("home/b.set"), gateway.at("culvert")];
    assert!(!search(&inputs[0], &[]).hits.is_empty());
    let report = search(gateway.place.path(), &inputs);
    if let Some(reports) = std::env::var_os(canary::REPORTS) {
        report.save(Path::new(&reports)).unwrap();
    }
    assert_eq!(report.hits, Vec::<String>::new());
    for kind in ["db", "txt", "json", "gz", "-"] {
        assert!(report.kinds.contains_key(kind), "{kind}: {report:?}");
    }
}

fn host_keys(gateway: &Branch) {
    let public = gateway.at("root/etc/ssh/ssh_host_ed25519_key.pub");
    let line = out(&run(Command::new("ssh-keygen").arg("-lf").arg(&public)));
    let fingerprint = line.split(' ').nth(1).unwrap();
    let known = gateway.at("home/.ssh/known_hosts");

    // Unknown: nothing is said to it, nothing is written down.
    let said = gateway.refused("alice", &["show", "configuration"]);
    assert!(
        said.contains(fingerprint) && said.contains("--accept-new"),
        "{said}"
    );
    assert!(!known.exists());
    assert!(!gateway.log().contains("Accepted publickey"));

    // Added, once, so that OpenSSH believes it too.
    let output = gateway.done("alice", &["--accept-new", "show", "configuration"]);
    assert!(err(&output).contains(fingerprint), "{output:?}");
    gateway.done("alice", &["--accept-new", "show", "configuration"]);
    let text = fs::read_to_string(&known).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let mut ssh = Command::new("timeout");
    ssh.args(["30", "ssh", "-F", "none", "-o", "BatchMode=yes", "-p"])
        .arg(PORT.to_string())
        .args(["-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .arg("-i")
        .arg(gateway.at("alice"))
        .args(["culvert@127.0.0.1", "show configuration"]);
    assert!(out(&run(&mut ssh)).contains("branch"));

    // Another key than the one it is known by, hashed names and all.
    let other = fs::read_to_string(gateway.at("mallory.pub")).unwrap();
    gateway.write("wrong", &format!("[127.0.0.1]:{PORT} {other}"));
    run(Command::new("ssh-keygen")
        .arg("-Hf")
        .arg(gateway.at("home/wrong")));
    let before = gateway.log().matches("Accepted publickey").count();
    for accept in [&["--accept-new"][..], &[]] {
        let arguments = [accept, &["--known-hosts", "wrong", "show", "configuration"]].concat();
        let said = gateway.refused("alice", &arguments);
        assert!(
            said.contains("HAS CHANGED") && said.contains("line 1"),
            "{said}"
        );
    }
    assert_eq!(gateway.log().matches("Accepted publickey").count(), before);
}

fn identities(gateway: &Branch) {
    let said = gateway.refused("mallory", &["show", "configuration"]);
    assert!(said.contains("knows none of these keys"), "{said}");
    // A key with a passphrase: nobody is there to be asked, or a terminal.
    let said = Command::new("setsid")
        .args(["-w"])
        .arg(gateway.command("dave", &[]).get_program())
        .args(
            gateway
                .command("dave", &["show", "configuration"])
                .get_args(),
        )
        .current_dir(gateway.at("home"))
        .env("HOME", gateway.at("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(err(&said).contains("has a passphrase"), "{said:?}");
    let mut typed = Command::new("timeout")
        .args(["60", "script", "-qec"])
        .arg(format!(
            "{} remote --host 127.0.0.1:{PORT} --identity {} show configuration",
            gateway.at("culvert").display(),
            gateway.at("dave").display()
        ))
        .arg("/dev/null")
        .env("HOME", gateway.at("home"))
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut shown) = (typed.stdin.take().unwrap(), typed.stdout.take().unwrap());
    let mut said = Vec::new();
    for typing in ["wrong\n", "open sesame\n"] {
        // Whoever types before he is asked sees what he types.
        let asked = said.len();
        while !String::from_utf8_lossy(&said[asked..]).contains("dave: ") {
            let mut byte = [0];
            shown.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        keys.write_all(typing.as_bytes()).unwrap();
    }
    shown.read_to_end(&mut said).unwrap();
    let status = typed.wait().unwrap();
    drop(keys);
    let said = String::from_utf8_lossy(&said);
    assert!(status.success() && said.contains("branch"), "{said}");
    assert!(
        !said.contains("wrong") && !said.contains(PASSPHRASE),
        "{said}"
    );

    // The agent's keys; with --identity, that one of them: then the private half need not be opened.
    let socket = gateway.at("home/agent");
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait("ssh-agent", || socket.exists(), &gateway.at("log"));
    run(Command::new("ssh-add")
        .arg(gateway.at("mallory"))
        .arg(gateway.at("carol"))
        .env("SSH_AUTH_SOCK", &socket));
    let host = format!("127.0.0.1:{PORT}");
    let by_agent = gateway
        .bare(&["--host", &host, "show", "configuration"])
        .env("SSH_AUTH_SOCK", &socket)
        .output()
        .unwrap();
    assert!(by_agent.status.success(), "{by_agent:?}");
    let named = gateway
        .command("mallory", &["show", "configuration"])
        .env("SSH_AUTH_SOCK", &socket)
        .output()
        .unwrap();
    assert!(err(&named).contains("knows none"), "{named:?}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let none = gateway
        .bare(&["--host", &host, "show", "configuration"])
        .output()
        .unwrap();
    assert!(
        err(&none).contains("there is no key to log in with"),
        "{none:?}"
    );
}

fn looking(gateway: &Branch) {
    let output = gateway.done(
        "carol",
        &[
            "show",
            "configuration",
            "|",
            "display",
            "set",
            "|",
            "match",
            "host",
        ],
    );
    assert_eq!(out(&output).trim(), "set system host_name branch");
    let json = answer(&gateway.done("carol", &["show", "configuration", "system", "--json"]));
    assert!(json.to_string().contains("branch"), "{json}");
    // The gateway says what is wrong, and what would be right.
    let said = gateway.refused("carol", &["show", "roots"]);
    assert!(said.contains("routes"), "{said}");
    let usage = gateway.remote("carol", &["config", "push"]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
    let usage = gateway.remote("carol", &["show", "a\nconfigure"]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

fn files(gateway: &Branch) {
    // Out, in two forms; without secrets; and in again: nothing is changed by it.
    gateway.done("carol", &["config", "pull", "a.json"]);
    let mode = fs::metadata(gateway.at("home/a.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let pulled: Value = serde_json::from_str(&gateway.read("a.json")).unwrap();
    assert_eq!(pulled["system"]["host_name"], "branch");
    let set = out(&gateway.done("carol", &["config", "pull"]));
    assert!(set.contains("set system host_name branch"), "{set}");
    for text in [&gateway.read("a.json"), &set] {
        assert!(!text.contains(CANARY), "{text}");
    }
    let before = gateway.revisions();
    let same = gateway.done("alice", &["config", "push", "a.json"]);
    assert!(
        out(&same).contains("nothing is to be committed"),
        "{same:?}"
    );

    // Checked: told, and not done. Done: a revision of alice's, with her comment.
    let text = format!(
        "{set}set interfaces wan mtu 1400\nset credentials pre_shared_keys hq secret \"{CANARY} again\"\n"
    );
    // More than a channel's window holds at once.
    let long = format!("{}{text}", format!("# {}\n", "-".repeat(78)).repeat(50_000));
    gateway.write("b.set", &long);
    let checked = answer(&gateway.done("alice", &["--json", "config", "push", "--check", "b.set"]));
    assert_eq!(checked["outcome"], "checked");
    assert!(checked["changes"].to_string().contains("wan"), "{checked}");
    assert_eq!(gateway.revisions(), before);
    let pushed = answer(&gateway.done(
        "alice",
        &[
            "--json",
            "config",
            "push",
            "b.set",
            "--comment",
            "smaller \"frames\"",
        ],
    ));
    assert!(
        ["applied", "pending"].contains(&pushed["outcome"].as_str().unwrap()),
        "{pushed}"
    );
    let revisions = gateway.revisions();
    assert!(
        revisions.contains("alice") && revisions.contains("smaller \"frames\""),
        "{revisions}"
    );

    // By standard input, merged, on probation; then kept.
    let mut child = gateway
        .command(
            "alice",
            &["config", "push", "-", "--merge", "--confirmed", "5"],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"set interfaces wan mtu 1300\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(gateway.revisions().contains("on probation"));
    gateway.done("alice", &["config", "confirm"]);
    assert!(!gateway.revisions().contains("on probation"));
    let set = out(&gateway.done("carol", &["config", "pull"]));
    assert!(
        set.contains("mtu 1300") && set.contains("host_name branch"),
        "{set}"
    );
}

fn mistakes(gateway: &Branch) {
    let before = gateway.revisions();
    gateway.write(
        "bad.set",
        "set system host_name other\nset interfaces wan mtu 1\n",
    );
    let said = gateway.refused("alice", &["config", "push", "bad.set", "--merge"]);
    assert!(said.contains("bad.set:2: 1 is not between"), "{said}");
    // As JSON, the same.
    let output = gateway.remote("alice", &["--json", "config", "push", "bad.set", "--merge"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(answer(&output)["outcome"], "refused");
    // Who may only look.
    gateway.write("good.set", "set system host_name other\n");
    let said = gateway.refused("carol", &["config", "push", "good.set", "--merge"]);
    assert!(said.contains("carol") || said.contains("admin"), "{said}");
    // Nobody could log in any more: that is asked twice.
    gateway.write("empty.set", "set system host_name other\n");
    let said = gateway.refused("alice", &["config", "push", "empty.set"]);
    assert!(said.contains("force"), "{said}");
    gateway.write("none.set", "\n");
    let output = gateway.remote("alice", &["config", "push", "none.set"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = gateway.refused("alice", &["config", "push", "nowhere.set"]);
    assert!(said.contains("nowhere.set"), "{said}");
    // What every other entrance says of bad input is said here, too.
    for bad in BAD {
        fs::write(gateway.at("home/bad.json"), (bad.json)()).unwrap();
        let output = gateway.remote("alice", &["config", "push", "bad.json", "--merge"]);
        let said = err(&output);
        assert!(!output.status.success(), "{}: {said}", bad.name);
        let place = if bad.place.0.is_empty() {
            bad.place.1
        } else {
            bad.place.0
        };
        let told = said.contains(bad.words) && said.contains(place);
        assert!(
            told,
            "{}: {:?} at {place:?}, not {said}",
            bad.name, bad.words
        );
    }
    assert_eq!(gateway.revisions(), before);
}

fn bundles(gateway: &Branch) {
    let told = answer(&gateway.done("alice", &["--json", "support-bundle", "b.tar.gz"]));
    let file = gateway.at("home/b.tar.gz");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let open = || tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(&file).unwrap()));
    // To be searched with all that is left: nobody sees into it while it is packed.
    open().unpack(gateway.at("home/bundle")).unwrap();
    let mut archive = open();
    let mut all = String::new();
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        names.push(entry.path().unwrap().file_name().unwrap().to_owned());
        entry.read_to_string(&mut all).unwrap();
    }
    assert_eq!(names.len(), told["answers"].as_array().unwrap().len() + 1);
    assert!(all.contains("set interfaces wan mtu 1300"), "{all}");
    assert!(all.contains("smaller \"frames\""), "{all}");
    assert!(!all.contains(CANARY), "a secret is in the bundle");
    // There is no dataplane here: noted, and no reason to end.
    let interfaces = told["answers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["file"] == "interfaces.txt")
        .unwrap()
        .clone();
    assert_eq!(interfaces["status"], 1, "{interfaces}");
    assert!(!interfaces["said"].as_str().unwrap().is_empty());
}

fn waiting(gateway: &Branch) {
    // Whoever listens and says nothing keeps nobody.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let output = gateway
        .bare(&["--host", &host, "--timeout", "2", "show", "configuration"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(err(&output).contains("no answer within 2 s"), "{output:?}");
    // Whoever does not listen is named.
    let output = gateway
        .bare(&["--host", "127.0.0.1:9", "show", "configuration"])
        .output()
        .unwrap();
    assert!(
        err(&output).contains("[127.0.0.1]:9 is not reached"),
        "{output:?}"
    );
}
