//! A candidate as the store has it: how it differs from its base, which is mostly a line or two of thousands.
//!
//! | byte 0 | the rest |
//! | --- | --- |
//! | 0 | how many places are taken away, 4 bytes; each as its length, 4 bytes, and its words; what is laid over, in canonical form |
//! | a tag | all of it in canonical form, where it does not differ so, or that is shorter |
//!
//! No field of a configuration has the number 0. Numbers are little-endian.

use culvert_model::plan::DigestKey;
use culvert_model::tree::{Patch, Tree, TreeError};

use super::records::{apart, together};
use crate::store::Secret;

const PATCH: u8 = 0;
/// Nobody asks whether less than that is longer than all of it.
const SHORT: usize = 16 << 10;

/// What is stored of a candidate.
pub(super) struct Written {
    /// Without secrets.
    pub(super) content: Vec<u8>,
    /// Those in it.
    pub(super) secrets: Vec<Secret>,
}

impl Written {
    /// Of a candidate that began as another tree.
    pub(super) fn of(began: &Tree, tree: &Tree, digests: &DigestKey) -> Self {
        let Some(patch) = Patch::between(began, tree) else {
            let (content, secrets) = apart(tree, digests);
            return Self { content, secrets };
        };
        let (laid_over, secrets) = apart(patch.laid_over(), digests);
        let mut content = vec![PATCH];
        content.extend((patch.removed().len() as u32).to_le_bytes());
        for place in patch.removed() {
            let words = place.to_string();
            content.extend((words.len() as u32).to_le_bytes());
            content.extend(words.as_bytes());
        }
        content.extend(laid_over);
        let patch = Self { content, secrets };
        if patch.length() <= SHORT {
            return patch;
        }
        // It could be too long to be stored where the tree is not.
        let (content, secrets) = apart(tree, digests);
        let whole = Self { content, secrets };
        if whole.length() < patch.length() {
            whole
        } else {
            patch
        }
    }

    fn length(&self) -> usize {
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|secret| secret.path.len() + secret.value.len());
        self.content.len() + secrets.sum::<usize>()
    }

    /// What the candidate is.
    pub(super) fn read(&self, began: &Tree, digests: &DigestKey) -> Result<Tree, TreeError> {
        let Some((&PATCH, rest)) = self.content.split_first() else {
            return together(&self.content, &self.secrets, digests);
        };
        let (removed, laid_over) = places(rest).ok_or(TreeError::NotCanonical)?;
        let laid_over = together(laid_over, &self.secrets, digests)?;
        Patch::of(removed, laid_over)?.apply(began)
    }
}

fn places(mut rest: &[u8]) -> Option<(Vec<&str>, &[u8])> {
    let mut places = Vec::new();
    for _ in 0..number(&mut rest)? {
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let (words, after) = rest.split_at_checked(length)?;
        places.push(std::str::from_utf8(words).ok()?);
        rest = after;
    }
    Some((places, rest))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const BEFORE: &str = r#"{
        "interfaces": [{"name": "wan", "mtu": 1400}],
        "credentials": {"pre_shared_keys": [{"name": "k", "secret": "protects nothing", "identities": [{"identity": "a"}]}]},
        "routes": [{"destination": "10.0.0.0/8", "action": "blackhole"}]
    }"#;

    fn digests() -> DigestKey {
        DigestKey::new([5; 32])
    }

    fn tree(text: &str) -> Tree {
        Tree::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_candidate_is_read_as_it_was_written() {
        let before = tree(BEFORE);
        let others = [
            BEFORE.to_owned(),
            "{}".to_owned(),
            BEFORE.replace("1400", "1300"),
            BEFORE.replace("protects nothing", "protects nothing now"),
            BEFORE.replace(
                r#"{"destination": "10.0.0.0/8", "action": "blackhole"}"#,
                "",
            ),
            BEFORE.replace("\"k\"", "\"l\""),
        ];
        for other in &others {
            let after = tree(other);
            for (began, tree) in [(&before, &after), (&after, &before)] {
                let written = Written::of(began, tree, &digests());
                assert!(!written.content.windows(8).any(|bytes| bytes == b"protects"));
                assert_eq!(written.read(began, &digests()).unwrap(), *tree);
            }
        }
    }

    #[test]
    fn an_order_that_changed_is_written_as_a_whole() {
        let text = |first: &str, second: &str| {
            tree(&format!(
                r#"{{"system": {{"dns_servers": [{{"address": "{first}"}}, {{"address": "{second}"}}]}}}}"#
            ))
        };
        let before = text("192.0.2.1", "192.0.2.2");
        let after = text("192.0.2.2", "192.0.2.1");
        let written = Written::of(&before, &after, &digests());
        assert_ne!(written.content[0], PATCH);
        assert_eq!(written.read(&before, &digests()).unwrap(), after);
    }

    #[test]
    fn what_is_shorter_as_a_whole_is_written_so() {
        let routes = |numbers: std::ops::Range<u32>| {
            let route = |number: u32| {
                let (high, low) = (number >> 8, number & 255);
                format!(r#"{{"destination": "10.{high}.{low}.0/24", "action": "blackhole"}}"#)
            };
            let routes: Vec<String> = numbers.map(route).collect();
            tree(&format!(r#"{{"routes": [{}]}}"#, routes.join(",")))
        };
        let (many, two) = (routes(0..1000), routes(0..2));
        let less = Written::of(&many, &two, &digests());
        assert_ne!(less.content[0], PATCH);
        assert!(less.content.len() < 200, "{}", less.content.len());
        assert_eq!(less.read(&many, &digests()).unwrap(), two);
        // A long patch that is shorter than all of it.
        let (some, all) = (routes(0..1000), routes(0..2000));
        let more = Written::of(&some, &all, &digests());
        assert!(more.content[0] == PATCH && more.length() > SHORT);
        assert_eq!(more.read(&some, &digests()).unwrap(), all);
    }

    #[test]
    fn what_was_cut_off_is_refused() {
        let written = Written::of(&tree(BEFORE), &tree("{}"), &digests());
        for length in 1..written.content.len() {
            let cut = Written {
                content: written.content[..length].to_vec(),
                secrets: Vec::new(),
            };
            assert!(cut.read(&tree(BEFORE), &digests()).is_err(), "{length}");
        }
    }
}
