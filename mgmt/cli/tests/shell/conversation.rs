//! On a terminal: completion, help, history, pages, Ctrl-C, Ctrl-D, Ctrl-Z, questions.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use culvert_model::api::{self, commit_reply::Outcome, edit};

use super::fake::Fake;
use super::terminal::Terminal;

const TAB: &str = "\t";
const UP: &str = "\x1b[A";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";
/// Where there is no prompt: keys are read from here on. Before, Ctrl-C is a signal, and takes what was typed with it.
const READS: &str = "\x1b[?2004h";

fn open(fake: &Fake) -> Terminal {
    let mut terminal = Terminal::open(fake.path(), |_| {});
    terminal.prompt();
    terminal
}

/// In configuration mode.
fn configure(fake: &Fake) -> Terminal {
    let mut terminal = open(fake);
    terminal.change("configure");
    terminal
}

#[test]
fn tab_completes_keywords_names_and_values() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press(&format!("conf{TAB}"));
    terminal.read_to("configure ");
    terminal.press("\r");
    assert!(terminal.configuration_prompt().contains("[edit]"));
    // One way on is taken.
    terminal.press(&format!("se{TAB}"));
    terminal.read_to("set ");
    terminal.press(&format!("int{TAB}"));
    terminal.read_to("interfaces ");
    // Several are listed, with what they are, and the line goes on.
    terminal.press(TAB);
    let list = terminal.configuration_prompt();
    for text in [
        "lan0",
        "the office",
        "wan0",
        "the uplink",
        "<name of an interface>",
        "what it is called",
    ] {
        assert!(list.contains(text), "{list}");
    }
    terminal.read_to("set interfaces ");
    terminal.press(&format!("w{TAB}"));
    terminal.read_to("wan0 ");
    terminal.press(&format!("m{TAB}"));
    terminal.read_to("mtu ");
    // What is one's own to write is said, not inserted.
    terminal.press(TAB);
    assert!(terminal.configuration_prompt().contains("<68..9216 bytes>"));
    terminal.read_to("set interfaces wan0 mtu ");
    terminal.press(&format!("14{TAB}"));
    terminal.read_to("<68..9216 bytes>");
    terminal.configuration_prompt();
    terminal.read_to("set interfaces wan0 mtu 14");
    terminal.press("00\r");
    terminal.configuration_prompt();
    assert_eq!(fake.set(), ["interfaces wan0 mtu 1400"]);
}

#[test]
fn a_question_mark_says_what_can_come_next() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("?");
    let list = terminal.prompt();
    for text in [
        "configure",
        "change the configuration",
        "show",
        "rollback",
        "exit",
    ] {
        assert!(list.contains(text), "{list}");
    }
    terminal.press("show routes ?");
    let list = terminal.prompt();
    for text in ["vrf", "prefix", "limit", "<return>"] {
        assert!(list.contains(text), "{list}");
    }
    terminal.read_to("show routes ");
    terminal.press("| ?");
    let list = terminal.prompt();
    assert!(list.contains("match") && list.contains("no-more"), "{list}");
    // Within quotes it is a character.
    terminal.read_to("show routes | ");
    terminal.press("match \"vrfs?\" | count\r");
    assert!(terminal.prompt().contains("1 lines"));
}

#[test]
fn places_are_gone_about_in() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    assert!(
        terminal
            .change("edit interfaces wan0")
            .contains("[edit interfaces wan0]")
    );
    terminal.change("set mtu 1400");
    assert_eq!(fake.state().edits[0].at, ["interfaces", "wan0"]);
    terminal.press(&format!("set m{TAB}"));
    terminal.read_to("mtu ");
    terminal.press(CTRL_C);
    terminal.configuration_prompt();
    assert!(terminal.change("up").contains("[edit interfaces]"));
    assert!(terminal.change("edit wan0 mtu").contains("this is a value"));
    assert!(
        terminal
            .change("edit wrong")
            .contains("is \"right\" meant?")
    );
    assert!(terminal.change("top").contains("[edit]"));
    terminal.change("rename interfaces wan0 to wan1");
    terminal.change("copy interfaces wan1 to \"wan 2\"");
    terminal.change("show interfaces wan0");
    let state = fake.state();
    let Some(edit::Change::Rename(moved)) = &state.edits[1].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(
        (moved.from.join(" "), moved.to.join(" ")),
        ("interfaces wan0".into(), "wan1".into())
    );
    let Some(edit::Change::Copy(moved)) = &state.edits[2].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(moved.to, ["wan 2"]);
    assert_eq!(state.gets.last().unwrap().at, ["interfaces", "wan0"]);
}

