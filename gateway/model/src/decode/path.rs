//! Paths of a configuration: `interfaces[lan0].addresses[192.0.2.1/24].address`.

use super::leaf::shortened;

/// The path of a field of what is at `parent`.
pub(crate) fn field(parent: &str, name: &str) -> String {
    let name: String = shortened(name).escape_debug().collect();
    if parent.is_empty() {
        name
    } else {
        format!("{parent}.{name}")
    }
}

/// The path of an item of the list at `list`: by its keys, without any by its place.
pub(crate) fn item(list: &str, keys: &[String], index: usize) -> String {
    if keys.is_empty() {
        return format!("{list}[#{index}]");
    }
    let keys: Vec<String> = keys
        .iter()
        .map(|key| shortened(key).escape_debug().collect())
        .collect();
    format!("{list}[{}]", keys.join(","))
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
