//! What is wrong with what was typed, and with what was asked of a tree.

use crate::decode::error::did_you_mean;
use crate::decode::{DecodeErrors, Reason};

/// Something wrong with one of the words that were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct WordError {
    /// Which word, counted from 0; as many as there are words: one more belongs there.
    pub word: usize,
    /// What.
    pub reason: WordReason,
}

/// Why a word is refused, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordReason {
    /// No field of that name here.
    #[error("{given:?} is not known here{}{}", did_you_mean(nearest.as_deref()), list(known))]
    Unknown {
        /// As written.
        given: String,
        /// The name most like it.
        nearest: Option<String>,
        /// All that are.
        known: Vec<String>,
    },
    /// The line ends where something must follow.
    #[error("{expected} belongs here")]
    Missing {
        /// What.
        expected: String,
    },
    /// Nothing may follow.
    #[error("nothing belongs here: {after} is complete")]
    Extra {
        /// What the word comes after.
        after: String,
    },
    /// The value of a field is not right.
    #[error("{0}")]
    Value(Reason),
    /// A key is given where its item was named already.
    #[error("{name} tells this item from the others; use rename to change it")]
    Key {
        /// The key field.
        name: String,
    },
    /// The same key twice.
    #[error("{name} is given already")]
    Twice {
        /// The key field.
        name: String,
    },
}

fn list(known: &[String]) -> String {
    if known.is_empty() {
        String::new()
    } else {
        format!("; there is {}", known.join(", "))
    }
}

/// Why something that was asked of a tree was not done; the tree is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Nothing is there.
    #[error("{path}: not there")]
    NotThere {
        /// Where, in words.
        path: String,
    },
    /// Something is there already.
    #[error("{path}: there already")]
    Taken {
        /// Where, in words.
        path: String,
    },
    /// A value without a field for it, or the other way round.
    #[error("{path}: {expected}")]
    Misplaced {
        /// Where, in words.
        path: String,
        /// What would be right.
        expected: &'static str,
    },
    /// What is to be written there is not right.
    #[error("{path}: {reason}")]
    Value {
        /// Where, in words.
        path: String,
        /// What is wrong.
        reason: Reason,
    },
    /// A list would be too long.
    #[error("{path}: {count} items; at most {max} are taken")]
    TooMany {
        /// Where, in words.
        path: String,
        /// How long.
        count: usize,
        /// What is taken.
        max: usize,
    },
    /// The whole would be too large.
    #[error("{0}")]
    TooLarge(Reason),
    /// A digest that stands for no secret that is there.
    #[error("{path}: the digest is of no secret that is there; give the secret itself")]
    UnknownDigest {
        /// Where, in words.
        path: String,
    },
    /// The two differ in another way than the difference says.
    #[error("{path}: not as it was when the difference was taken")]
    Changed {
        /// Where, in words.
        path: String,
    },
    /// The stored form is not one.
    #[error("{0}")]
    Decode(DecodeErrors),
    /// The stored form is not the canonical one.
    #[error("not in canonical form")]
    NotCanonical,
}
