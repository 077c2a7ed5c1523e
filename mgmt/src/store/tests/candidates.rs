//! Candidates beside commits: what a session goes on from.

use std::time::Duration;

use super::super::*;
use super::{at, commit, committed_by, new_revision, number, place};

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn sealed_bytes(store: &Store, session: &SessionId) -> u64 {
    store
        .connection
        .query_row(
            "SELECT length(sealed) FROM candidates WHERE session = ?1",
            [session.as_str()],
            |row| row.get(0),
        )
        .unwrap()
}

#[test]
fn a_committed_candidate_begins_anew_with_its_revision() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = Store::open(&path).unwrap().store;
    let (one, two) = (session("one"), session("two"));
    let base = commit(&mut store, b"base").number;
    for session in [&one, &two] {
        store
            .save_candidate(session, "ann", Some(base), &[7; 5000], &[], &at(1))
            .unwrap();
    }
    // What is refused leaves it as it was.
    let stale = committed_by(&one, None, b"stale");
    assert!(matches!(
        store.commit(stale, None, &at(2)),
        Err(StoreError::Moved { .. })
    ));
    assert_eq!(store.candidate(&one).unwrap().content, [7; 5000]);
    let second = store
        .commit(committed_by(&one, Some(base), b"second"), None, &at(3))
        .unwrap()
        .number;
    // A nonce and a tag: the content is not there twice.
    assert_eq!(sealed_bytes(&store, &one), 28);
    let window = Duration::from_mins(1);
    let third = committed_by(&two, Some(second), b"third");
    store.commit_confirmed(third, window, None, &at(4)).unwrap();
    let check = |store: &Store| {
        for (session, number, content, seconds) in
            [(&one, 2, &b"second"[..], 3), (&two, 3, b"third", 4)]
        {
            let found = store.candidate(session).unwrap();
            assert_eq!(found.content, content);
            assert_eq!(found.secrets, new_revision(None, b"").secrets);
            assert_eq!(found.info.base.map(RevisionNumber::get), Some(number));
            assert_eq!(found.info.principal, "ann");
            assert_eq!(
                (found.info.created, found.info.last_used),
                (at(1).wall, at(seconds))
            );
        }
    };
    check(&store);
    store.rotate_key().unwrap();
    store.rotate_key().unwrap();
    check(&store);
    drop(store);
    let Opened {
        mut store,
        condition,
    } = Store::open(&path).unwrap();
    assert_eq!(condition, Condition::Sound);
    check(&store);
    // It goes on from there.
    store
        .save_candidate(&one, "ann", Some(second), b"", &[], &at(5))
        .unwrap();
    assert_eq!(store.candidate(&one).unwrap().content, b"");
    // A session that is gone comes not back.
    store.discard_candidate(&two).unwrap();
    let parent = Some(number(3));
    store
        .commit(committed_by(&two, parent, b"fourth"), None, &at(6))
        .unwrap();
    assert!(matches!(
        store.candidate(&two),
        Err(StoreError::NoSuchCandidate(_))
    ));
}

#[test]
fn what_a_committed_candidate_begins_with_stays_and_what_it_began_with_goes() {
    let place = place();
    let limits = Limits {
        revisions: 3,
        ..Limits::default()
    };
    let path = place.path().join("mgmt");
    let mut store = Store::open_with(&path, limits).unwrap().store;
    let one = session("one");
    let base = commit(&mut store, b"base").number;
    store
        .save_candidate(&one, "ann", Some(base), b"typed", &[], &at(1))
        .unwrap();
    store
        .commit(committed_by(&one, Some(base), b"mine"), None, &at(2))
        .unwrap();
    for step in 0..9_u8 {
        commit(&mut store, &[step]);
    }
    let left: Vec<u64> = store
        .list(..)
        .unwrap()
        .iter()
        .map(|revision| revision.number.get())
        .collect();
    assert_eq!(left, [2, 10, 11]);
    assert_eq!(store.candidate(&one).unwrap().content, b"mine");
}

#[test]
fn nothing_in_the_place_of_a_candidate_is_not_as_its_base() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = Store::open(&path).unwrap().store;
    let (one, two) = (session("one"), session("two"));
    let base = commit(&mut store, b"base").number;
    for session in [&one, &two] {
        store
            .save_candidate(session, "ann", Some(base), b"typed", &[], &at(1))
            .unwrap();
    }
    store
        .commit(committed_by(&one, Some(base), b"mine"), None, &at(2))
        .unwrap();
    for forged in [
        "x''",
        "zeroblob(28)",
        "(SELECT sealed FROM candidates WHERE session = 'one')",
    ] {
        store
            .connection
            .execute(
                &format!("UPDATE candidates SET sealed = {forged} WHERE session = 'two'"),
                [],
            )
            .unwrap();
        candidate::sum_again(&store.connection, &two);
        assert!(
            matches!(
                store.candidate(&two),
                Err(StoreError::SecretUnopened { .. })
            ),
            "{forged}"
        );
    }
}
