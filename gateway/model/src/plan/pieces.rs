//! A plan in pieces, each small enough for one message between processes, and the plan put together again.
//!
//! ```text
//!   plan --pieces--> SetPlanRequest 0, 1, 2 ... last --Assembly--> the same plan
//! ```

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
    /// No end of values.
    #[error("more than {MOST_VALUES} values")]
    TooMany,
}

/// The messages that carry a plan, in the order to send them.
pub fn pieces(plan: &Plan, revision: u64, check: bool) -> Vec<bus::SetPlanRequest> {
    let mut all = vec![bus::SetPlanRequest {
        revision,
        ..bus::SetPlanRequest::default()
    }];
    let mut size = 0;
    for (key, planned) in plan {
        let value = on_the_bus(key, planned);
        let length = value.encoded_len();
        if size > 0 && size + length > PIECE {
            all.push(bus::SetPlanRequest {
                revision,
                piece: all.len() as u32,
                ..bus::SetPlanRequest::default()
            });
            size = 0;
        }
        size += length;
        if let Some(piece) = all.last_mut() {
            piece.values.push(value);
        }
    }
    if let Some(piece) = all.last_mut() {
        piece.last = true;
        piece.check = check;
    }
    all
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
    pub plan: Plan,
    /// It is only asked about.
    pub check: bool,
}

/// The pieces of a plan that have come so far.
#[derive(Debug, Default)]
pub struct Assembly {
    revision: u64,
    next: u32,
    plan: Plan,
}

impl Assembly {
    /// Takes a piece; the plan, when it was the last one.
    pub fn take(&mut self, piece: bus::SetPlanRequest) -> Result<Option<Assembled>, PieceError> {
        let outcome = self.add(piece);
        if !matches!(outcome, Ok(None)) {
            *self = Self::default();
        }
        outcome
    }

    fn add(&mut self, piece: bus::SetPlanRequest) -> Result<Option<Assembled>, PieceError> {
        if piece.piece == 0 {
            *self = Self {
                revision: piece.revision,
                ..Self::default()
            };
        } else if (piece.revision, piece.piece) != (self.revision, self.next) {
            return Err(PieceError::OutOfOrder {
                revision: piece.revision,
                given: piece.piece,
            });
        }
        self.next = piece.piece.saturating_add(1);
        if self.plan.len() + piece.values.len() > MOST_VALUES {
            return Err(PieceError::TooMany);
        }
        for value in piece.values {
            let (key, planned) = planned(value)?;
            if self.plan.contains_key(&key) {
                return Err(PieceError::Twice { key });
            }
            self.plan.insert(key, Arc::new(planned));
        }
        Ok(piece.last.then(|| Assembled {
            revision: self.revision,
            plan: std::mem::take(&mut self.plan),
            check: piece.check,
        }))
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
        pieces: impl IntoIterator<Item = bus::SetPlanRequest>,
    ) -> Result<Option<Assembled>, PieceError> {
        let mut assembly = Assembly::default();
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
            let cut = pieces(&plan, 7, false);
            assert_eq!(cut.len() > 1, routes == 40_000);
            for piece in &cut {
                assert!(piece.encoded_len() <= PIECE + 100_000);
            }
            let whole = together(cut).unwrap().unwrap();
            assert_eq!((whole.revision, whole.check), (7, false));
            assert_eq!(whole.plan, plan);
        }
    }

    #[test]
    fn a_piece_that_is_missing_spoils_the_plan_and_a_new_beginning_mends_it() {
        let cut = pieces(&some_plan(60_000), 7, true);
        assert!(cut.len() > 2);
        let mut assembly = Assembly::default();
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
        let good = pieces(&some_plan(1), 1, false);
        let refused = |change: fn(&mut bus::SetPlanRequest)| {
            let mut pieces = good.clone();
            change(&mut pieces[0]);
            together(pieces).unwrap_err().to_string()
        };
        assert!(refused(|piece| piece.values[0].keyed = None).contains("lacks a key"));
        assert!(refused(|piece| piece.values[0].part = 9).contains("lacks a part"));
        let without = refused(|piece| piece.values[0].keyed.as_mut().unwrap().value = None);
        assert!(without.contains("lacks a value"), "{without}");
        let twice = refused(|piece| piece.values.push(piece.values[0].clone()));
        assert!(twice.contains("comes twice"), "{twice}");
    }
}