#[test]
fn an_error_points_at_the_word() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    let prompt = "ada@branch# ".len();
    let answer = terminal.change("set interfaces wrong mtu 1");
    let arrow = answer
        .lines()
        .find(|line| line.trim() == "^")
        .expect(&answer);
    assert_eq!(arrow.find('^'), Some(prompt + "set interfaces ".len()));
    assert!(answer.contains("is \"right\" meant?"), "{answer}");
    let answer = terminal.change("commit confirmed 9999");
    let arrow = answer
        .lines()
        .find(|line| line.trim() == "^")
        .expect(&answer);
    assert_eq!(arrow.find('^'), Some(prompt + "commit confirmed ".len()));
    assert!(
        answer.contains("MINUTES is a number from 1 to 1440"),
        "{answer}"
    );
    assert!(
        terminal
            .change("configure")
            .contains("for operational mode")
    );
    assert!(fake.state().commits.is_empty());
}

#[test]
fn lines_are_remembered_but_secrets_never() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    terminal.change("set interfaces wan0 mtu 1400");
    terminal.change("set credentials pre_shared_keys hq secret hunter2");
    terminal.change("set credentials pre_shared_keys hq \"secret\" 'hunter2");
    assert_eq!(fake.set().len(), 2);
    // The one before is the last that is known.
    terminal.press(UP);
    terminal.read_to("mtu 1400");
    terminal.press("\r");
    terminal.read_to("[edit]");
    terminal.configuration_prompt();
    assert_eq!(fake.set()[2], "interfaces wan0 mtu 1400");
    terminal.change("discard");
    terminal.press("exit\r");
    terminal.prompt();
    terminal.press("exit\r");
    assert!(terminal.end().1);
    let file = fake.path().join("var/cli/history-ada");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(
        kept.contains("mtu 1400") && !kept.contains("hunter2"),
        "{kept}"
    );
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o077,
        0
    );
    // In the next session, too.
    let mut terminal = open(&fake);
    terminal.press(&format!("{UP}{UP}{UP}"));
    terminal.read_to("discard");
}

#[test]
fn long_answers_come_a_page_at_a_time() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("show neighbours\r");
    let page = terminal.read_to("-- more --");
    assert!(
        page.contains("interface 22 ") && !page.contains("interface 23 "),
        "{page}"
    );
    terminal.press(" ");
    let page = terminal.read_to("-- more --");
    assert!(
        page.contains("interface 45 ") && !page.contains("interface 46 "),
        "{page}"
    );
    terminal.press("\r");
    let page = terminal.read_to("-- more --");
    assert!(
        page.contains("interface 46 ") && !page.contains("interface 47 "),
        "{page}"
    );
    terminal.press("q");
    let rest = terminal.prompt();
    assert!(!rest.contains("interface 47 "), "{rest}");
    terminal.press("show neighbours\r");
    terminal.read_to("-- more --");
    terminal.press("G");
    assert!(terminal.prompt().contains("interface 100 "));
    assert!(
        terminal
            .ask("show neighbours | no-more")
            .contains("interface 100 ")
    );
    assert!(
        terminal
            .ask("show neighbours | last 3")
            .contains("interface 98 ")
    );
    // A larger window has it all.
    terminal.resize(120, 80);
    assert!(terminal.ask("show neighbours").contains("interface 100 "));
    terminal.resize(10, 80);
    terminal.press("show neighbours\r");
    let page = terminal.read_to("-- more --");
    assert!(
        page.contains("interface 8 ") && !page.contains("interface 9 "),
        "{page}"
    );
    terminal.press(CTRL_C);
    terminal.prompt();
}

