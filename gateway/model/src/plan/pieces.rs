//! A plan in pieces, each small enough for one message between processes, and the plan put together again.
//!
//! ```text
//!   plan - base --pieces--> SetPlanRequest 0, 1, 2 ... last --Assembly--> base + difference: the same plan
//! ```
//!
//! The base is the plan that was put together last to be followed: of a large plan that changes in one place one value is
//! sent. Who does not know what the other side has begins with the whole. A plan that is only asked about is forgotten with
//! the answer.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use prost::Message as _;

use super::{Key, Part, Plan, Planned};
use crate::bus::{self, planned_value};

/// Bytes of values in a piece; a message of the bus has room for 16 MiB.
const PIECE: usize = 4 << 20;
/// More than any configuration within its limits comes to.
const MOST_VALUES: usize = 4_000_000;

/// Why a piece is not taken. What came before it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// A piece was lost, or somebody else sends, too.
    #[error("piece {given} of revision {revision} does not follow what came before")]
    OutOfOrder {
        /// Of the configuration.
        revision: u64,
        /// The number of the piece.
        given: u32,
    },
    /// A value without key, value or part.
    #[error("the value {key:?} lacks {what}")]
    Lacks {
        /// As given.
        key: String,
        /// What is missing.
        what: &'static str,
    },
    /// The same key twice.
    #[error("{key} comes twice")]
    Twice {
        /// Of both.
        key: Key,
    },
    /// What it is the difference to is another plan than the last one.
    #[error("there is no plan {base} to go on from")]
    UnknownBase {
        /// Its number.
        base: u64,
    },
    /// It takes away what was not there.
    #[error("{key} is taken away, and was not there")]
    NotThere {
        /// As given.
        key: Key,
    },
    /// No end of values.
    #[error("more than {MOST_VALUES} values")]
    TooMany,
}

/// A plan that the other side has, by the number that it gave it.
#[derive(Debug, Clone)]
pub struct Base {
    /// Never 0.
    pub number: u64,
    /// The whole of it.
    pub plan: Arc<Plan>,
}

/// The messages that carry a plan, in the order to send them.
pub fn pieces(
    plan: &Plan,
    base: Option<&Base>,
    revision: u64,
    check: bool,
) -> Vec<bus::SetPlanRequest> {
    let mut cut = Cut::new(revision, base.map_or(0, |base| base.number));
    let none = Plan::new();
    let before = base.map_or(&none, |base| &base.plan);
    let mut before = before.iter().peekable();
    for (key, planned) in plan {
        while let Some((gone, _)) = before.next_if(|(other, _)| *other < key) {
            cut.remove(gone);
        }
        let same = before.next_if(|(other, _)| *other == key);
        if same.is_none_or(|(_, before)| !Arc::ptr_eq(before, planned) && before != planned) {
            cut.add(on_the_bus(key, planned));
        }
    }
    for (gone, _) in before {
        cut.remove(gone);
    }
    cut.done(check)
}

/// Pieces in the making.
struct Cut {
    full: Vec<bus::SetPlanRequest>,
    piece: bus::SetPlanRequest,
    /// Bytes in the piece.
    size: usize,
}

impl Cut {
    fn new(revision: u64, base: u64) -> Self {
        Self {
            full: Vec::new(),
            piece: bus::SetPlanRequest {
                revision,
                base,
                ..bus::SetPlanRequest::default()
            },
            size: 0,
        }
    }

    fn add(&mut self, value: bus::PlannedValue) {
        self.make_room(value.encoded_len());
        self.piece.values.push(value);
    }

    fn remove(&mut self, key: &Key) {
        self.make_room(key.as_str().len());
        self.piece.removed.push(key.to_string());
    }

    fn make_room(&mut self, bytes: usize) {
        if self.size > 0 && self.size + bytes > PIECE {
            let next = bus::SetPlanRequest {
                revision: self.piece.revision,
                base: self.piece.base,
                piece: self.piece.piece + 1,
                ..bus::SetPlanRequest::default()
            };
            self.full.push(std::mem::replace(&mut self.piece, next));
            self.size = 0;
        }
        self.size += bytes;
    }

    fn done(mut self, check: bool) -> Vec<bus::SetPlanRequest> {
        self.piece.last = true;
        self.piece.check = check;
        self.full.push(self.piece);
        self.full
    }
}

