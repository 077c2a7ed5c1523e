//! One value of a configuration: from a word, and back to one.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::shape::{Field, FieldKind};
use crate::decode::Reason;
use crate::decode::error::nearest;
use crate::decode::leaf::{self as text, DIGEST_PREFIX};

/// One value, in its canonical spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf(pub(crate) Scalar);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scalar {
    Bool(bool),
    Number(u64),
    /// The number of an enum value.
    Keyword(i32),
    Text(Arc<str>),
    /// Wiped when the last tree that holds it goes.
    Secret(Arc<SecretText>),
    /// Stands for a secret that is kept elsewhere.
    Digest([u8; 32]),
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn shared(text: &str) -> Arc<Self> {
        Arc::new(Self(Zeroizing::new(text.to_owned())))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialOrd for SecretText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SecretText {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Leaf {
    /// The value that a word means for a field.
    pub(crate) fn from_word(field: &Field, word: &str) -> Result<Self, Reason> {
        let scalar = match &field.kind {
            FieldKind::Bool => match word {
                "true" => Scalar::Bool(true),
                "false" => Scalar::Bool(false),
                _ => return Err(unknown_keyword(word, vec!["true".into(), "false".into()])),
            },
            FieldKind::Number(type_max) => {
                let number = number(word)?;
                text::check_number(field.rules, number, *type_max)?;
                Scalar::Number(number)
            }
            FieldKind::Keyword(known) => {
                let found = known.iter().find(|keyword| keyword.word == word);
                let found = found.ok_or_else(|| {
                    unknown_keyword(word, known.iter().map(|item| item.word.clone()).collect())
                })?;
                Scalar::Keyword(found.number)
            }
            FieldKind::Text if field.secret() => {
                text::check_secret(field.rules, word, true)?;
                Self::secret(word).0
            }
            FieldKind::Text => {
                text::check_text(field.rules, word)?;
                Self::text(field, word).0
            }
            FieldKind::Branch(_) | FieldKind::List(_) => {
                return Err(Reason::WrongType {
                    found: "a value",
                    expected: "an object",
                });
            }
        };
        Ok(Self(scalar))
    }

    /// A text that was checked.
    pub(crate) fn text(field: &Field, text: &str) -> Self {
        let normal = text::normalised(field.text_type(), text);
        Self(Scalar::Text(Arc::from(normal)))
    }

    /// A secret that was checked, or the digest of one.
    pub(crate) fn secret(word: &str) -> Self {
        Self(match text::digest(word) {
            Some(digest) => Scalar::Digest(digest),
            None => Scalar::Secret(SecretText::shared(word)),
        })
    }

    /// As it is written after the name of its field, before any quoting. Of a secret it is the secret.
    pub(crate) fn word<'a>(&'a self, field: &'a Field) -> Cow<'a, str> {
        match &self.0 {
            Scalar::Bool(true) => Cow::Borrowed("true"),
            Scalar::Bool(false) => Cow::Borrowed("false"),
            Scalar::Number(number) => Cow::Owned(number.to_string()),
            Scalar::Keyword(number) => match field.keyword(*number) {
                Some(keyword) => Cow::Borrowed(&keyword.word),
                // Only what the schema declares gets here.
                None => Cow::Owned(number.to_string()),
            },
            Scalar::Text(text) => Cow::Borrowed(text),
            Scalar::Secret(secret) => Cow::Borrowed(secret.as_str()),
            Scalar::Digest(digest) => Cow::Owned(digest_text(digest)),
        }
    }

    /// Whether nobody may read it.
    pub fn is_secret(&self) -> bool {
        matches!(self.0, Scalar::Secret(_) | Scalar::Digest(_))
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Number(value) => value.fmt(f),
            Scalar::Keyword(value) => write!(f, "keyword {value}"),
            Scalar::Text(value) => value.fmt(f),
            Scalar::Secret(value) => write!(f, "<{} secret bytes>", value.as_str().len()),
            Scalar::Digest(_) => f.write_str("<digest>"),
        }
    }
}

/// A digest as it is written.
pub(crate) fn digest_text(digest: &[u8; 32]) -> String {
    let mut text = String::with_capacity(DIGEST_PREFIX.len() + 2 * digest.len());
    text.push_str(DIGEST_PREFIX);
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// A whole number as people write it: digits only.
fn number(word: &str) -> Result<u64, Reason> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| word.parse().ok()).flatten();
    number.ok_or_else(|| Reason::Malformed {
        given: Some(text::shortened(word)),
        expected: "a whole number from 0",
    })
}

fn unknown_keyword(word: &str, known: Vec<String>) -> Reason {
    Reason::UnknownKeyword {
        given: text::shortened(word),
        nearest: nearest(word, known.iter().map(String::as_str)),
        known,
    }
}