#[test]
fn ctrl_c_ends_what_runs_and_ctrl_d_the_session() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    // A line that is being written.
    terminal.press(&format!("show rou{CTRL_C}"));
    terminal.prompt();
    // A command that takes its time.
    terminal.press("show nodes\r");
    terminal.interrupt();
    terminal.prompt();
    terminal.press("show ike\r");
    terminal.read_to("hq-1");
    terminal.prompt();
    terminal.press(CTRL_D);
    assert!(terminal.end().1);
}

#[test]
fn ctrl_z_and_quit_do_nothing() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press(&format!("show{CTRL_Z} i\x1cke\r"));
    assert!(terminal.prompt().contains("hq-1"));
    terminal.press("show nodes\r");
    std::thread::sleep(Duration::from_millis(300));
    terminal.press(&format!("{CTRL_Z}\x1c"));
    std::thread::sleep(Duration::from_millis(300));
    terminal.interrupt();
    terminal.prompt();
}

#[test]
fn leaving_with_changes_asks() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    terminal.change("set interfaces wan0 mtu 1400");
    terminal.press("exit\r");
    terminal.read_to("[no] ");
    terminal.press("\r");
    assert!(
        terminal
            .configuration_prompt()
            .contains("still in configuration mode")
    );
    terminal.press(CTRL_D);
    terminal.read_to("[no] ");
    terminal.press("keep\r");
    assert!(terminal.prompt().contains("configure candidate c1"));
    assert!(fake.state().discards.is_empty());
    assert!(
        terminal
            .ask("configure candidate gone")
            .contains("there is no candidate gone")
    );
    terminal.change("configure candidate c1");
    assert_eq!(fake.state().opens.last().unwrap().candidate, "c1");
    terminal.press("quit\r");
    terminal.read_to("[no] ");
    terminal.press("yes\r");
    assert!(terminal.end().1);
    assert!(!fake.state().discards[0].keep);
}

#[test]
fn others_are_told_about() {
    let fake = Fake::start();
    fake.state().others.push(api::Candidate {
        id: "c9".into(),
        principal: "bob".into(),
        base: 6,
        idle_seconds: 65,
        exclusive: true,
    });
    let mut terminal = open(&fake);
    let answer = terminal.change("configure exclusive");
    assert!(
        answer.contains(
            "bob has a candidate, too: c9 on revision 6, last used 1 min 5 s ago, exclusive"
        ),
        "{answer}"
    );
    assert!(fake.state().opens[0].exclusive);
}

#[test]
fn a_commit_says_what_came_of_it() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    fake.next_outcome(Outcome::Applied, |_| {});
    let answer = terminal.change("commit confirmed 5 comment \"try it\"");
    assert!(
        answer.contains(
            "applied: revision 8; it is taken back in 5 min unless `confirm` or `commit` follows"
        ),
        "{answer}"
    );
    fake.next_outcome(Outcome::Pending, |reply| {
        reply.waiting.push(api::Waiting {
            key: "route/default/10.0.0.0/8".into(),
            standing: "pending".into(),
            reason: "waits for link/wan9".into(),
            origins: vec!["routes[default,10.0.0.0/8]".into()],
        });
    });
    let answer = terminal.change("commit");
    assert!(
        answer.contains("1 value wait for") && answer.contains("waits for link/wan9"),
        "{answer}"
    );
    fake.next_outcome(Outcome::Conflict, |reply| {
        reply.conflicts.push(api::Conflict {
            path: "interfaces[wan0].mtu".into(),
            theirs: Some("1300".into()),
            ours: Some("1400".into()),
            author: "bob".into(),
            revision: 9,
            unix_ms: 1_735_689_600_000,
        });
    });
    let answer = terminal.change("commit");
    assert!(
        answer.contains(
            "interfaces[wan0].mtu: 1300 by bob in revision 9 at 2025-01-01T00:00:00Z, 1400 here"
        ),
        "{answer}"
    );
    fake.next_outcome(Outcome::Reverted, |reply| {
        reply.problems.push(api::Problem {
            path: "interfaces[wan0]".into(),
            message: "the driver refuses".into(),
            ..api::Problem::default()
        });
    });
    let answer = terminal.change("commit");
    assert!(
        answer.contains("reverted: the old configuration is back as revision 8"),
        "{answer}"
    );
    assert!(
        answer.contains("interfaces[wan0]: the driver refuses"),
        "{answer}"
    );
    fake.next_outcome(Outcome::Checked, |reply| {
        reply.changes.push(api::PlannedChange {
            key: "route/x".into(),
            verb: "create".into(),
        });
        reply.interrupts.push("the SAs of hq are made again".into());
    });
    let answer = terminal.change("commit check");
    assert!(
        answer.contains("create  route/x") && answer.contains("! the SAs of hq"),
        "{answer}"
    );
    terminal.press("commit and-quit\r");
    terminal.prompt();
    let state = fake.state();
    assert_eq!(
        (
            state.commits[0].confirm_seconds,
            state.commits[0].comment.as_str()
        ),
        (300, "try it")
    );
    assert_eq!(state.commits[1].confirm_seconds, 0);
    assert!(state.commits[4].check && !state.commits[3].check);
}

