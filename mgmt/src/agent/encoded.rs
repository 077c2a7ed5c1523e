//! Content and secrets of a configuration, as they are stored. What is as it was the last time is not encoded again.
//!
//! ```text
//!   system | interfaces | routes | ...      fields of the configuration, each encoded on its own:
//!      =          !          =              one after the other they are the canonical form
//! ```

use culvert_model::plan::DigestKey;
use culvert_model::tree::Tree;

use super::records::secrets_of;
use crate::store::Secret;

/// The fields that were encoded last.
#[derive(Default)]
pub(super) struct Encoded(Vec<(Tree, Vec<u8>)>);

impl Encoded {
    /// Content, with digests for secrets, and the secrets.
    pub(super) fn apart(&mut self, tree: &Tree, digests: &DigestKey) -> (Vec<u8>, Vec<Secret>) {
        let mut before = std::mem::take(&mut self.0);
        let (mut content, mut secrets) = (Vec::new(), Vec::new());
        for field in tree.fields() {
            let (hidden, taken) = field.take_secrets(digests);
            secrets.extend(secrets_of(taken));
            let known = before.iter().position(|(known, _)| *known == hidden);
            let encoded = match known {
                Some(place) => before.swap_remove(place),
                None => {
                    let bytes = hidden.canonical_bytes().to_vec();
                    (hidden, bytes)
                }
            };
            content.extend_from_slice(&encoded.1);
            self.0.push(encoded);
        }
        (content, secrets)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::large;

    use super::super::records::apart;
    use super::*;

    #[test]
    fn field_by_field_it_is_the_canonical_form() {
        let digests = DigestKey::new([9; 32]);
        let mut encoded = Encoded::default();
        let tree = |routes, tunnels| {
            let text = large::configuration(routes, tunnels);
            Tree::from_json(text.as_bytes()).unwrap()
        };
        let all = [
            tree(20, 5),
            tree(20, 5),
            tree(30, 5),
            tree(20, 6),
            Tree::empty(),
            tree(20, 5),
        ];
        for tree in &all {
            assert!(encoded.apart(tree, &digests) == apart(tree, &digests));
        }
    }

    #[test]
    fn what_is_kept_has_no_secret() {
        let text = r#"{"credentials": {"pre_shared_keys": [{"name": "k", "secret": "protects nothing"}]}}"#;
        let tree = Tree::from_json(text.as_bytes()).unwrap();
        let digests = DigestKey::new([9; 32]);
        let mut encoded = Encoded::default();
        let (_, secrets) = encoded.apart(&tree, &digests);
        assert_eq!(secrets.len(), 1);
        assert_eq!(encoded.0.len(), 1);
        assert!(
            encoded
                .0
                .iter()
                .all(|(tree, _)| tree.first_digest().is_some())
        );
    }
}