fn on_the_bus(key: &Key, planned: &Planned) -> bus::PlannedValue {
    let text = |keys: &[Key]| keys.iter().map(Key::to_string).collect();
    let part = match planned.part {
        Part::Dataplane => planned_value::Part::Dataplane,
        Part::Linux => planned_value::Part::Linux,
        Part::Iked => planned_value::Part::Iked,
        Part::Dhcp => planned_value::Part::Dhcp,
        Part::Lte => planned_value::Part::Lte,
    };
    bus::PlannedValue {
        keyed: Some(bus::KeyedValue {
            key: key.to_string(),
            value: Some(planned.value.clone()),
        }),
        part: part.into(),
        needs: text(&planned.needs),
        after: text(&planned.after),
        origins: planned.origins.clone(),
    }
}

/// A whole plan, as its pieces said it.
#[derive(Debug)]
pub struct Assembled {
    /// Of the configuration.
    pub revision: u64,
    /// What is planned.
    pub plan: Arc<Plan>,
    /// It is only asked about.
    pub check: bool,
    /// By this the next one may be told as the difference to it; of one that is only asked about that of the one before.
    pub number: u64,
}

/// The pieces of a plan that have come so far, and the plan before it.
#[derive(Debug)]
pub struct Assembly {
    last: Base,
    begun: Option<Begun>,
}

/// A plan of which pieces have come.
#[derive(Debug)]
struct Begun {
    revision: u64,
    base: u64,
    next: u32,
    plan: Plan,
    /// Keys that were named, where that is not every one of the plan.
    named: BTreeSet<Key>,
}

impl Default for Assembly {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembly {
    /// No plan yet. Numbers begin anywhere: those of another process are not taken for ours.
    pub fn new() -> Self {
        Self {
            last: Base {
                number: RandomState::new().hash_one(0u8).max(1),
                plan: Arc::default(),
            },
            begun: None,
        }
    }

    /// Takes a piece; the plan, when it was the last one.
    pub fn take(&mut self, piece: bus::SetPlanRequest) -> Result<Option<Assembled>, PieceError> {
        let begun = self.begun.take();
        let mut begun = match begun {
            _ if piece.piece == 0 => self.begin(&piece)?,
            Some(begun) if begun.is_followed_by(&piece) => begun,
            _ => {
                return Err(PieceError::OutOfOrder {
                    revision: piece.revision,
                    given: piece.piece,
                });
            }
        };
        let (last, check) = (piece.last, piece.check);
        begun.add(piece)?;
        if !last {
            self.begun = Some(begun);
            return Ok(None);
        }
        let plan = Arc::new(begun.plan);
        if !check {
            self.last = Base {
                number: self.last.number.wrapping_add(1).max(1),
                plan: Arc::clone(&plan),
            };
        }
        Ok(Some(Assembled {
            revision: begun.revision,
            plan,
            check,
            number: self.last.number,
        }))
    }

    fn begin(&self, piece: &bus::SetPlanRequest) -> Result<Begun, PieceError> {
        let base = piece.base;
        let plan = match base {
            0 => Plan::new(),
            base if base == self.last.number => self.last.plan.as_ref().clone(),
            base => return Err(PieceError::UnknownBase { base }),
        };
        Ok(Begun {
            revision: piece.revision,
            base,
            next: 0,
            plan,
            named: BTreeSet::new(),
        })
    }
}

impl Begun {
    fn is_followed_by(&self, piece: &bus::SetPlanRequest) -> bool {
        (piece.revision, piece.base, piece.piece) == (self.revision, self.base, self.next)
    }

    fn add(&mut self, piece: bus::SetPlanRequest) -> Result<(), PieceError> {
        self.next = piece.piece.saturating_add(1);
        if self.plan.len() + piece.values.len() > MOST_VALUES {
            return Err(PieceError::TooMany);
        }
        for value in piece.values {
            let (key, planned) = planned(value)?;
            self.name(&key)?;
            self.plan.insert(key, Arc::new(planned));
        }
        for key in piece.removed {
            let key = Key::from(key);
            self.name(&key)?;
            if self.plan.remove(&key).is_none() {
                return Err(PieceError::NotThere { key });
            }
        }
        Ok(())
    }

