//! Without a terminal: a heredoc, a pipe, one command over SSH.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use culvert_model::api::{self, edit};

use super::fake::Fake;

fn shell(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-cli-rehearsal"));
    command
        .arg("--root")
        .arg(root)
        .env_remove("SSH_CONNECTION")
        .env_remove("SSH_ORIGINAL_COMMAND")
        .stdin(Stdio::null());
    command
}

fn lines(command: &mut Command, lines: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have seen enough before the end.
    let _ = stdin.write_all(lines.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// One command of somebody who comes in by sshd.
fn over_ssh(fake: &Fake, command: &str) -> Output {
    shell(fake.path())
        .args(["--principal", "ada"])
        .env("SSH_ORIGINAL_COMMAND", command)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn set_lines_are_sent_together_and_committed() {
    let fake = Fake::start();
    let output = lines(
        shell(fake.path())
            .args(["--principal", "ada"])
            .env("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.2 22"),
        "# the uplink\nset interfaces wan0 mtu 1400\n\nset interfaces \"wan 1\" mtu 1300 # too\ndelete routes\ncommit comment 'new uplink'\n",
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(out(&output), "");
    assert_eq!(err(&output), "applied: revision 8\n");
    let state = fake.state();
    assert_eq!(state.edits.len(), 1, "sent together");
    assert_eq!(state.edits[0].edits.len(), 3);
    assert_eq!(state.commits[0].comment, "new uplink");
    assert_eq!(
        state.caller,
        (
            Some("ada".into()),
            Some("192.0.2.7 50000 192.0.2.2 22".into())
        )
    );
    drop(state);
    assert_eq!(
        fake.set(),
        ["interfaces wan0 mtu 1400", "interfaces wan 1 mtu 1300"]
    );
}

#[test]
fn the_first_mistake_ends_it_and_nothing_is_committed() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "set interfaces wan0 mtu 1400\nset interfaces wrong mtu 1\nset routes x\ncommit\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let text = err(&output);
    assert!(
        text.starts_with("line 2: \"wrong\" is not known here; is \"right\" meant?\n  set interfaces wrong mtu 1\n                 ^\n"),
        "{text}"
    );
    let state = fake.state();
    assert!(state.commits.is_empty());
    assert!(!state.discards[0].keep, "the candidate ends");
    assert_eq!(state.caller, (None, Some("console".into())));
}

#[test]
fn a_line_that_means_nothing_is_named() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "set interfaces wan0 mtu 1400\ncomit\ncommit\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with(
            "line 2: \"comit\" is not known here: is \"commit\" meant?\n  comit\n  ^\n"
        ),
        "{}",
        err(&output)
    );
    assert!(fake.state().commits.is_empty());
}

#[test]
fn changes_without_commit_are_no_success() {
    let fake = Fake::start();
    let output = lines(&mut shell(fake.path()), "set interfaces wan0 mtu 1400\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("1 changes were not committed"),
        "{}",
        err(&output)
    );
    assert_eq!(fake.state().discards.len(), 1);
}

#[test]
fn a_failed_commit_is_no_success() {
    let fake = Fake::start();
    fake.next_outcome(api::commit_reply::Outcome::Refused, |reply| {
        reply.problems.push(api::Problem {
            path: "routes[default,0.0.0.0/0]".into(),
            message: "no next hop".into(),
            ..api::Problem::default()
        });
    });
    let output = lines(&mut shell(fake.path()), "set routes 0.0.0.0/0\ncommit\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with("line 2: routes[default,0.0.0.0/0]: no next hop\n"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_secret_is_never_repeated() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "set credentials pre_shared_keys wrong secret hunter2\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("line 1: \"wrong\" is not known here"));
    assert!(!err(&output).contains("hunter2") && !out(&output).contains("hunter2"));
    // Other users see arguments.
    let output = shell(fake.path())
        .args([
            "--command",
            "set credentials pre_shared_keys hq secret hunter2",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(err(&output).contains("standard input"), "{}", err(&output));
    assert_eq!(fake.state().edits.len(), 1);
}

#[test]
fn a_key_of_several_lines_is_one_word() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "set credentials private_keys k pem \"-----BEGIN\nx\n-----END\"\ncommit\n",
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fake.set(),
        ["credentials private_keys k pem -----BEGIN\nx\n-----END"]
    );
}

