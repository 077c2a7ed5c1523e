//! Debian's sshd and ssh with the files that mgmt writes: whatever a client asks for, one command is run, for the right user.
//!
//! ```text
//!   private mounts: passwd with the account `culvert`, /run        private network: lo
//!   ssh -i NAME ... ──127.0.0.1:2222──> sshd ──> witness -c "culvert cli --root R --idle-timeout 900 --principal NAME"
//!                                                   writes down its arguments and environment, ends with 7
//! ```
//!
//! The witness stands where the account's shell is: nothing that it did not see was started.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_mgmt::login::Writer;
use culvert_model::config::{Config, ListenAddress, Login, Role, SshKey, SshServer, System, User};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const PORT: u16 = 2222;
const WITNESS: i32 = 7;
const USERS: [(&str, Role); 3] = [
    ("alice", Role::Admin),
    ("bob", Role::Operator),
    ("carol", Role::ReadOnly),
];
/// What sshd gives, and what the witness, which is a shell, adds.
const ENVIRONMENT: [&str; 15] = [
    "MAIL",
    "USER",
    "LOGNAME",
    "HOME",
    "PATH",
    "SHELL",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "SSH_ORIGINAL_COMMAND",
    "TERM",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
];

/// A box with sshd, seen by this thread and what it starts.
struct Gateway {
    place: tempfile::TempDir,
    sshd: Child,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// This thread alone sees other mounts and another network.
fn leave() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .unwrap();
    fs::create_dir("/run/sshd").unwrap();
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
}

impl Gateway {
    fn begin() -> Self {
        leave();
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| place.path().join(name);
        let root = at("root");
        fs::create_dir_all(root.join("etc/ssh")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir(at("seen")).unwrap();
        fs::set_permissions(at("seen"), fs::Permissions::from_mode(0o777)).unwrap();
        write(
            &at("witness"),
            &format!(
                "#!/bin/sh\n{{ printf '%s\\n' \"$#\" \"$@\"; printf '\\n'; env; }} > {}/$$\necho \"witness $2\"\nexit {WITNESS}\n",
                at("seen").display()
            ),
            0o755,
        );
        // What sshd must not read, though it lies in the account's home.
        write(
            &root.join(".ssh/environment"),
            "LD_PRELOAD=/nowhere.so\n",
            0o644,
        );
        write(
            &root.join(".ssh/rc"),
            &format!("touch {}\n", at("seen/marker").display()),
            0o755,
        );

        for (file, line) in [
            (
                "passwd",
                format!(
                    "culvert:*:64123:64123::{}:{}\n",
                    root.display(),
                    at("witness").display()
                ),
            ),
            ("group", "culvert:x:64123:\n".to_owned()),
        ] {
            let machine = Path::new("/etc").join(file);
            let text = fs::read_to_string(&machine).unwrap();
            write(&at(file), &format!("{text}{line}"), 0o644);
            mount(
                Some(&at(file)),
                &machine,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        }
        let host = root.join("etc/ssh/ssh_host_ed25519_key");
        for key in [host, at("alice"), at("bob"), at("carol"), at("mallory")] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(key));
        }
        let writer = Writer::new(&root);
        writer.write(&config(place.path(), &USERS)).unwrap();
        let file = root.join("etc/ssh/sshd_config");
        run(Command::new("/usr/sbin/sshd").args(["-t", "-f"]).arg(&file));
        let log = fs::File::create(at("log")).unwrap();
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", PORT)).is_err() {
            assert!(
                Instant::now() < until,
                "{}",
                fs::read_to_string(at("log")).unwrap()
            );
            sleep(Duration::from_millis(20));
        }
        Self { place, sshd }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn client(&self, program: &str, key: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["30", program, "-F", "none"]);
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "ConnectTimeout=20",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command
            .args(["-o", &format!("Port={PORT}"), "-o"])
            .arg(format!("IdentityFile={}", self.at(key).display()))
            .env("LD_LIBRARY_PATH", "")
            .stdin(Stdio::null());
        command
    }

    /// `ssh OPTIONS culvert@box COMMAND`.
    fn ssh(&self, key: &str, options: &[&str], words: &[&str]) -> Output {
        self.client("ssh", key)
            .args(options)
            .arg("culvert@127.0.0.1")
            .args((!words.is_empty()).then_some("--"))
            .args(words)
            .output()
            .unwrap()
    }

    /// Of a key, as OpenSSH tells it.
    fn fingerprint(&self, name: &str) -> String {
        let told = run(Command::new("ssh-keygen")
            .args(["-l", "-f"])
            .arg(self.at(name)));
        let told = String::from_utf8(told.stdout).unwrap();
        let hash = told
            .split(' ')
            .find_map(|word| word.strip_prefix("SHA256:"));
        hash.unwrap().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Nothing ran but the forced command, for this user, with an environment of sshd's making; how often.
    fn witnessed(&self, name: &str) -> usize {
        let command = format!(
            "culvert cli --root {} --idle-timeout 900 --principal {name} --key {}",
            self.at("root").display(),
            self.fingerprint(name)
        );
        assert!(!self.at("seen/marker").exists(), "an escape for {name}");
        let mut count = 0;
        for entry in fs::read_dir(self.at("seen")).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap();
            let (arguments, environment) = text.split_once("\n\n").unwrap();
            assert_eq!(arguments, format!("2\n-c\n{command}"));
            let names: BTreeSet<&str> = environment
                .lines()
                .filter_map(|line| Some(line.split_once('=')?.0))
                .filter(|name| {
                    name.bytes()
                        .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
                })
                .collect();
            let others: Vec<_> = names
                .iter()
                .filter(|name| !ENVIRONMENT.contains(name))
                .collect();
            assert!(others.is_empty(), "{others:?}");
            assert!(
                environment.contains("SSH_CONNECTION=127.0.0.1 "),
                "{environment}"
            );
            fs::remove_file(entry.path()).unwrap();
            count += 1;
        }
        assert_eq!(listening(), BTreeSet::from([PORT]), "of {name}");
        count
    }
}

