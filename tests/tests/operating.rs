//! Whoever logs in, as the account that sshd starts the command line as: nothing of the gateway can be reached but `run/api`,
//! and everything can be asked there that his role allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::Ping;
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::{CHILD, CONNECTION, SECRET, gateway};
use culvert_tests::gateway::program;
use culvert_tests::laboratory::{Laboratory, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
/// Nobody else on a machine is likely to have it.
const ACCOUNT: u32 = 64_127;

/// This thread, and what it starts, sees a machine with the account.
fn with_account(folder: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let machine = Path::new("/etc/passwd");
    let mut text = fs::read_to_string(machine).unwrap();
    let account = format!("culvert:*:{ACCOUNT}:{ACCOUNT}::/nonexistent:/nonexistent\n");
    text.push_str(&account);
    let file = folder.join("passwd");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    mount(Some(&file), machine, none, MsFlags::MS_BIND, none).unwrap();
}

/// Somebody who is logged in.
struct Person {
    shell: PathBuf,
    root: PathBuf,
    name: &'static str,
}

/// What came of some lines.
struct Said {
    done: bool,
    out: Vec<u8>,
    err: String,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }
}

impl Person {
    fn command(program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .uid(ACCOUNT)
            .gid(ACCOUNT)
            .env_clear()
            .env("SSH_CONNECTION", "198.51.100.7 50000 192.0.2.1 22")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    fn shell(&self) -> Command {
        let mut command = Self::command(&self.shell);
        command.args(["cli", "--principal", self.name, "--root"]);
        command.arg(&self.root);
        command
    }

    /// By one command, as `ssh GATEWAY 'line'`.
    fn line(&self, line: &str) -> Said {
        let output = self
            .shell()
            .env("SSH_ORIGINAL_COMMAND", line)
            .output()
            .unwrap();
        Said {
            done: output.status.success(),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same, which must work.
    fn done(&self, line: &str) -> String {
        let said = self.line(line);
        assert!(said.done, "{line}: {}{}", said.text(), said.err);
        said.text() + &said.err
    }

    /// The same, which must be refused.
    fn refused(&self, line: &str) {
        let said = self.line(line);
        assert!(
            !said.done && said.err.contains("may not"),
            "{line}: {}{}",
            said.text(),
            said.err
        );
    }
}

fn restarts(olga: &Person, process: &str) -> u64 {
    let text = olga.done("show system | display json");
    let state: Value = serde_json::from_str(&text).unwrap();
    let processes = state["system"]["processes"].as_array().unwrap();
    let found = processes.iter().find(|row| row["name"] == process);
    found.unwrap()["restarts"].as_u64().unwrap()
}

#[test]
fn whoever_logs_in_operates_by_the_one_socket_that_he_reaches() {
    let mut lab = Laboratory::build().unwrap();
    fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o711)).unwrap();
    with_account(lab.folder());
    // Where the binary lies may be for nobody else to see.
    let shell = lab.folder().join("shell");
    File::create(&shell).unwrap();
    let none = None::<&str>;
    mount(
        Some(&program().unwrap()),
        &shell,
        none,
        MsFlags::MS_BIND,
        none,
    )
    .unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    let mut configuration = gateway(Side::A);
    configuration["system"]["users"] = json!([
        { "name": "olga", "role": "operator" },
        { "name": "rita", "role": "read-only" },
    ]);
    // As a branch office has it: what is not for the tunnel is for the provider, and Linux knows no more than that.
    for family in Family::BOTH {
        let all = if family == Family::V4 {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        let via = Side::A.addresses().router(family).addr().to_string();
        configuration["routes"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "destination": all, "next_hops": [{ "gateway": via }] }));
    }
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, PATIENCE).unwrap();
    let root = lab.gateway(Side::A).root().to_owned();
    let person = |name| Person {
        shell: shell.clone(),
        root: root.clone(),
        name,
    };
    let (olga, rita, mallory) = (person("olga"), person("rita"), person("mallory"));

    keeps_to_the_socket(&olga, &mallory);
    shows(&rita);
    reaches(&rita);
    tells_what_was_done(&lab, &olga, &rita);
    operates(&lab, &olga, &rita);
    stops_reading(&olga);
    leaves_no_dump(&lab, &olga);

    // Who did what is written down, refusals too.
    let text = olga.done("show audit 300");
    for (who, what) in [
        ("olga", "restart \"iked-bridge\""),
        ("olga", "clear counters interfaces"),
        ("olga", "clear counters drops"),
        ("olga", "clear counters nodes"),
        ("olga", "clear counters tunnels"),
        ("olga", "capture interface \"wan\""),
        ("rita", "restart \"iked-bridge\""),
        ("olga", "resynchronise"),
        ("rita", "resynchronise"),
    ] {
        assert!(
            text.lines()
                .any(|line| line.contains(who) && line.contains(what)),
            "{who} {what}: {text}"
        );
    }

    // An SA that is cleared comes back when it is wanted.
    let text = olga.done(&format!("clear ike {CONNECTION}"));
    assert!(text.contains("1 IKE_SAs have ended"), "{text}");
    lab.wait_open(Family::V4, PATIENCE).unwrap();
    comes_back(&lab, &olga, &rita);
    // The program knows the secret of its own laboratory: it is not among what this one leaves.
    umount2(&shell, MntFlags::MNT_DETACH).unwrap();
}

