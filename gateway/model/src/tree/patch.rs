//! What makes one tree another, small where little differs.
//!
//! ```text
//!   before --take away: places--> --lay over: a tree of what is new--> after
//! ```

use super::diff::diff;
use super::location::Location;
use super::words::split;
use super::{Tree, TreeError};

/// The way from one tree to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    removed: Vec<Location>,
    laid_over: Tree,
}

impl Patch {
    /// The way from `before` to `after`. `None`: it is not one of these, as where items change their order.
    pub fn between(before: &Tree, after: &Tree) -> Option<Self> {
        let mut patch = Self {
            removed: Vec::new(),
            laid_over: Tree::empty(),
        };
        for change in diff(before, after) {
            match change.put_into(&mut patch.laid_over) {
                Some(true) => {}
                Some(false) => patch.removed.push(change.location().clone()),
                None => return None,
            }
        }
        // An order that is the user's is in no change of an item.
        let arrives = patch.make(before).is_ok_and(|made| made == *after);
        arrives.then_some(patch)
    }

    /// Of the places to take away, each as its words, and of what is then laid over.
    pub fn of<'a>(
        removed: impl IntoIterator<Item = &'a str>,
        laid_over: Tree,
    ) -> Result<Self, TreeError> {
        let place = |words: &str| {
            let wrong = || TreeError::NotThere {
                path: words.to_owned(),
            };
            let words = split(words).map_err(|_| wrong())?;
            Location::parse(&words, &Location::root()).map_err(|_| wrong())
        };
        let removed = removed.into_iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self { removed, laid_over })
    }

    /// The tree that `before` becomes, if it is within the bounds of one.
    pub fn apply(&self, before: &Tree) -> Result<Tree, TreeError> {
        Tree::bounded(self.make(before)?.root.as_ref().clone())
    }

    fn make(&self, before: &Tree) -> Result<Tree, TreeError> {
        let mut tree = before.clone();
        for place in &self.removed {
            tree.remove(place)?;
        }
        tree.lay_over(&self.laid_over);
        Ok(tree)
    }

    /// The places that are taken away.
    pub fn removed(&self) -> &[Location] {
        &self.removed
    }

    /// What is laid over what is left.
    pub fn laid_over(&self) -> &Tree {
        &self.laid_over
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;
    use crate::tree::{Setting, words};

    proptest! {
        #[test]
        fn a_patch_leads_where_it_says((base, ours, _) in sample::forks()) {
            if let Some(patch) = Patch::between(&base, &ours) {
                prop_assert_eq!(&patch.apply(&base).unwrap(), &ours);
                let words: Vec<String> = patch.removed().iter().map(ToString::to_string).collect();
                let bytes = patch.laid_over().canonical_bytes();
                let laid_over = Tree::from_canonical_bytes(&bytes).unwrap();
                let again = Patch::of(words.iter().map(String::as_str), laid_over).unwrap();
                prop_assert_eq!(again, patch);
            }
        }
    }

    #[test]
    fn a_change_of_one_line_is_one_line() {
        let mut before = Tree::empty();
        let set = |tree: &mut Tree, line: &str| {
            let words = words::split(line).unwrap();
            tree.set(&Setting::parse(&words, &Location::root()).unwrap())
                .unwrap();
        };
        for number in 0..200 {
            set(
                &mut before,
                &format!("routes 10.0.{number}.0/24 action blackhole"),
            );
        }
        set(&mut before, "interfaces wan mtu 1400");
        let mut after = before.clone();
        set(&mut after, "interfaces wan mtu 1300");
        after
            .delete(
                &Location::parse(
                    &words::split("routes 10.0.7.0/24").unwrap(),
                    &Location::root(),
                )
                .unwrap(),
            )
            .unwrap();
        let patch = Patch::between(&before, &after).unwrap();
        assert_eq!(patch.removed().len(), 1);
        assert!(patch.laid_over().canonical_bytes().len() < 30);
        assert_eq!(patch.apply(&before).unwrap(), after);
        // Where it leads nowhere it says so.
        assert!(patch.apply(&Tree::empty()).is_err());
    }
}