fn config(place: &Path, users: &[(&str, Role)]) -> Config {
    let users = users
        .iter()
        .map(|(name, role)| {
            let key = fs::read_to_string(place.join(format!("{name}.pub"))).unwrap();
            let mut user = User {
                name: Some((*name).to_owned()),
                ssh_keys: vec![SshKey {
                    name: Some("laptop".to_owned()),
                    public_key: Some(key.trim().to_owned()),
                }],
                ..User::default()
            };
            user.set_role(*role);
            user
        })
        .collect();
    Config {
        system: Some(System {
            users,
            login: Some(Login {
                banner: Some("Members only".to_owned()),
                idle_timeout: None,
            }),
            ssh_server: Some(SshServer {
                listen_addresses: vec![ListenAddress {
                    address: Some("127.0.0.1".to_owned()),
                }],
                port: Some(u32::from(PORT)),
            }),
            ..System::default()
        }),
        ..Config::default()
    }
}

/// TCP ports in this thread's network.
fn listening() -> BTreeSet<u16> {
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|file| {
            let text =
                fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            let ports: Vec<u16> = text
                .lines()
                .skip(1)
                .filter_map(|line| {
                    let words: Vec<&str> = line.split_ascii_whitespace().collect();
                    let port = words.get(1)?.rsplit(':').next()?;
                    (*words.get(3)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
                })
                .collect();
            ports
        })
        .collect()
}

