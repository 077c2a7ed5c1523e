//! Random operations against a slow, obvious model.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Commit {
        stale: bool,
        size: usize,
        /// It is the candidate's.
        mine: bool,
    },
    CommitConfirmed {
        size: usize,
    },
    Confirm {
        late: bool,
    },
    Expire,
    Again {
        which: usize,
        reverts: bool,
    },
    Pin {
        which: usize,
        pinned: bool,
    },
    Candidate {
        which: usize,
    },
    Discard,
    Maintain,
    Rotate,
    Restart,
    LoseTheDatabase,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        6 => (prop::bool::weighted(0.1), 0..3000_usize, any::<bool>())
            .prop_map(|(stale, size, mine)| Operation::Commit { stale, size, mine }),
        3 => (0..3000_usize).prop_map(|size| Operation::CommitConfirmed { size }),
        2 => any::<bool>().prop_map(|late| Operation::Confirm { late }),
        2 => Just(Operation::Expire),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, reverts)| Operation::Again { which, reverts }),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, pinned)| Operation::Pin { which, pinned }),
        1 => any::<usize>().prop_map(|which| Operation::Candidate { which }),
        1 => Just(Operation::Discard),
        2 => Just(Operation::Maintain),
        1 => Just(Operation::Rotate),
        2 => Just(Operation::Restart),
        1 => Just(Operation::LoseTheDatabase),
    ];
    prop::collection::vec(one, 1..60)
}

fn limits() -> Limits {
    Limits {
        revisions: 6,
        bytes: 12_000,
        pinned: 2,
        exports: 3,
        ..Limits::default()
    }
}

#[derive(Clone, Debug)]
struct Known {
    number: u64,
    content: Vec<u8>,
    bytes: u64,
    confirmed: bool,
    pinned: bool,
}

#[derive(Default)]
struct Model {
    revisions: Vec<Known>,
    newest: u64,
    /// The revision that waits, and where to return to.
    pending: Option<(u64, u64)>,
    candidate: Option<u64>,
    /// What the candidate holds, if there is one.
    typed: Option<Vec<u8>>,
}

impl Model {
    fn confirmed(&self) -> Option<&Known> {
        self.revisions.iter().rfind(|known| known.confirmed)
    }

    fn get(&mut self, number: u64) -> &mut Known {
        self.revisions
            .iter_mut()
            .find(|known| known.number == number)
            .unwrap()
    }

    fn push(&mut self, revision: &Revision, content: Vec<u8>, confirmed: bool) {
        assert_eq!(revision.number.get(), self.newest + 1);
        self.newest += 1;
        self.revisions.push(Known {
            number: self.newest,
            content,
            bytes: revision.bytes,
            confirmed,
            pinned: false,
        });
        let keep = [
            Some(self.newest),
            Some(self.newest - 1),
            self.confirmed().map(|known| known.number),
            self.pending.map(|(waits, _)| waits),
            self.pending.map(|(_, restore)| restore),
            self.candidate,
        ];
        let mut index = 0;
        while (self.revisions.len() > 6
            || self.revisions.iter().map(|known| known.bytes).sum::<u64>() > 12_000)
            && index < self.revisions.len()
        {
            let known = &self.revisions[index];
            if known.pinned || keep.contains(&Some(known.number)) {
                index += 1;
            } else {
                self.revisions.remove(index);
            }
        }
    }