#[test]
fn what_cuts_one_off_is_asked_about() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    let danger = |reply: &mut api::CommitReply| {
        reply.problems.push(api::Problem {
            path: "interfaces[lan0]".into(),
            message: "you came by this address".into(),
            ..api::Problem::default()
        });
    };
    fake.next_outcome(Outcome::Dangerous, danger);
    terminal.press("commit\r");
    let question = terminal.read_to("[no] ");
    assert!(question.contains("you came by this address"), "{question}");
    terminal.press("\r");
    assert!(
        terminal
            .configuration_prompt()
            .contains("nothing is changed")
    );
    fake.next_outcome(Outcome::Dangerous, danger);
    terminal.press("commit\r");
    terminal.read_to("[no] ");
    terminal.press("yes\r");
    assert!(terminal.configuration_prompt().contains("applied"));
    let confirmed: Vec<bool> = fake
        .state()
        .commits
        .iter()
        .map(|commit| commit.confirmed)
        .collect();
    assert_eq!(confirmed, [false, false, true]);
}

#[test]
fn a_plain_commit_confirms() {
    let fake = Fake::start();
    fake.state().probation = true;
    let mut terminal = configure(&fake);
    assert!(
        terminal
            .change("status")
            .contains("on probation: taken back in 1 min 30 s")
    );
    fake.next_outcome(Outcome::Unchanged, |_| {});
    assert!(
        terminal
            .change("commit")
            .contains("revision 7 is confirmed")
    );
    fake.next_outcome(Outcome::Unchanged, |_| {});
    assert!(terminal.change("commit").contains("what runs is the same"));
    assert!(
        terminal
            .change("confirm")
            .contains("no revision is on probation")
    );
    assert_eq!(fake.state().confirms, 1);
}

#[test]
fn revisions_come_back() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("rollback 1\r");
    let question = terminal.read_to("[no] ");
    assert!(
        question.contains("1 changes lead back to revision 6"),
        "{question}"
    );
    terminal.press("yes\r");
    assert!(terminal.prompt().contains("applied: revision 8"));
    assert!(
        terminal
            .ask("rollback 5")
            .contains("there are 3 revisions only")
    );
    terminal.change("configure");
    assert!(
        terminal
            .change("rollback revision 4")
            .contains("the candidate is as revision 4 was")
    );
    assert!(
        terminal
            .change("compare rollback 2")
            .contains("+ interfaces wan0 mtu 1400")
    );
    let state = fake.state();
    let rollbacks: Vec<_> = state
        .edits
        .iter()
        .filter_map(|request| match request.edits[0].change {
            Some(edit::Change::Rollback(number)) => Some(number),
            _ => None,
        })
        .collect();
    assert_eq!(rollbacks, [6, 4]);
    assert_eq!(state.commits[0].comment, "back to revision 6");
}

#[test]
fn revisions_are_pinned_and_let_go() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    let answer = terminal.ask("pin revision 4");
    assert!(
        answer.contains("revision 4 stays until `pin revision 4 off`"),
        "{answer}"
    );
    assert_eq!(fake.state().pinned, [4]);
    let list = terminal.ask("show configuration revisions");
    assert!(
        list.contains("[pinned] comment 4") && !list.contains("[pinned] comment 6"),
        "{list}"
    );
    assert!(
        terminal
            .ask("pin revision 5")
            .contains("there is no revision 5")
    );
    let answer = terminal.ask("pin revision 4 off");
    assert!(answer.contains("revision 4 may go"), "{answer}");
    assert_eq!(fake.state().pinned, [0; 0]);
    // The rest of the line is asked for.
    terminal.press("pin revision ?");
    let list = terminal.prompt();
    assert!(list.contains("its number"), "{list}");
}