#[test]
#[allow(clippy::too_many_lines, reason = "one list, read from top to bottom")]
fn whatever_is_asked_for_the_command_line_is_what_runs() {
    let gateway = Gateway::begin();
    let marker = gateway.at("seen/marker").display().to_string();
    let touch = format!("touch {marker}");
    let long = "x".repeat(100_000);
    for (name, _) in USERS {
        // Commands: all of them are words for the command line, none of them starts anything.
        let commands = [
            "show configuration".to_owned(),
            "sh".to_owned(),
            format!("; {touch}"),
            format!("$({touch})"),
            format!("`{touch}`"),
            format!("| {touch}"),
            format!("&& {touch}"),
            format!("show\n{touch}\n"),
            format!("!{touch}"),
            format!("() {{ :;}}; {touch}"),
            format!("> {marker}"),
            format!("\"; {touch}; \""),
            format!("'; {touch}; '"),
            "--principal alice".to_owned(),
            "-c sh".to_owned(),
            "/usr/lib/openssh/sftp-server".to_owned(),
            format!("scp -t {marker}"),
            format!("rsync --server . {marker}"),
            long.clone(),
        ];
        for command in &commands {
            let output = gateway.ssh(name, &[], &[command]);
            assert_eq!(
                output.status.code(),
                Some(WITNESS),
                "{command}: {output:?}\n{}",
                gateway.log()
            );
            assert_eq!(gateway.witnessed(name), 1, "{command}");
        }

        // A terminal, with a type that is a path; variables that are asked for in both ways; an agent; a display.
        let socket = format!("{}/agent", gateway.place.path().display());
        let options: [&[&str]; 5] = [
            &["-tt"],
            &[
                "-o",
                "SetEnv=LD_PRELOAD=/nowhere.so BASH_ENV=/nowhere ENV=/nowhere LANG=x",
            ],
            &["-o", "SendEnv=LD_* LC_* TERMINFO"],
            &["-o", &format!("ForwardAgent={socket}")],
            &["-Y", "-o", "ForwardX11Trusted=yes"],
        ];
        for options in options {
            let output = gateway
                .client("ssh", name)
                .args(options)
                .args(["culvert@127.0.0.1", "show"])
                .env("TERM", "../../../etc/passwd")
                .env("TERMINFO", "/nowhere")
                .env("DISPLAY", ":9")
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                Some(WITNESS),
                "{options:?}: {output:?}"
            );
            assert_eq!(gateway.witnessed(name), 1, "{options:?}");
        }

        // Doors: none of them opens, and no command runs behind one.
        let doors: [(&[&str], &[&str]); 8] = [
            (&["-s"], &["sftp"]),
            (&["-s"], &["netconf"]),
            (&["-W", &format!("127.0.0.1:{PORT}")], &[]),
            (
                &[
                    "-N",
                    "-o",
                    "ExitOnForwardFailure=yes",
                    "-R",
                    "127.0.0.1:4444:127.0.0.1:1",
                ],
                &[],
            ),
            (&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "4445"], &[]),
            (
                &[
                    "-N",
                    "-o",
                    "ExitOnForwardFailure=yes",
                    "-R",
                    &format!("{marker}:127.0.0.1:1"),
                ],
                &[],
            ),
            (&["-N", "-o", "ExitOnForwardFailure=yes", "-w", "7:7"], &[]),
            (
                &[
                    "-o",
                    "PubkeyAuthentication=no",
                    "-o",
                    "PreferredAuthentications=password,keyboard-interactive,hostbased,none",
                ],
                &["show"],
            ),
        ];
        for (options, words) in doors {
            let output = gateway.ssh(name, options, words);
            assert!(!output.status.success(), "{options:?}: {output:?}");
            assert_ne!(output.status.code(), Some(124), "{options:?} stays open");
            assert_eq!(gateway.witnessed(name), 0, "{options:?}");
        }

        // Files, by both protocols.
        for protocol in ["-O", "-s"] {
            let output = gateway
                .client("scp", name)
                .args([
                    protocol,
                    "/etc/hostname",
                    &format!("culvert@127.0.0.1:{marker}"),
                ])
                .output()
                .unwrap();
            assert!(!output.status.success(), "{protocol}: {output:?}");
            gateway.witnessed(name);
        }

        // Other accounts, and a key that nobody has.
        for (key, account) in [(name, "root"), (name, "nobody"), ("mallory", "culvert")] {
            let output = gateway
                .client("ssh", key)
                .args([&format!("{account}@127.0.0.1"), "show"])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(255), "{account}: {output:?}");
            assert_eq!(gateway.witnessed(name), 0);
        }

        // A second channel of a connection that is open already.
        let control = gateway.at("control").display().to_string();
        let master = gateway.ssh(name, &["-M", "-S", &control, "-f", "-N"], &[]);
        assert!(master.status.success(), "{master:?}");
        for command in ["show", &touch] {
            let output = gateway.ssh(name, &["-S", &control], &[command]);
            assert_eq!(output.status.code(), Some(WITNESS), "{output:?}");
            assert_eq!(gateway.witnessed(name), 1);
        }
        let opened = gateway.ssh(
            name,
            &["-S", &control, "-O", "forward", "-R", "4446:127.0.0.1:1"],
            &[],
        );
        assert!(!opened.status.success(), "{opened:?}");
        gateway.witnessed(name);
        gateway.ssh(name, &["-S", &control, "-O", "exit"], &[]);
    }

    // The banner is before all; who is removed does not come in again, and sshd needs no word of it.
    let shown = gateway
        .client("ssh", "carol")
        .args(["-v", "culvert@127.0.0.1", "show"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&shown.stderr).contains("Members only"),
        "{shown:?}"
    );
    assert_eq!(gateway.witnessed("carol"), 1);
    Writer::new(&gateway.at("root"))
        .write(&config(gateway.place.path(), &USERS[..2]))
        .unwrap();
    assert_eq!(
        gateway.ssh("carol", &[], &["show"]).status.code(),
        Some(255)
    );
    assert_eq!(
        gateway.ssh("bob", &[], &["show"]).status.code(),
        Some(WITNESS)
    );
    assert_eq!(gateway.witnessed("bob"), 1);
}