    fn agrees(&self, store: &Store) {
        let list = store.list(..).unwrap();
        let numbers: Vec<u64> = list.iter().map(|revision| revision.number.get()).collect();
        let known: Vec<u64> = self.revisions.iter().map(|known| known.number).collect();
        assert_eq!(numbers, known);
        for (revision, known) in list.iter().zip(&self.revisions) {
            assert_eq!(
                (revision.confirmed, revision.pinned),
                (known.confirmed, known.pinned)
            );
            let committed = store.revision(revision.number).unwrap();
            assert_eq!(committed.content, known.content);
            assert_eq!(committed.secrets, new_revision(None, b"").secrets);
        }
        let running = store.running().unwrap().map(|running| running.content);
        assert_eq!(running, self.confirmed().map(|known| known.content.clone()));
        let pending = store.pending_confirmation(&at(0)).unwrap();
        assert_eq!(
            pending.map(|pending| (pending.revision.get(), pending.restore.get())),
            self.pending
        );
        let session = SessionId::new("one").unwrap();
        match (&self.typed, store.candidate(&session)) {
            (None, Err(StoreError::NoSuchCandidate(_))) => {}
            (Some(typed), Ok(found)) => {
                assert_eq!(found.content, *typed);
                assert_eq!(found.info.base.map(RevisionNumber::get), self.candidate);
                let as_committed = typed != b"typed";
                let secrets = new_revision(None, b"").secrets;
                assert_eq!(found.secrets == secrets, as_committed);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[allow(clippy::too_many_lines)] // One arm for each operation.
fn apply(operation: &Operation, store: &mut Store, model: &mut Model, seed: u64) {
    let newest = RevisionNumber::new(model.newest);
    let window = Duration::from_mins(10);
    let session = SessionId::new("one").unwrap();
    let some = |which: usize, model: &Model| {
        let count = model.revisions.len();
        (count > 0).then(|| model.revisions[which % count].clone())
    };
    match *operation {
        Operation::Commit { stale: true, .. } => {
            let stale = RevisionNumber::new(model.newest + 1);
            let refused = store.commit(committed_by(&session, stale, b""), None, &at(1));
            assert!(matches!(refused, Err(StoreError::Moved { .. })));
        }
        Operation::Commit { size, mine, .. } => {
            let content = Random(seed).bytes(size);
            let new = if mine {
                committed_by(&session, newest, &content)
            } else {
                new_revision(newest, &content)
            };
            let revision = store.commit(new, None, &at(1)).unwrap();
            if mine && model.typed.is_some() {
                model.candidate = Some(model.newest + 1);
                model.typed = Some(content.clone());
            }
            if let Some((waits, _)) = model.pending.take() {
                model.get(waits).confirmed = true;
            }
            model.push(&revision, content, true);
        }
        Operation::CommitConfirmed { size } => {
            let content = Random(seed).bytes(size);
            let new = new_revision(newest, &content);
            let outcome = store.commit_confirmed(new, window, None, &at(0));
            let Some(restore) = model.confirmed().map(|known| known.number) else {
                assert!(matches!(outcome, Err(StoreError::NothingToReturnTo)));
                return;
            };
            model.pending = Some((model.newest + 1, restore));
            model.push(&outcome.unwrap(), content, false);
        }
        Operation::Confirm { late } => {
            let now = at(if late { 600 } else { 599 });
            let waits = model.pending.map_or(1, |(waits, _)| waits);
            let expired = store
                .pending_confirmation(&now)
                .unwrap()
                .is_some_and(|pending| pending.remaining.is_zero());
            let outcome = store.confirm(number(waits), None, &now);
            match model.pending {
                None => assert!(matches!(outcome, Err(StoreError::NothingPending))),
                Some(_) if expired => assert!(matches!(outcome, Err(StoreError::TooLate(_)))),
                Some(_) => {
                    outcome.unwrap();
                    assert!(!late);
                    model.pending = None;
                    model.get(waits).confirmed = true;
                }
            }
        }
        Operation::Expire => {
            let outcome = store.expire_confirmation("over", None, &at(600));
            let Some((_, restore)) = model.pending.take() else {
                assert!(matches!(outcome, Err(StoreError::NothingPending)));
                return;
            };
            let content = model.get(restore).content.clone();
            model.push(&outcome.unwrap(), content, true);
        }
        Operation::Again { which, reverts } => {
            if let Some(old) = some(which, model) {
                let origin = number(old.number);
                let source = if reverts {
                    Source::Revert
                } else {
                    Source::Rollback
                };
                let revision = store
                    .commit_again(origin, source, "ann", "", None, &at(1))
                    .unwrap();
                assert_eq!(revision.origin, Some(origin));
                let unconfirmed = |(_, restore): &(u64, u64)| reverts && *restore < old.number;
                let waits = model.pending.take().filter(unconfirmed);
                model.pending = waits.map(|(_, restore)| (model.newest + 1, restore));
                model.push(&revision, old.content, model.pending.is_none());
            }
        }
        Operation::Pin { which, pinned } => {
            if let Some(old) = some(which, model) {
                let others: Vec<&Known> = model
                    .revisions
                    .iter()
                    .filter(|known| known.pinned)
                    .collect();
                let full = others.len() >= 2
                    || others.iter().map(|known| known.bytes).sum::<u64>() + old.bytes > 6000;
                let outcome = store.pin(number(old.number), pinned);
                if pinned && !old.pinned && full {
                    assert!(matches!(outcome, Err(StoreError::TooManyPinned { .. })));
                } else {
                    outcome.unwrap();
                    model.get(old.number).pinned = pinned;
                }
            }
        }
        Operation::Candidate { which } => {
            let base = some(which, model).map(|known| known.number);
            model.candidate = base;
            model.typed = Some(b"typed".to_vec());
            let base = base.map(number);
            store
                .save_candidate(&session, "ann", base, b"typed", &[], &at(1))
                .unwrap();
        }
        Operation::Discard => {
            store.discard_candidate(&session).unwrap();
            (model.candidate, model.typed) = (None, None);
        }
        Operation::Maintain => store.maintain().unwrap(),
        Operation::Rotate => store.rotate_key().unwrap(),
        Operation::Restart | Operation::LoseTheDatabase => {}
    }
}

/// What the exports hold is what is left.
fn lose(model: &mut Model) {
    let confirmed = model.confirmed().map(|known| known.number);
    let first = model.revisions.len().saturating_sub(3);
    let mut index = 0;
    model.revisions.retain(|known| {
        index += 1;
        index > first || Some(known.number) == confirmed
    });
    (model.candidate, model.typed) = (None, None);
}

proptest! {
    #![proptest_config(Config { cases: 60, failure_persistence: None, ..Config::default() })]
    #[test]
    fn the_store_does_what_the_model_does(operations in operations()) {
        let place = place();
        let path = place.path().join("mgmt");
        let mut store = Store::open_with(&path, limits()).unwrap().store;
        let mut model = Model::default();
        for (step, operation) in operations.iter().enumerate() {
            match operation {
                Operation::Restart => {
                    drop(store);
                    let opened = Store::open_with(&path, limits()).unwrap();
                    assert_eq!(opened.condition, Condition::Sound);
                    store = opened.store;
                }
                Operation::LoseTheDatabase if model.newest > 0 => {
                    store.maintain().unwrap();
                    drop(store);
                    std::fs::remove_file(path.join("store.db")).unwrap();
                    let opened = Store::open_with(&path, limits()).unwrap();
                    assert!(matches!(opened.condition, Condition::Replaced(_)));
                    store = opened.store;
                    lose(&mut model);
                }
                other => apply(other, &mut store, &mut model, step as u64),
            }
            model.agrees(&store);
        }
    }
}
