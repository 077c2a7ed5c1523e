//! From the paths that errors name to places, so that people are told them in words.

use super::Tree;
use super::location::{Location, path_of_key};
use super::shape::{self, Field};

impl Tree {
    /// The deepest place that a path of the decoder, [`Tree::validate`] or [`plan`](crate::plan::plan) names,
    /// for example `interfaces[lan0].mtu`. Items must be there; a field may be missing.
    /// Of items whose paths read the same, which is so where keys may be absent, it is the first.
    pub fn locate(&self, path: &str) -> Location {
        let mut location = Location::root();
        let mut message = shape::root();
        let mut rest = path;
        loop {
            let Some((field, after)) = message
                .fields
                .iter()
                .find_map(|field| Some((field, after_name(field, rest)?)))
            else {
                return location;
            };
            location = location.field(field);
            rest = after;
            let Some(inner) = field.inner() else {
                return location;
            };
            message = inner;
            if field.is_list() {
                let found = self.list(&location).and_then(|list| {
                    list.items.keys().find_map(|key| {
                        let after = rest.strip_prefix(path_of_key(inner, key).as_str())?;
                        at_end(after).then_some((key, after))
                    })
                });
                let Some((key, after)) = found else {
                    return location;
                };
                location = location.item(key);
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(next) => rest = next,
                None => return location,
            }
        }
    }
}

fn at_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

fn after_name<'a>(field: &Field, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(field.name.as_str())?;
    (at_end(rest) || rest.starts_with('[')).then_some(rest)
}