/// The account has no way around the one socket.
fn keeps_to_the_socket(olga: &Person, mallory: &Person) {
    for closed in [
        "run/bus",
        "run/bus/dataplane",
        "var/log/mgmt.log",
        "var/mgmt",
    ] {
        let outcome = Person::command(Path::new("/bin/cat"))
            .arg(olga.root.join(closed))
            .stderr(Stdio::null())
            .status();
        assert!(!outcome.unwrap().success(), "{closed}");
    }
    let said = mallory.line("show system");
    assert!(!said.done && said.err.contains("no user"), "{}", said.err);
}

/// Everything that can be shown, to whoever may look.
fn shows(rita: &Person) {
    for (line, known) in [
        ("show system", "dataplane"),
        ("show version", "Culvert"),
        ("show interfaces", "ipsec0"),
        ("show routes", "10.2.0.0/24"),
        ("show routes to 10.2.0.7 limit 3", "ipsec0"),
        ("show neighbours", "192.0.2."),
        ("show ike", CONNECTION),
        ("show tunnels", CHILD),
        ("show ipsec", "INSTALLED"),
        ("show ipsec sas", "aes128gcm16"),
        ("show ipsec policies", "10.1.0.0/24"),
        ("show reassembly", "fragments"),
        ("show paths", ""),
        ("show too-big", "messages"),
        ("show drops all", "reason"),
        ("show nodes", "esp-encrypt"),
        ("show configuration status", "revision"),
        ("show configuration revisions", "revision"),
        ("show configuration", "ipsec0"),
        ("show log last 50", ""),
        ("show log mgmt last 5", ""),
        ("show log dataplane last 1 | count", "1 lines"),
    ] {
        let text = rita.done(line);
        assert!(text.contains(known), "{line}: {text}");
        assert!(!text.contains(SECRET), "{line}");
    }
    let log = rita.line("show log nobody");
    assert!(!log.done && log.err.contains("iked-bridge"), "{}", log.err);
}

