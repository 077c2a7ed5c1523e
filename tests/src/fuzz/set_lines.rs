//! Set lines as a person or a program gives them: refused whole, or taken and never lost.
//!
//! ```text
//!   lines ──load──> tree ──┬─ set lines, JSON ──────────────> the same tree
//!                          ├─ what a candidate is kept as ──> the same tree, secrets and all
//!                          └─ validate, plan                  or what is wrong
//! ```

use culvert_model::plan::{self, DigestKey};
use culvert_model::tree::{Location, Purpose, Show, Tree, complete, words::split};

/// Loads, keeps and reads back.
pub fn feed(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let root = Location::root();
    if let Some(words) = text.lines().next().and_then(|line| split(line).ok()) {
        let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let behind = words.get(1..).unwrap_or_default();
        for purpose in [Purpose::Set, Purpose::Existing, Purpose::Edit] {
            let _ = complete(behind, "", &root, &Tree::empty(), purpose);
        }
    }
    let Ok(tree) = Tree::empty().load(text, &root) else {
        return;
    };
    let digests = DigestKey::new([7; 32]);
    let lines = tree.to_set_lines(&root, &Show::PLAIN);
    assert_eq!(Tree::empty().load(&lines, &root).as_ref(), Ok(&tree));
    let json = tree.to_json(&root, &Show::PLAIN);
    assert_eq!(Tree::from_json(json.as_bytes()).as_ref(), Ok(&tree));
    if tree.first_digest().is_some() {
        // Nothing is there that it could stand for.
        assert!(tree.with_present_secrets(&[&tree], &digests).is_err());
        return;
    }
    let (apart, secrets) = tree.take_secrets(&digests);
    let kept = Tree::from_canonical_bytes(&apart.canonical_bytes());
    let secrets = secrets
        .iter()
        .map(|(path, secret)| (path.as_str(), secret.as_slice()));
    let together = kept.and_then(|kept| kept.put_secrets(secrets, &digests));
    assert_eq!(together.as_ref(), Ok(&tree));
    if tree.validate().is_ok()
        && let Ok(config) = tree.to_config()
    {
        let _ = plan::plan(&config, &digests);
    }
}