#[test]
fn keys_are_made_and_certificates_asked_for_and_shown() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "generate private-key own rsa-3072\ngenerate private-key other\n\
         generate certificate-request key own subject \"CN=a, O=b\" subject-alternative-name \"a.example.com, 192.0.2.7\"\n\
         commit\n",
    );
    assert!(output.status.success(), "{output:?}");
    assert!(
        out(&output).contains("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"),
        "{output:?}"
    );
    let keys: Vec<_> = fake
        .state()
        .keys
        .iter()
        .map(|key| (key.name.clone(), key.algorithm()))
        .collect();
    assert_eq!(
        keys,
        [
            ("own".to_owned(), api::KeyAlgorithm::Rsa3072),
            ("other".to_owned(), api::KeyAlgorithm::EcdsaP256),
        ]
    );
    let state = fake.state();
    let [wish] = &state.wishes[..] else {
        panic!("{:?}", state.wishes);
    };
    assert_eq!(
        (wish.key.as_str(), wish.subject.as_str()),
        ("own", "CN=a, O=b")
    );
    assert_eq!(wish.alternative_names, ["a.example.com", "192.0.2.7"]);
    assert!(matches!(
        wish.source
            .as_ref()
            .and_then(|source| source.which.as_ref()),
        Some(api::source::Which::Candidate(_))
    ));
    drop(state);
    let output = shell(fake.path())
        .args(["--command", "show certificates"])
        .output()
        .unwrap();
    let text = out(&output);
    for part in [
        "branch",
        "CN=authority",
        "2025-01-01T00:00:00Z  own  expired",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
}

#[test]
fn one_command_over_ssh() {
    let fake = Fake::start();
    let ssh = |command: &str| over_ssh(&fake, command);
    let output = ssh("show ipsec | count");
    assert_eq!(
        (out(&output).as_str(), output.status.success()),
        ("2 lines\n", true)
    );
    let output = ssh("show routes vrf blue prefix 10.0.0.0/8 limit 5");
    assert_eq!(out(&output).lines().count(), 6, "{}", out(&output));
    assert!(
        out(&output).contains("blue  10.0.4.0/24"),
        "{}",
        out(&output)
    );
    assert_eq!(err(&output), "");
    let asked = fake.state().shows.last().cloned().unwrap();
    let choice = asked.routes.unwrap();
    assert_eq!(
        (choice.vrf.as_str(), choice.prefix.as_str(), choice.limit),
        ("blue", "10.0.0.0/8", 5)
    );
    let output = ssh("show routes limit 2");
    assert!(
        err(&output).contains("more than 2 routes"),
        "beside the answer: {}",
        err(&output)
    );
    let output = ssh("show ike | display json");
    assert!(
        out(&output).contains("\"connection\": \"hq-1\""),
        "{}",
        out(&output)
    );
    let output = ssh("show version");
    assert!(out(&output).starts_with("Culvert 9.8.7\n"));
    let output = ssh("show drops");
    assert!(!output.status.success());
    assert!(err(&output).contains("the dataplane does not answer"));
    let output = ssh("show configuration revisions 2");
    assert_eq!(
        out(&output),
        "revision  when                  who  by   comment\n\
         7         2025-01-01T00:00:00Z  ada  cli  comment 7\n\
         6         2025-01-01T00:00:00Z  ada  cli  comment 6\n"
    );
    fake.state().zone = "set system time_zone Europe/Zurich\n";
    let output = ssh("show configuration revisions 1");
    assert!(
        out(&output).contains(" 2025-01-01T01:00:00+01:00  ada "),
        "{}",
        out(&output)
    );
    let output = ssh("show audit");
    assert!(err(&output).contains("the audit trail is for operators; ada is read-only"));
}