/// Through the tunnel, from an address that the selectors know.
fn reaches(rita: &Person) {
    let own = Side::A.addresses().gateway_lan(Family::V4).addr();
    let far = Side::B.addresses().host(Family::V4).addr();
    let text = rita.done(&format!("ping {far} source {own} count 5 interval 50"));
    assert!(text.contains("5 sent, 5 answered, 0 % lost"), "{text}");
    let text = rita.done(&format!(
        "ping {far} source {own} count 2 interval 50 size 3000"
    ));
    assert!(
        text.contains("3008 bytes from") && text.contains("2 answered"),
        "{text}"
    );
    let own6 = Side::A.addresses().gateway_lan(Family::V6).addr();
    let far6 = Side::B.addresses().host(Family::V6).addr();
    let text = rita.done(&format!("ping {far6} source {own6} count 3 interval 50"));
    assert!(text.contains("3 answered"), "{text}");
    let nobody = rita.line("ping 10.2.0.99 count 1");
    assert!(
        !nobody.done && nobody.err.contains("100 % lost"),
        "{}",
        nobody.err
    );
    let strange = rita.line("ping 10.2.0.10 source 203.0.113.9");
    assert!(
        !strange.done && strange.err.contains("no address of this gateway"),
        "{}",
        strange.err
    );
    // The far gateway is one hop, the host behind it the next.
    let text = rita.done(&format!("traceroute {far} source {own}"));
    let last = text.lines().rfind(|line| line.contains(&far.to_string()));
    assert!(
        last.is_some_and(|line| line.trim_start().starts_with('2')),
        "{text}"
    );
}

/// What was sent to the parts, and what depends on what; asking all parts anew finds nothing to put right.
fn tells_what_was_done(lab: &Laboratory, olga: &Person, rita: &Person) {
    let gateway = lab.gateway(Side::A);
    gateway.wait_healthy(PATIENCE).unwrap();
    gateway
        .operate("set routes 10.77.0.0/24 next_hops interface ipsec0\ncommit\n")
        .unwrap();
    let number = |line: &str| -> u64 { line.split_once(' ').unwrap().0.parse().unwrap() };
    // The newest first: of a plan that is told again the row that did something is the older one.
    let done = |cause: &str, after: u64| {
        wait_for(cause, PATIENCE, || {
            let text = rita.done("show configuration transactions");
            let rows: Vec<&str> = text.lines().skip(1).collect();
            let row = rows.into_iter().rfind(|line| {
                number(line) > after && line.contains(cause) && line.contains(" done ")
            });
            row.map(str::to_owned)
        })
        .unwrap()
    };
    let commit = done("revision 2 ", 0);
    assert!(
        commit.contains("create ") && commit.contains(" 1 route"),
        "{commit}"
    );
    let dot = rita.done("show configuration graph prefix route/default/10.77.0.0/24");
    assert!(
        dot.starts_with("digraph values {")
            && dot.contains("  \"route/default/10.77.0.0/24\" -> \"tunnel/ipsec0\";\n")
            && dot.ends_with("}\n"),
        "{dot}"
    );
    assert!(!dot.contains("10.2.0.0/24\" ["), "{dot}");

    rita.refused("resynchronise");
    olga.done("resynchronise");
    let nothing = done("resynchronisation", number(&commit));
    assert!(nothing.contains(" none "), "{nothing}");
    gateway
        .operate("delete routes 10.77.0.0/24\ncommit\n")
        .unwrap();
    let undone = done("revision 3 ", number(&nothing));
    assert!(
        undone.contains("delete ") && undone.contains(" 1 route"),
        "{undone}"
    );
}

/// A CHILD_SA that is cleared is gone, and another one of the same IKE_SA carries what follows.
fn comes_back(lab: &Laboratory, olga: &Person, rita: &Person) {
    let line = format!("clear ipsec {CHILD}");
    rita.refused(&line);
    let control = lab.gateway(Side::A).control();
    let ikes = || -> Vec<u64> {
        let ikes = control.established(CONNECTION);
        ikes.iter().map(|ike| ike.unique_id).collect()
    };
    let spis = || -> Vec<u32> {
        let children = control.children(CHILD);
        children.iter().map(|child| child.spi_in).collect()
    };
    // charon is asked, which may be in the middle of it.
    let one_of_each = |ended: u32| {
        wait_for("one SA of each", PATIENCE, || {
            match (ikes().as_slice(), spis().as_slice()) {
                ([ike], [spi]) if *spi != ended => Some((*ike, *spi)),
                _ => None,
            }
        })
        .unwrap()
    };
    let (ike, ended) = one_of_each(0);
    let text = olga.done(&line);
    assert!(text.contains("1 CHILD_SAs have ended"), "{text}");
    let (again, _) = one_of_each(ended);
    assert_eq!(again, ike);
    lab.wait_open(Family::V4, PATIENCE).unwrap();
}

