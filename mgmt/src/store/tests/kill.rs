//! The process is killed in the middle of commits; another one wants the same store.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const PATH: &str = "CULVERT_TEST_STORE";
const THIS: &str = "store::tests::kill::commits_until_it_is_killed";

fn content(number: u64) -> Vec<u8> {
    Random(number).bytes(1 << (number % 16))
}

fn session() -> SessionId {
    SessionId::new("one").unwrap()
}

/// Does nothing unless the test below starts it in a process of its own.
#[test]
fn commits_until_it_is_killed() {
    let Ok(path) = std::env::var(PATH) else {
        return;
    };
    let mut store = Store::open(Path::new(&path)).unwrap().store;
    // Far more than it lives to see.
    for _ in 0..1_000_000 {
        let next = store
            .newest()
            .unwrap()
            .map_or(1, |newest| newest.number.get() + 1);
        assert_eq!(commit(&mut store, &content(next)).number.get(), next);
        println!("acknowledged {next}");
        let base = Some(number(next));
        store
            .save_candidate(&session(), "ann", base, &content(next + 1), &[], &at(1))
            .unwrap();
        println!("typed {next}");
        if next.is_multiple_of(5) {
            store.maintain().unwrap();
        }
        if next.is_multiple_of(17) {
            store.rotate_key().unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut random = Random(1);
    let (mut acknowledged, mut typed) = (0, 0);
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--nocapture", "--test-threads=1"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 10 + random.below(30);
        let mut count = 0;
        while count < enough {
            let line = lines.next().unwrap().unwrap();
            // The harness prints its own words before and on the first line.
            if let Some((_, number)) = line.split_once("acknowledged ") {
                acknowledged = number.parse().unwrap();
                count += 1;
            } else if let Some((_, number)) = line.split_once("typed ") {
                typed = number.parse().unwrap();
            }
        }
        let second = Store::open(&path);
        assert!(matches!(second, Err(StoreError::InUse(_))));
        // Somewhere in its next commits.
        std::thread::sleep(Duration::from_micros(random.next() % 3000));
        child.kill().unwrap();
        child.wait().unwrap();
        // It may have got on before it died; what it managed to say counts, too.
        for line in lines.map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("acknowledged ")
                && let Ok(number) = number.parse()
            {
                acknowledged = number;
            } else if let Some((_, number)) = line.split_once("typed ")
                && let Ok(number) = number.parse()
            {
                typed = number;
            }
        }
        let Opened { store, condition } = Store::open(&path).unwrap();
        assert_eq!(condition, Condition::Sound);
        let list = store.list(..).unwrap();
        let newest = list.last().unwrap().number.get();
        assert!(
            newest == acknowledged || newest == acknowledged + 1,
            "round {round}: {newest} after {acknowledged}"
        );
        // What was typed is there, too, although nothing waited for the disk.
        let candidate = store.candidate(&session()).unwrap();
        let base = candidate.info.base.unwrap().get();
        assert!(
            base == typed || base == typed + 1,
            "round {round}: {base} after {typed}"
        );
        assert_eq!(candidate.content, content(base + 1));
        for revision in list {
            let committed = store.revision(revision.number).unwrap();
            assert_eq!(committed.content, content(revision.number.get()));
            assert_eq!(committed.secrets, new_revision(None, b"").secrets);
        }
    }
}