#[test]
fn programs_are_told_the_same_as_json() {
    let fake = Fake::start();
    fake.state().changes = 1;
    let ssh = |command: &str| over_ssh(&fake, command);
    let told = |command: &str| -> serde_json::Value {
        let by_pipe = out(&ssh(&format!("{command} | display json")));
        let by_option = shell(fake.path())
            .args(["--command", command, "--json"])
            .output()
            .unwrap();
        assert_eq!(out(&by_option), by_pipe);
        serde_json::from_str(&by_pipe).unwrap_or_else(|error| panic!("{command}: {error}"))
    };
    let status = told("show configuration status");
    assert_eq!(
        (&status["revision"], &status["applied"]),
        (&7.into(), &9.into())
    );
    assert!(status["waiting"].as_array().unwrap().is_empty());
    let transactions = told("show configuration transactions");
    assert_eq!(transactions["transactions"][0]["cause"], "revision 7");
    let revisions = told("show configuration revisions 2");
    assert_eq!(revisions["revisions"][1]["comment"], "comment 6");
    let differences = told("show configuration differences");
    assert_eq!(differences["differences"][0]["after"], "1400");
    let output = ssh("show configuration status | display set");
    assert!(
        err(&output).contains("`| display json`"),
        "{}",
        err(&output)
    );
}

#[test]
fn forms_of_a_configuration() {
    let fake = Fake::start();
    let show = |command: &str| {
        out(&shell(fake.path())
            .args(["--command", command])
            .output()
            .unwrap())
    };
    assert_eq!(
        show("show configuration"),
        "interfaces {\n  wan0 {\n    mtu 1400\n  }\n}\n"
    );
    assert_eq!(
        show("show configuration interfaces wan0 | display set | display defaults"),
        "set interfaces wan0 mtu 1400\n"
    );
    assert_eq!(
        show("show configuration | display json"),
        "{ \"interfaces\": [] }\n"
    );
    assert_eq!(
        show("show configuration revision 4 | match mtu"),
        "    mtu 1400\n"
    );
    let state = fake.state();
    assert_eq!(state.gets[1].at, ["interfaces", "wan0"]);
    assert!(state.gets[1].defaults && !state.gets[0].defaults);
    assert_eq!(
        state.gets[3].source.as_ref().unwrap().which,
        Some(api::source::Which::Revision(4))
    );
}

#[test]
fn nothing_reaches_a_shell() {
    let fake = Fake::start();
    let mark = fake.path().join("mark");
    let touch = format!("touch {}", mark.display());
    for attempt in [
        format!("show ike; {touch}"),
        format!("show ike && {touch}"),
        format!("show ike | {touch}"),
        format!("show $({touch})"),
        format!("show `{touch}`"),
        format!("!{touch}"),
        format!("! {touch}"),
        "!sh".to_owned(),
        "/bin/sh".to_owned(),
        "sh -c id".to_owned(),
        "show ike > /tmp/x".to_owned(),
        format!("show ike | match \"`{touch}`\" | {touch}"),
        "scp -t /tmp".to_owned(),
        "internal-sftp".to_owned(),
        "/usr/lib/openssh/sftp-server".to_owned(),
        "\u{1b}!sh".to_owned(),
        format!("configure; {touch}"),
        format!("show ike\n{touch}"),
        format!("load merge {}", mark.display()),
        format!("set interfaces wan0 mtu 1400\nsave {}", mark.display()),
    ] {
        let output = shell(fake.path())
            .args(["--principal", "ada"])
            .env("SSH_ORIGINAL_COMMAND", &attempt)
            .env("PAGER", &touch)
            .env("EDITOR", &touch)
            .env("SHELL", &touch)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{attempt:?}: {output:?}");
        assert!(!mark.exists(), "{attempt:?}");
    }
}

#[test]
fn files_are_for_the_local_administrator() {
    let fake = Fake::start();
    let file = fake.path().join("uplink.set");
    std::fs::write(&file, "set interfaces wan0 mtu 1400\n").unwrap();
    let script = format!("load merge {}\ncommit\n", file.display());
    let output = lines(shell(fake.path()).args(["--principal", "ada"]), &script);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("for its local administrator"),
        "{}",
        err(&output)
    );
    let saved = fake.path().join("saved.json");
    let script = format!(
        "load override {}\nsave {}\ncommit\n",
        file.display(),
        saved.display()
    );
    let output = lines(&mut shell(fake.path()), &script);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        std::fs::read_to_string(&saved).unwrap(),
        "{ \"interfaces\": [] }"
    );
    assert_eq!(
        std::fs::metadata(&saved).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What is there is not written over.
    let output = lines(
        &mut shell(fake.path()),
        &format!("edit interfaces\nsave {}\n", saved.display()),
    );
    assert_eq!(output.status.code(), Some(1));
    let state = fake.state();
    let Some(edit::Change::Load(load)) = &state.edits[0].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(load.text, "set interfaces wan0 mtu 1400\n");
    assert_eq!(load.mode(), api::load::Mode::Override);
    assert_eq!(load.format(), api::Format::Set);
}