/// What changes something is for operators.
fn operates(lab: &Laboratory, olga: &Person, rita: &Person) {
    let far = Side::B.addresses().host(Family::V4).addr();
    for line in [
        "clear counters",
        "clear neighbours",
        "restart iked-bridge",
        "capture drops count 1",
        "trace count 1",
    ] {
        rita.refused(line);
    }
    clears(lab, olga);
    let text = olga.done("clear neighbours interface wan");
    assert!(text.contains("neighbours are forgotten"), "{text}");
    lab.wait_open(Family::V4, PATIENCE).unwrap();

    // Under traffic: what is seen of it, and what a restart of iked-bridge costs.
    let host = lab.open(Place::HostA);
    let ping = Ping {
        destination: far,
        count: 600,
        interval: Duration::from_millis(20),
        patience: Duration::from_secs(2),
        size: 56,
        marker: b"",
    };
    let report = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping.run(&host, &Interrupt::default()).unwrap());
        let text = olga.done("capture interface wan filter esp count 4");
        assert!(
            text.contains("esp spi") && text.contains("4 packets"),
            "{text}"
        );
        let said = olga.line("capture interface lan filter icmp count 2 | display pcapng");
        assert!(said.done, "{}", said.err);
        assert_eq!(said.out[..4], [0x0a, 0x0d, 0x0d, 0x0a], "{}", said.err);
        let text = olga.done("trace filter icmp interface lan count 1");
        assert!(
            text.contains("esp-encrypt") && text.contains("1 packets"),
            "{text}"
        );
        let before = restarts(olga, "iked-bridge");
        let text = olga.done("restart iked-bridge");
        assert!(text.contains("restarts"), "{text}");
        wait_for("another iked-bridge", PATIENCE, || {
            let healthy = lab.gateway(Side::A).status()?.healthy;
            (healthy && restarts(olga, "iked-bridge") == before + 1).then_some(())
        })
        .unwrap();
        pinging.join().unwrap()
    });
    assert_eq!(report.received, 600, "{report:?}");
}

