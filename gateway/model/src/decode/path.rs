//! Paths of a configuration: `interfaces[lan0].addresses[192.0.2.1/24].address`.

use super::leaf::{LONGEST, shortened};

/// The path of a field of what is at `parent`.
pub(crate) fn field(parent: &str, name: &str) -> String {
    let mut path = String::with_capacity(parent.len() + name.len() + 1);
    path.push_str(parent);
    if !parent.is_empty() {
        path.push('.');
    }
    push(&mut path, name);
    path
}

/// The path of an item of the list at `list`: by its keys, without any by its place.
pub(crate) fn item(list: &str, keys: &[impl AsRef<str>], index: usize) -> String {
    if keys.is_empty() {
        return place(list, index);
    }
    let length: usize = keys.iter().map(|key| key.as_ref().len() + 1).sum();
    let mut path = String::with_capacity(list.len() + length + 1);
    path.push_str(list);
    for (number, key) in keys.iter().enumerate() {
        path.push(if number == 0 { '[' } else { ',' });
        push(&mut path, key.as_ref());
    }
    path.push(']');
    path
}

/// The path of an item by its place in the list at `list`.
pub(crate) fn place(list: &str, index: usize) -> String {
    format!("{list}[#{index}]")
}

/// What somebody wrote, as far as it can be shown.
fn push(path: &mut String, text: &str) {
    // Nearly all of it.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if text.len() <= LONGEST && text.as_bytes().iter().all(plain) {
        path.push_str(text);
    } else {
        path.extend(shortened(text).escape_debug());
    }
}

/// A path below another.
pub(crate) fn join(parent: &str, inner: &str) -> String {
    format!("{parent}.{inner}")
}

/// Whether `inner` is `outer` or lies below it.
pub(crate) fn within(outer: &str, inner: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