#[test]
fn a_text_among_the_lines() {
    let fake = Fake::start();
    let output = lines(
        shell(fake.path()).args(["--principal", "ada"]),
        "load merge terminal\n{ \"interfaces\": [] }\n.\ncommit\n",
    );
    assert!(output.status.success(), "{output:?}");
    let output = lines(
        &mut shell(fake.path()),
        "load merge terminal\nset interfaces\nset wrong\n.\ncommit\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("line 2: that is not right"),
        "{}",
        err(&output)
    );
    let state = fake.state();
    let Some(edit::Change::Load(load)) = &state.edits[0].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(
        (load.text.as_str(), load.format()),
        ("{ \"interfaces\": [] }\n", api::Format::Json)
    );
    assert_eq!(state.commits.len(), 1);
}

#[test]
fn what_is_told_bit_by_bit_goes_through_pipes() {
    let fake = Fake::start();
    let ssh = |command: &str| over_ssh(&fake, command);
    let output = ssh("ping 192.0.2.9 count 4 interval 20 size 100 source 192.0.2.1");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        out(&output),
        "seq 1: 192.0.2.9: host unreachable\n64 bytes from 192.0.2.9: seq 2, 1.500 ms\n\
         seq 3: 192.0.2.9: host unreachable\n64 bytes from 192.0.2.9: seq 4, 1.500 ms\n"
    );
    assert!(
        err(&output).starts_with("4 sent, 2 answered, 50 % lost; round trip 1.500 ms"),
        "{}",
        err(&output)
    );
    let asked = fake.state().pings[0].clone();
    assert_eq!(
        (
            asked.count,
            asked.interval_ms,
            asked.size,
            asked.source.as_str()
        ),
        (4, 20, Some(100), "192.0.2.1")
    );
    let output = ssh("ping 192.0.2.9 count 1");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("100 % lost"), "{}", err(&output));
    let output = ssh("ping 192.0.2.0/24");
    assert!(
        err(&output).contains("an address or a name, for example"),
        "{}",
        err(&output)
    );

    assert_eq!(
        out(&ssh("traceroute 192.0.2.9")),
        " 1  192.0.2.9  0.900 ms\n"
    );
    assert_eq!(
        out(&ssh("show log dataplane | except 2")),
        "line 1\nline 3\n"
    );
    assert_eq!(
        out(&ssh("show log last 7 | count")),
        "3 lines\n",
        "of all of them"
    );
    assert!(out(&ssh("show log")).starts_with("dataplane: line 1\n"));
    assert!(err(&ssh("show log nobody")).contains("has no log"));
    let asked = fake.state().logs[1].clone();
    assert_eq!((asked.process.as_str(), asked.last), ("", 7));

    let output = ssh("capture interface wan0 in filter 'esp and host 192.0.2.1' count 1 for 5");
    assert!(
        out(&output).contains("wan0 in  192.0.2.1 > 192.0.2.2 esp spi 00000100 seq 5, 28 bytes"),
        "{}",
        out(&output)
    );
    assert_eq!(err(&output), "1 packets\n");
    let asked = fake.state().captures[0].clone();
    assert_eq!(
        (asked.filter.as_str(), asked.packets, asked.seconds),
        ("esp and host 192.0.2.1", 1, 5)
    );
    assert_eq!(asked.direction(), api::capture_request::Direction::In);
    let output = ssh("capture drops count 1 | display pcapng");
    assert_eq!(output.stdout[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    assert!(output.stdout.len() > 100);
    let output = ssh("show ike | display pcapng");
    assert!(err(&output).contains("pcapng for `capture`"));
    let output = ssh("trace filter icmp count 1");
    assert!(
        out(&output).contains("ip4-input         -> ip4-lookup"),
        "{}",
        out(&output)
    );
    let output = ssh("trace count 1 | display json");
    assert!(out(&output).starts_with("{\"packet\":1,"));

    let output = ssh("clear neighbours interface lan0");
    assert_eq!(err(&output), "2 neighbours are forgotten\n");
    let output = ssh("restart dataplane");
    assert!(output.status.success());
    assert_eq!(fake.state().restarts, ["dataplane"]);
    let output = ssh("clear ike");
    assert!(err(&output).contains("NAME is expected"));
}

#[test]
fn notes_and_places_are_edits() {
    use api::insertion::Position;
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "deactivate interfaces wan0\nactivate interfaces lan0\nannotate interfaces wan0 mtu comment 'the provider says so'\n\
         insert policies a before b\ninsert policies c last\ncommit\n",
    );
    assert!(output.status.success(), "{output:?}");
    let state = fake.state();
    let edits: Vec<_> = state
        .edits
        .iter()
        .flat_map(|request| &request.edits)
        .collect();
    assert_eq!(edits.len(), 5);
    let Some(edit::Change::Deactivate(words)) = &edits[0].change else {
        panic!("{edits:?}");
    };
    assert_eq!(words.words, ["interfaces", "wan0"]);
    assert!(matches!(&edits[1].change, Some(edit::Change::Activate(_))));
    let Some(edit::Change::Annotate(note)) = &edits[2].change else {
        panic!("{edits:?}");
    };
    assert_eq!(
        (note.words.join(" ").as_str(), note.comment.as_str()),
        ("interfaces wan0 mtu", "the provider says so")
    );
    let Some(edit::Change::Insert(moved)) = &edits[3].change else {
        panic!("{edits:?}");
    };
    assert_eq!(moved.words, ["policies", "a"]);
    let Some(Position::Before(key)) = &moved.position else {
        panic!("{moved:?}");
    };
    assert_eq!(key.words, ["b"]);
    let Some(edit::Change::Insert(moved)) = &edits[4].change else {
        panic!("{edits:?}");
    };
    assert_eq!(moved.position, Some(Position::Last(true)));
}