/// What is counted is shown from zero again, of what was named alone; the dataplane counts on.
fn clears(lab: &Laboratory, olga: &Person) {
    let rows = |what: &str| -> Vec<Value> {
        let text = olga.done(&format!("{what} | display json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let sum = |rows: &[Value], field: &str| -> u64 {
        rows.iter().filter_map(|row| row[field].as_u64()).sum()
    };
    // Not what the box says by itself meanwhile.
    let inside = |rows: &[Value]| -> u64 {
        let tunnel = rows.iter().filter(|row| row["name"] == "ipsec0");
        tunnel.filter_map(|row| row["tx_packets"].as_u64()).sum()
    };
    let control = lab.gateway(Side::A).control();
    let carried = || -> u64 {
        let sas = control.sas().unwrap().sas;
        sas.iter()
            .filter_map(|sa| sa.usage.as_ref())
            .map(|usage| usage.packets)
            .sum()
    };
    let spis = || -> Vec<u32> {
        let sas = control.sas().unwrap().sas;
        let keys = sas.iter().filter_map(|dump| dump.sa.as_ref()?.key.as_ref());
        keys.map(|key| key.spi).collect()
    };
    let interfaces = rows("show interfaces");
    let sas = rows("show ipsec sas");
    assert!(inside(&interfaces) > 0 && sum(&sas, "packets") > 0);
    let (raw, raw_sas, names) = (
        control.interface("ipsec0").unwrap().unwrap().tx_packets,
        carried(),
        spis(),
    );

    let text = olga.done("clear counters interfaces");
    assert!(text.contains("begin anew"), "{text}");
    assert_eq!(inside(&rows("show interfaces")), 0);
    assert!(sum(&rows("show ipsec sas"), "packets") > 0);
    olga.done("clear counters tunnels");
    assert_eq!(sum(&rows("show ipsec sas"), "packets"), 0);
    let drops = sum(&rows("show drops all"), "packets");
    assert!(drops > 0);
    olga.done("clear counters drops");
    assert!(sum(&rows("show drops all"), "packets") < drops);
    let nodes = sum(&rows("show nodes"), "packets");
    olga.done("clear counters nodes");
    assert!(sum(&rows("show nodes"), "packets") < nodes);

    lab.wait_open(Family::V4, PATIENCE).unwrap();
    let seen = inside(&rows("show interfaces"));
    let now = control.interface("ipsec0").unwrap().unwrap().tx_packets;
    assert!(seen > 0 && now >= raw + seen, "{now} {raw} {seen}");
    let seen = sum(&rows("show ipsec sas"), "packets");
    assert!(seen > 0 && carried() >= raw_sas + seen);
    assert_eq!(spis(), names);
    olga.done("clear counters");
    assert_eq!(inside(&rows("show interfaces")), 0);
    assert_eq!(sum(&rows("show ipsec sas"), "packets"), 0);
}

/// No process that knows keys writes its memory down when it crashes, and nobody but root looks into it.
fn leaves_no_dump(lab: &Laboratory, olga: &Person) {
    let limits = |pid: u32| fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limited = |name: &str, pid: u32| {
        let limits = limits(pid);
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let values: Vec<&str> = line.unwrap().split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["1", "1"], "{name}");
    };
    let gateway = lab.gateway(Side::A);
    limited("run", gateway.pid());
    for name in ["mgmt", "dataplane", "iked-bridge", "charon"] {
        limited(name, gateway.process(name).unwrap().pid);
    }
    let far = Side::B.addresses().host(Family::V4).addr();
    let mut shell = olga
        .shell()
        .env(
            "SSH_ORIGINAL_COMMAND",
            format!("ping {far} count 100 interval 100"),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It has begun, so it is what it stays.
    let mut first = [0; 1];
    shell
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    limited("cli", shell.id());
    // Of the account if anybody of it could look.
    let owner = fs::metadata(format!("/proc/{}/limits", shell.id()))
        .unwrap()
        .uid();
    assert_eq!(owner, 0);
    shell.kill().unwrap();
    shell.wait().unwrap();

    let mgmt = gateway.process("mgmt").unwrap();
    let folder = fs::read_link(format!("/proc/{}/cwd", mgmt.pid)).unwrap();
    let dumps = || -> Vec<PathBuf> {
        let there = fs::read_dir(&folder).unwrap().flatten();
        let names = there.filter(|one| one.file_name().to_string_lossy().starts_with("core"));
        names
            .map(|one| one.path())
            .filter(|path| path.is_file())
            .collect()
    };
    let before = dumps();
    gateway.signal("mgmt", Signal::SIGABRT).unwrap();
    wait_for("another mgmt", PATIENCE, || {
        let now = gateway.process("mgmt").ok()?;
        (now.pid != mgmt.pid && gateway.status()?.healthy).then_some(())
    })
    .unwrap();
    assert_eq!(dumps(), before);
    wait_for("mgmt answers", PATIENCE, || {
        olga.line("show system").done.then_some(())
    })
    .unwrap();
}

/// Whoever reads no further ends what is told, and somebody else can begin at once.
fn stops_reading(olga: &Person) {
    let mut child = olga
        .shell()
        .env("SSH_ORIGINAL_COMMAND", "monitor interfaces every 1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = String::new();
    let mut part = [0; 4096];
    while seen.matches("ipsec0").count() < 2 {
        let length = out.read(&mut part).unwrap();
        assert!(length > 0, "it ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    drop(out);
    assert!(child.wait().unwrap().success());
    let mut child = olga
        .shell()
        .env("SSH_ORIGINAL_COMMAND", "capture interface wan for 600")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the next capture", PATIENCE, || {
        olga.line("capture drops for 1").done.then_some(())
    })
    .unwrap();
}
