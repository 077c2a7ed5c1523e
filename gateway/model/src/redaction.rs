//! What stands in a Debug text where a secret would be: its length and nothing else.
//!
//! The build script writes `Debug` for every message that holds a secret in terms of these.

use core::fmt;

/// A value of which only the length may be told.
pub(crate) trait Length {
    /// In bytes.
    fn length(&self) -> usize;
}

impl Length for Vec<u8> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl Length for String {
    fn length(&self) -> usize {
        self.len()
    }
}

/// A secret.
pub(crate) struct One<'a, T>(pub(crate) &'a T);

impl<T: Length> fmt::Debug for One<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} secret bytes>", self.0.length())
    }
}

/// A secret that may be absent.
#[allow(dead_code)] // which of the three the schema needs changes with the schema
pub(crate) struct Maybe<'a, T>(pub(crate) &'a Option<T>);

impl<T: Length> fmt::Debug for Maybe<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map(One).fmt(f)
    }
}

/// A list of secrets.
#[allow(dead_code)] // as above
pub(crate) struct Many<'a, T>(pub(crate) &'a [T]);

impl<T: Length> fmt::Debug for Many<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(One)).finish()
    }
}