#[test]
fn without_mgmt_it_says_so() {
    let root = tempfile::tempdir().unwrap();
    for line in ["show ike", "show configuration"] {
        let output = shell(root.path())
            .args(["--command", line])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("is the gateway running?"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn a_reader_that_stops_is_no_mistake() {
    let fake = Fake::start();
    let mut child = shell(fake.path())
        .args(["--command", "show neighbours"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(err(&output), "");
}

const SEALED: &str = "-----BEGIN CULVERT SEALED CONFIGURATION-----\nAAAA\n-----END CULVERT SEALED CONFIGURATION-----\n";
const PASSPHRASE: &str = "pass phrase; 'of' \"this\" box";

#[test]
fn secrets_leave_sealed_and_the_passphrase_is_a_line_of_its_own() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        &format!("save terminal with-secrets\n{PASSPHRASE}\nshow configuration | count\n"),
    );
    assert!(output.status.success(), "{output:?}");
    assert!(out(&output).starts_with(SEALED), "{output:?}");
    assert_eq!(fake.state().exports[0].passphrase, PASSPHRASE);
    // Of a command everybody sees the words: it comes by standard input.
    let output = lines(
        shell(fake.path()).args([
            "--principal",
            "ada",
            "--command",
            "save terminal with-secrets",
        ]),
        &format!("{PASSPHRASE}\n"),
    );
    assert_eq!(out(&output), SEALED, "{output:?}");
    assert_eq!(fake.state().exports[1].passphrase, PASSPHRASE);
    // Over SSH there are no files; without a passphrase there is nothing.
    let output = lines(
        shell(fake.path()).args(["--principal", "ada"]),
        "save x with-secrets\n",
    );
    assert!(
        err(&output).contains("save terminal with-secrets"),
        "{output:?}"
    );
    let output = lines(&mut shell(fake.path()), "save terminal with-secrets\n");
    assert!(err(&output).contains("it takes a passphrase"), "{output:?}");
    assert_eq!(fake.state().exports.len(), 2);
    // A file is written once, and is nobody else's to read.
    let file = fake.path().join("backup");
    let save = format!("save {} with-secrets\n{PASSPHRASE}\n", file.display());
    assert!(lines(&mut shell(fake.path()), &save).status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), SEALED);
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = lines(&mut shell(fake.path()), &save);
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn what_was_saved_with_secrets_comes_back_with_its_passphrase() {
    let fake = Fake::start();
    let file = fake.path().join("backup");
    std::fs::write(&file, SEALED).unwrap();
    for load in [
        format!("load override {}\n", file.display()),
        format!("load override terminal\n{SEALED}.\n"),
    ] {
        let output = lines(
            &mut shell(fake.path()),
            &format!("{load}{PASSPHRASE}\ncommit\n"),
        );
        assert!(output.status.success(), "{output:?}");
    }
    let state = fake.state();
    assert_eq!((state.edits.len(), state.commits.len()), (2, 2));
    for request in &state.edits {
        let Some(edit::Change::Load(load)) = &request.edits[0].change else {
            panic!("not a load");
        };
        assert_eq!(load.format(), api::Format::Sealed);
        assert_eq!(
            (load.text.as_str(), load.passphrase.as_str()),
            (SEALED, PASSPHRASE)
        );
    }
}

#[test]
fn the_key_of_the_store_is_turned() {
    let fake = Fake::start();
    let output = lines(&mut shell(fake.path()), "rotate store-key\n");
    assert!(err(&output).contains("sealed with key 3"), "{output:?}");
    assert!(fake.state().calls.contains(&"rotate_key"));
}

#[test]
fn who_is_unknown_has_no_session() {
    let fake = Fake::start();
    let output = lines(
        shell(fake.path()).args(["--principal", "nobody"]),
        "show system\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "");
    assert!(
        err(&output).contains("no user of this gateway"),
        "{output:?}"
    );
}

#[test]
fn a_program_sends_a_text_of_so_many_bytes_and_reads_what_came_of_it() {
    let fake = Fake::start();
    // A dot alone ends nothing, and the line behind the text is a command again.
    let text = "set interfaces wan0 mtu 1400\n.\nset routes";
    let script = format!(
        "configure\nload override terminal bytes {} | display json\n{text}commit comment pushed | display json\nexit\n",
        text.len()
    );
    let output = lines(&mut shell(fake.path()), &script);
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<serde_json::Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers[0]["outcome"], "loaded");
    assert_eq!(answers[1]["outcome"], "applied");
    assert_eq!(answers[1]["revision"], 8);
    assert_eq!(answers[1]["message"], "applied: revision 8");
    let state = fake.state();
    let Some(edit::Change::Load(load)) = &state.edits[0].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(load.text, text);
    assert_eq!(state.commits[0].comment, "pushed");
}

#[test]
fn a_text_that_breaks_off_is_never_loaded() {
    let fake = Fake::start();
    let output = lines(
        &mut shell(fake.path()),
        "configure\nload override terminal bytes 500\nset interfaces wan0 mtu 1400\ncommit\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("the text ended after 36 of 500 bytes"),
        "{output:?}"
    );
    assert!(fake.state().edits.is_empty() && fake.state().commits.is_empty());
}

#[test]
fn a_program_reads_of_a_refusal_in_the_answer() {
    let fake = Fake::start();
    fake.next_outcome(api::commit_reply::Outcome::Refused, |reply| {
        reply.problems.push(api::Problem {
            path: "interfaces wan0 mtu".to_owned(),
            message: "1 is below 68".to_owned(),
            ..api::Problem::default()
        });
    });
    let output = lines(
        &mut shell(fake.path()),
        "set interfaces wan0 mtu 1\ncommit | display json\nset interfaces wan0 mtu 2\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), "");
    let answer: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(answer["outcome"], "refused");
    assert_eq!(answer["problems"][0]["path"], "interfaces wan0 mtu");
    assert_eq!(fake.state().edits.len(), 1, "nothing is done after it");
    lines(
        &mut shell(fake.path()),
        "set interfaces wan0 mtu 1400\ncommit\n",
    );
    let faces: Vec<_> = fake
        .state()
        .commits
        .iter()
        .map(api::CommitRequest::face)
        .collect();
    assert_eq!(faces, [api::Face::Unspecified, api::Face::CommandLine]);
    // In words alone, or as JSON alone.
    let output = lines(&mut shell(fake.path()), "configure\ncommit | display set\n");
    assert!(err(&output).contains("in words"), "{output:?}");
}
