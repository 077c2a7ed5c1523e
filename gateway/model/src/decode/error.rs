//! What is wrong with a configuration, where, and what would be right.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where: `interfaces[lan0].mtu`; empty: the document as a whole.
    pub path: String,
    /// What.
    pub reason: Reason,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}", self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// Everything that is wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeErrors(pub Vec<DecodeError>);

impl fmt::Display for DecodeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DecodeErrors {}

/// Why a place of a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The document is longer than [`super::MAX_BYTES`].
    #[error("{bytes} bytes; at most {limit} are taken")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// What is taken.
        limit: usize,
    },
    /// Nested deeper than [`super::MAX_DEPTH`].
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// What is taken.
        limit: usize,
    },
    /// More values in all than [`super::MAX_VALUES`].
    #[error("more than {limit} values in all")]
    TooManyValues {
        /// What is taken.
        limit: usize,
    },
    /// Not JSON.
    #[error("not JSON: {message}")]
    Syntax {
        /// As the JSON parser says it, with line and column.
        message: String,
    },
    /// Not a message of this type on the wire.
    #[error("not a binary configuration: {message}")]
    Wire {
        /// As the decoder says it.
        message: String,
    },
    /// A field is given twice on the wire, or written longer than it needs to be.
    #[error(
        "{bytes} bytes, but {canonical} when written again: a field is given twice or not in its shortest form"
    )]
    NotCanonical {
        /// As received.
        bytes: usize,
        /// As it would be written.
        canonical: usize,
    },
    /// No such field.
    #[error("no such field{}", did_you_mean(nearest.as_deref()))]
    UnknownField {
        /// The name most like it.
        nearest: Option<String>,
    },
    /// A field number that the schema does not have.
    #[error("no field has the number {number}")]
    UnknownNumber {
        /// As received.
        number: u32,
    },
    /// The name in another spelling.
    #[error("written {right:?} here")]
    OtherSpelling {
        /// The one that is taken.
        right: String,
    },
    /// The same name twice in an object.
    #[error("given twice; write it once")]
    GivenTwice,
    /// Text where a number belongs, and the like.
    #[error("{found} where {expected} belongs")]
    WrongType {
        /// What stands there.
        found: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// Not one of the words that are taken.
    #[error("{given:?} is not one of {}{}", known.join(", "), did_you_mean(nearest.as_deref()))]
    UnknownKeyword {
        /// As written.
        given: String,
        /// The word most like it.
        nearest: Option<String>,
        /// All that are taken.
        known: Vec<String>,
    },
    /// A number that stands for no value of the enum.
    #[error("{number} is not one of {}", known.join(", "))]
    UndeclaredEnum {
        /// As received.
        number: i32,
        /// The words that are taken.
        known: Vec<String>,
    },
    /// Too small or too large.
    #[error("{given} is not between {min} and {max}{}", unit_text(unit))]
    OutOfRange {
        /// As written.
        given: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
        /// Of what; `1` or empty: none.
        unit: String,
    },
    /// Text that is not what it should be.
    #[error("{}not {expected}", given.as_ref().map(|given| format!("{given:?} is ")).unwrap_or_default())]
    Malformed {
        /// As written; absent: it is secret.
        given: Option<String>,
        /// What it should be, with an example.
        expected: &'static str,
    },
    /// Text that does not match the pattern of its field.
    #[error("{}does not match {pattern}", given.as_ref().map(|given| format!("{given:?} ")).unwrap_or_default())]
    Pattern {
        /// As written; absent: it is secret.
        given: Option<String>,
        /// The regular expression.
        pattern: String,
    },
    /// A network with bits beyond its length.
    #[error("{given:?} has bits beyond its length; the network is {network}")]
    HostBits {
        /// As written.
        given: String,
        /// What was meant.
        network: String,
    },
    /// A digest where the secret itself belongs.
    #[error("a digest stands for a secret that is there already; here the secret itself is needed")]
    DigestOfSecret,
    /// Text that is too long.
    #[error("{length} bytes; at most {max} are taken")]
    TooLong {
        /// Its length.
        length: usize,
        /// What is taken.
        max: usize,
    },
    /// A list that is too long.
    #[error("{count} items; at most {max} are taken")]
    TooMany {
        /// Its length.
        count: usize,
        /// What is taken.
        max: usize,
    },
    /// Something that must be given is not.
    #[error("missing; it must be given")]
    Missing,
    /// Nothing that tells an item of a list from the others.
    #[error("at least one of {} must be given", keys.join(", "))]
    NoKey {
        /// The fields that would.
        keys: Vec<String>,
    },
    /// Two items of a list have the same key.
    #[error("the same as {first}; each may stand once")]
    DuplicateKey {
        /// The item before it.
        first: String,
    },
    /// A name of something that is not there.
    #[error(
        "{given:?} is not in {}{}",
        lists.join(" or "),
        did_you_mean(nearest.as_deref())
    )]
    Dangling {
        /// As written.
        given: String,
        /// Where it was looked for.
        lists: Vec<String>,
        /// The name most like it.
        nearest: Option<String>,
    },
}

pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; is {name:?} meant?"))
        .unwrap_or_default()
}

pub(crate) fn unit_text(unit: &str) -> String {
    if unit.is_empty() || unit == "1" {
        String::new()
    } else {
        format!(" {unit}")
    }
}

/// How like two names are, if they are: the first measure sees a common beginning, the second two letters
/// that changed places in a short name.
fn likeness(given: &str, name: &str) -> Option<f64> {
    let beginning = strsim::jaro_winkler(given, name);
    let letters = strsim::normalized_damerau_levenshtein(given, name);
    (beginning >= 0.75 || letters >= 0.6).then(|| beginning.max(letters))
}

/// The one of `known` that is most like `given`, if any is like it at all.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Hostile names are compared by their beginning only: the comparison is quadratic.
    let given: String = given.chars().take(64).collect::<String>().to_lowercase();
    known
        .into_iter()
        .filter_map(|name| Some((likeness(&given, &name.to_lowercase())?, name)))
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name.to_owned())
}