#[test]
fn a_text_is_typed_in() {
    let fake = Fake::start();
    let mut terminal = configure(&fake);
    terminal.press("load merge terminal\r");
    terminal.read_to("Ctrl-D");
    terminal.read_to(READS);
    terminal.press(&format!(
        "set interfaces wan0 mtu 1400\rset credentials pre_shared_keys hq secret hunter2\r{CTRL_D}"
    ));
    assert!(terminal.configuration_prompt().contains("loaded"));
    // Given up.
    terminal.press("load override terminal\r");
    terminal.read_to("Ctrl-D");
    terminal.read_to(READS);
    terminal.press(&format!("set x\r{CTRL_C}"));
    assert!(terminal.configuration_prompt().contains("stopped waiting"));
    let state = fake.state();
    assert_eq!(state.edits.len(), 1);
    let Some(edit::Change::Load(load)) = &state.edits[0].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(
        load.text,
        "set interfaces wan0 mtu 1400\nset credentials pre_shared_keys hq secret hunter2\n"
    );
    let kept = std::fs::read_to_string(fake.path().join("var/cli/history-ada")).unwrap();
    assert!(!kept.contains("hunter2"), "{kept}");
}

#[test]
fn keys_may_come_before_they_are_asked_for() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    // As a paste comes from a terminal that does not mark it.
    terminal.press(
        "configure\rset a 1\rset b 2\rload merge terminal\rset c\tx ?\r.\rset d 4\rcommit and-quit\rexit\r",
    );
    assert!(terminal.end().1);
    assert_eq!(fake.set(), ["a 1", "b 2", "d 4"]);
    let state = fake.state();
    let Some(edit::Change::Load(load)) = &state.edits[2].edits[0].change else {
        panic!("{:?}", state.edits);
    };
    assert_eq!(load.text, "set c\tx ?\n");
    assert_eq!(state.commits.len(), 1);
}

#[test]
fn a_passphrase_is_asked_for_twice_and_never_seen() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("save terminal with-secrets\r");
    terminal.read_to("Passphrase, at least 12 characters: ");
    terminal.press("a canary in the terminal\r");
    terminal.read_to("The same again: ");
    terminal.press("a canary in the termina\r");
    let text = terminal.prompt();
    assert!(text.contains("not the same"), "{text}");
    terminal.press("save terminal with-secrets\r");
    terminal.read_to("characters: ");
    terminal.press("a canary in the terminal\r");
    let first = terminal.read_to("The same again: ");
    terminal.press("a canary in the terminal\r");
    let second = terminal.prompt();
    assert!(second.contains("BEGIN CULVERT SEALED"), "{second}");
    for text in [first, second] {
        assert!(!text.contains("canary") && !text.contains("can"), "{text}");
    }
    assert_eq!(
        fake.state().exports[0].passphrase,
        "a canary in the terminal"
    );
    // What is typed next is seen again.
    let text = terminal.ask("show interfacez");
    assert!(text.contains("interfacez"), "{text}");
    terminal.press("exit\r");
    terminal.end();
    let history = std::fs::read_to_string(fake.path().join("var/cli/history-ada")).unwrap();
    assert!(
        history.contains("with-secrets") && !history.contains("canary"),
        "{history}"
    );
}