    fn name(&mut self, key: &Key) -> Result<(), PieceError> {
        let new = if self.base == 0 {
            !self.plan.contains_key(key)
        } else {
            self.named.insert(key.clone())
        };
        if new {
            Ok(())
        } else {
            Err(PieceError::Twice { key: key.clone() })
        }
    }
}

fn planned(value: bus::PlannedValue) -> Result<(Key, Planned), PieceError> {
    let part = value.part();
    let keyed = value.keyed.unwrap_or_default();
    let lacks = |what| PieceError::Lacks {
        key: keyed.key.clone(),
        what,
    };
    if keyed.key.is_empty() {
        return Err(lacks("a key"));
    }
    let part = match part {
        planned_value::Part::Dataplane => Part::Dataplane,
        planned_value::Part::Linux => Part::Linux,
        planned_value::Part::Iked => Part::Iked,
        planned_value::Part::Dhcp => Part::Dhcp,
        planned_value::Part::Lte => Part::Lte,
        planned_value::Part::Unspecified => return Err(lacks("a part")),
    };
    let Some(value_itself) = keyed.value.clone().filter(|value| value.kind.is_some()) else {
        return Err(lacks("a value"));
    };
    let keys = |texts: Vec<String>| texts.into_iter().map(Key::from).collect();
    let planned = Planned {
        value: value_itself,
        part,
        needs: keys(value.needs),
        after: keys(value.after),
        origins: value.origins,
    };
    Ok((Key::from(keyed.key), planned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::decode::config_from_json;
    use crate::plan::{DigestKey, plan};

    fn some_plan(routes: usize) -> Plan {
        let routes: Vec<String> = (0..routes)
            .map(|number| {
                format!(
                    r#"{{"destination": "10.{}.{}.0/24", "next_hops": [{{"gateway": "192.0.2.254"}}]}}"#,
                    number / 256,
                    number % 256
                )
            })
            .collect();
        let text = format!(
            r#"{{"interfaces": [{{"name": "wan", "addresses": [{{"address": "192.0.2.1/24"}}]}}],
                 "credentials": {{"pre_shared_keys": [{{"name": "k", "secret": "a secret of ours", "identities": [{{"identity": "a"}}]}}]}},
                 "routes": [{}]}}"#,
            routes.join(",")
        );
        plan(
            &config_from_json(text.as_bytes()).unwrap(),
            &DigestKey::new([1; 32]),
        )
        .unwrap()
    }

    fn together(
        assembly: &mut Assembly,
        pieces: impl IntoIterator<Item = bus::SetPlanRequest>,
    ) -> Result<Option<Assembled>, PieceError> {
        let mut outcome = None;
        for piece in pieces {
            outcome = assembly.take(piece)?;
        }
        Ok(outcome)
    }

    #[test]
    fn pieces_make_the_plan_they_were_cut_from() {
        for routes in [0, 3, 40_000] {
            let plan = some_plan(routes);
            let cut = pieces(&plan, None, 7, false);
            assert_eq!(cut.len() > 1, routes == 40_000);
            for piece in &cut {
                assert!(piece.encoded_len() <= PIECE + 100_000);
            }
            let whole = together(&mut Assembly::new(), cut).unwrap().unwrap();
            assert_eq!((whole.revision, whole.check), (7, false));
            assert_eq!(*whole.plan, plan);
        }
    }

    #[test]
    fn a_piece_that_is_missing_spoils_the_plan_and_a_new_beginning_mends_it() {
        let cut = pieces(&some_plan(60_000), None, 7, true);
        assert!(cut.len() > 2);
        let mut assembly = Assembly::new();
        assembly.take(cut[0].clone()).unwrap();
        assert!(matches!(
            assembly.take(cut[2].clone()),
            Err(PieceError::OutOfOrder { .. })
        ));
        assert!(matches!(
            assembly.take(cut[1].clone()),
            Err(PieceError::OutOfOrder { .. })
        ));
        let mut outcome = None;
        for piece in cut {
            outcome = assembly.take(piece).unwrap();
        }
        assert!(outcome.unwrap().check);
    }

    #[test]
    fn values_that_are_none_are_refused() {
        let good = pieces(&some_plan(1), None, 1, false);
        let refused = |change: fn(&mut bus::SetPlanRequest)| {
            let mut pieces = good.clone();
            change(&mut pieces[0]);
            together(&mut Assembly::new(), pieces)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(|piece| piece.values[0].keyed = None).contains("lacks a key"));
        assert!(refused(|piece| piece.values[0].part = 9).contains("lacks a part"));
        let without = refused(|piece| piece.values[0].keyed.as_mut().unwrap().value = None);
        assert!(without.contains("lacks a value"), "{without}");
        let twice = refused(|piece| piece.values.push(piece.values[0].clone()));
        assert!(twice.contains("comes twice"), "{twice}");
    }

    #[test]
    fn a_plan_is_told_as_its_difference_to_the_one_before() {
        let mut assembly = Assembly::new();
        let first = some_plan(60_000);
        let whole = together(&mut assembly, pieces(&first, None, 1, false));
        let whole = whole.unwrap().unwrap();
        let base = Base {
            number: whole.number,
            plan: whole.plan,
        };
        // One more, one less, one otherwise.
        let mut second = first.clone();
        let (gone, other) = (
            Key::from("route/default/10.7.7.0/24"),
            Key::from("route/default/10.8.8.0/24"),
        );
        let mut planned = second.remove(&gone).unwrap().as_ref().clone();
        planned.origins.push("elsewhere".to_owned());
        second.insert(Key::from("route/default/11.0.0.0/24"), Arc::new(planned));
        Arc::make_mut(second.get_mut(&other).unwrap()).needs.clear();
        let cut = pieces(&second, Some(&base), 2, true);
        let [piece] = cut.as_slice() else {
            panic!("{} pieces", cut.len());
        };
        assert_eq!((piece.values.len(), piece.removed.len()), (2, 1));
        let checked = together(&mut assembly, cut.clone()).unwrap().unwrap();
        assert_eq!((checked.revision, checked.check), (2, true));
        assert_eq!((checked.number, &*checked.plan), (base.number, &second));
        assert!(Arc::ptr_eq(
            &checked.plan[&Key::from("forwarding")],
            &base.plan[&Key::from("forwarding")]
        ));
        // What was only asked about is the base of nothing; of what is followed the last one is.
        let mut followed = cut.clone();
        followed[0].check = false;
        let followed = together(&mut assembly, followed).unwrap().unwrap();
        let again = together(&mut assembly, cut).unwrap_err();
        assert_eq!(again, PieceError::UnknownBase { base: base.number });
        let base = Base {
            number: followed.number,
            plan: followed.plan,
        };
        let nothing = pieces(&second, Some(&base), 2, false);
        assert_eq!((nothing.len(), nothing[0].values.len()), (1, 0));
        let same = together(&mut assembly, nothing).unwrap().unwrap();
        assert_eq!(*same.plan, second);
        // Everything else, in several pieces, and back.
        let base = Base {
            number: same.number,
            plan: same.plan,
        };
        let little = some_plan(0);
        let cut = pieces(&little, Some(&base), 3, false);
        let other = together(&mut assembly, cut).unwrap().unwrap();
        assert_eq!(*other.plan, little);
        let base = Base {
            number: other.number,
            plan: other.plan,
        };
        let cut = pieces(&first, Some(&base), 4, false);
        assert!(cut.len() > 2);
        assert_eq!(*together(&mut assembly, cut).unwrap().unwrap().plan, first);
    }

    #[test]
    fn a_difference_that_does_not_fit_is_refused() {
        let mut assembly = Assembly::new();
        let plan = some_plan(3);
        let mut refused = |change: fn(&mut bus::SetPlanRequest)| {
            let whole = together(&mut assembly, pieces(&plan, None, 1, false));
            let whole = whole.unwrap().unwrap();
            let base = Base {
                number: whole.number,
                plan: whole.plan,
            };
            let mut pieces = pieces(&some_plan(2), Some(&base), 2, false);
            change(&mut pieces[0]);
            together(&mut assembly, pieces).unwrap_err().to_string()
        };
        let gone = refused(|piece| piece.removed.push("route/nowhere".to_owned()));
        assert!(gone.contains("was not there"), "{gone}");
        let twice = refused(|piece| piece.removed.push(piece.removed[0].clone()));
        assert!(twice.contains("comes twice"), "{twice}");
        let both = refused(|piece| {
            let key = piece.values[0].keyed.as_ref().unwrap().key.clone();
            piece.removed.push(key);
        });
        assert!(both.contains("comes twice"), "{both}");
        let other = refused(|piece| piece.base ^= 1);
        assert!(other.contains("no plan"), "{other}");
    }
}
