//! Values that wait for each other.
//!
//! A plan had no circle before: one that it has now goes through a value that depends on other keys than it did, and is
//! found from there.

use std::collections::{BTreeMap, HashMap};

use crate::{Domain, Plan};

/// Whether a way along dependencies, from one of these, comes back to where it has been.
pub(crate) fn is_reached<D: Domain>(plan: &Plan<D>, from: &[D::Key]) -> bool {
    let step = |key| {
        let (key, planned) = plan.get_key_value(key)?;
        Some((key, planned.needs.iter().chain(&planned.after)))
    };
    // Whether all ways from there are known to end.
    let mut ends: HashMap<&D::Key, bool> = HashMap::new();
    for start in from {
        if ends.contains_key(start) {
            continue;
        }
        let mut way: Vec<_> = step(start).into_iter().collect();
        ends.extend(way.iter().map(|(key, _)| (*key, false)));
        while let Some((key, dependencies)) = way.last_mut() {
            let Some(next) = dependencies.next() else {
                ends.insert(key, true);
                way.pop();
                continue;
            };
            match ends.get(next) {
                Some(true) => {}
                Some(false) => return true,
                None => {
                    if let Some((next, dependencies)) = step(next) {
                        ends.insert(next, false);
                        way.push((next, dependencies));
                    }
                }
            }
        }
    }
    false
}

/// The keys that can never be created because they wait for each other.
pub(crate) fn stuck<D: Domain>(plan: &Plan<D>) -> Vec<D::Key> {
    let mut dependents: BTreeMap<&D::Key, Vec<&D::Key>> = BTreeMap::new();
    let mut waiting: BTreeMap<&D::Key, usize> = BTreeMap::new();
    let mut ready: Vec<&D::Key> = Vec::new();
    for (key, planned) in plan {
        let inside = planned
            .needs
            .iter()
            .chain(&planned.after)
            .filter(|other| plan.contains_key(other));
        let mut count = 0;
        for other in inside {
            dependents.entry(other).or_default().push(key);
            count += 1;
        }
        if count == 0 {
            ready.push(key);
        } else {
            waiting.insert(key, count);
        }
    }
    while let Some(key) = ready.pop() {
        for dependent in dependents.get(key).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(dependent) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(dependent);
                    ready.push(dependent);
                }
            }
        }
    }
    waiting.into_keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use culvert_model::bus;
    use culvert_model::plan::{Key, Part, Planned};
    use proptest::prelude::*;

    use super::*;
    use crate::Gateway;

    type Links = Vec<(u8, Vec<u8>)>;

    fn plan(links: &Links) -> Plan<Gateway> {
        let key = |number: &u8| Key::from(number.to_string());
        let planned = |(number, needs): &(u8, Vec<u8>)| {
            let planned = Planned {
                value: bus::Value::default(),
                part: Part::Linux,
                needs: needs.iter().map(key).collect(),
                after: Vec::new(),
                origins: Vec::new(),
            };
            (key(number), Arc::new(planned))
        };
        links.iter().map(planned).collect()
    }

    proptest! {
        #[test]
        fn a_new_circle_is_found_from_what_is_linked_otherwise(
            before in links(), after in links()
        ) {
            let (mut old, new) = (plan(&before), plan(&after));
            // No circle was there before.
            for key in stuck::<Gateway>(&old) {
                old.remove(&key);
            }
            let relinked: Vec<Key> = new
                .iter()
                .filter(|(key, planned)| {
                    old.get(*key).is_none_or(|before| before.needs != planned.needs)
                })
                .map(|(key, _)| key.clone())
                .collect();
            let circle = !stuck::<Gateway>(&new).is_empty();
            prop_assert_eq!(is_reached::<Gateway>(&new, &relinked), circle);
        }
    }

    fn links() -> impl Strategy<Value = Links> {
        prop::collection::vec((0..12u8, prop::collection::vec(0..12u8, 0..3)), 0..12)
    }
}