#[test]
fn a_commit_can_be_left_alone() {
    let fake = Fake::start();
    fake.state().delay = Duration::from_mins(10);
    let mut terminal = configure(&fake);
    terminal.press("commit\r");
    terminal.read_to("committing");
    terminal.interrupt();
    terminal.configuration_prompt();
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let fake = Fake::start();
    let changed = |terminal: &mut Terminal| {
        terminal.change("configure");
        terminal.change("set interfaces wan0 mtu 1400");
        terminal.change("compare")
    };
    let green = "\x1b[32m+ interfaces wan0 mtu 1400";
    let mut coloured = Terminal::open(fake.path(), |command| {
        command.env_remove("NO_COLOR");
    });
    coloured.read_to("> ");
    coloured.press("configure\r");
    coloured.read_to("# ");
    coloured.press("set interfaces wan0 mtu 1400\r");
    coloured.read_to("[edit]");
    coloured.read_to("# ");
    coloured.press("compare\r");
    coloured.read_to(green);
    drop(coloured);
    let mut plain = open(&fake);
    let answer = changed(&mut plain);
    assert!(
        answer.contains("+ interfaces wan0 mtu 1400") && !answer.contains("\x1b[3"),
        "{answer}"
    );
    // One that knows nothing but lines.
    let mut dumb = Terminal::open(fake.path(), |command| {
        command.env_remove("NO_COLOR").env("TERM", "dumb");
    });
    assert!(!dumb.prompt().contains('\x1b'));
    let answer = changed(&mut dumb);
    assert!(
        answer.contains("+ interfaces wan0 mtu 1400") && !answer.contains('\x1b'),
        "{answer}"
    );
    let list = dumb.change("set interfaces ?");
    assert!(list.contains("lan0"), "{list}");
    assert!(!dumb.change("show").contains('\x1b'));
}

#[test]
fn nobody_there_ends_it() {
    let fake = Fake::start();
    let began = Instant::now();
    let mut terminal = Terminal::open(fake.path(), |command| {
        command.args(["--idle-timeout", "2"]);
    });
    terminal.prompt();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        terminal.press("x");
    }
    // Keys kept it awake.
    terminal.press(CTRL_C);
    terminal.prompt();
    let (rest, well) = terminal.end();
    assert!(well && rest.contains("nobody was here for 2 s"), "{rest}");
    assert!(began.elapsed() >= Duration::from_millis(4 * 700 + 2000));
}

#[test]
fn what_goes_on_without_an_end_ends_with_ctrl_c() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("monitor log dataplane\r");
    terminal.read_to("line 3\r\n");
    terminal.press(CTRL_C);
    terminal.prompt();
    assert!(fake.state().logs[0].follow);
    // The summary is said all the same.
    terminal.press("ping 192.0.2.9 count 10000\r");
    terminal.read_to("seq 2, 1.500 ms");
    terminal.press(CTRL_C);
    let rest = terminal.prompt();
    assert!(
        rest.contains(" sent, ") && !rest.contains("stopped waiting"),
        "{rest}"
    );
    terminal.press("monitor neighbours\r");
    assert!(terminal.prompt().contains("not known here"));
    terminal.press("monitor ike every 1\r");
    terminal.read_to("hq-1");
    terminal.read_to("hq-1");
    terminal.press(CTRL_C);
    terminal.prompt();
}

#[test]
fn a_restart_asks_first() {
    let fake = Fake::start();
    let mut terminal = open(&fake);
    terminal.press("restart charon\r");
    terminal.read_to("every tunnel is negotiated anew");
    terminal.read_to("[no] ");
    terminal.press("\r");
    assert!(terminal.prompt().contains("nothing was restarted"));
    assert!(fake.state().restarts.is_empty());
    terminal.press("restart charon\r");
    terminal.read_to("[no] ");
    terminal.press("yes\r");
    assert!(terminal.prompt().contains("charon restarts"));
    terminal.press("restart mgmt force\r");
    terminal.prompt();
    assert_eq!(fake.state().restarts, ["charon", "mgmt"]);
    // A capture file is for no terminal.
    assert!(
        terminal
            .ask("capture drops | display pcapng")
            .contains("pcapng is no text")
    );
    assert!(fake.state().captures.is_empty());
}

#[test]
fn lines_are_remembered_where_nothing_can_be_written() {
    let fake = Fake::start();
    // As the account that people log in as finds it: there is no place for a file.
    std::fs::write(fake.path().join("var"), "").unwrap();
    let mut terminal = open(&fake);
    terminal.ask("show ike");
    terminal.press(UP);
    terminal.read_to("show ike");
    terminal.press("\r");
    assert!(terminal.prompt().contains("hq-1"));
}
