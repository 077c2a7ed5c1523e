//! A plan made after another is the plan.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Before, DigestKey, Kept, Plan, PlanErrors, plan, plan_after};
use crate::config::Config;
use crate::tree::{Location, Setting, Tree, words};

/// What may be said or not, each on its own. Some of it is wrong without the rest.
const LINES: &[&str] = &[
    "interfaces wan mtu 1400",
    "interfaces wan addresses 192.0.2.1/24",
    "interfaces wan addresses 198.51.100.1/24",
    "interfaces wan vrf red",
    "interfaces wan self_traffic false",
    "interfaces lan addresses 10.0.0.1/24",
    "interfaces lan mss_clamp true",
    "loopbacks lo0 addresses 10.255.0.1/32",
    "tunnels t1 if_id 1",
    "tunnels t1 mtu 1380",
    "tunnels t1 addresses 10.9.0.1/30",
    "tunnels t2 if_id 2",
    "ip_tunnels g1 local_address 192.0.2.1",
    "ip_tunnels g1 remote_address 203.0.113.9",
    "ip_tunnels g1 mode gre",
    "routes 0.0.0.0/0 next_hops 192.0.2.254",
    "routes 10.1.0.0/16 next_hops 203.0.113.1",
    "routes 203.0.113.0/24 next_hops 192.0.2.7",
    "routes 203.0.113.0/24 next_hops 192.0.2.8",
    "routes 203.0.112.0/23 next_hops 10.0.0.7",
    "routes 10.3.0.0/16 next_hops interface t1",
    "routes 10.4.0.0/16 action blackhole",
    "routes 10.5.0.0/16 next_hops 10.0.0.9",
    "connections a remote_address 203.0.113.1",
    "connections a local_address 192.0.2.1",
    "connections a local identity a",
    "connections a remote identity b",
    "connections a local method psk",
    "connections a remote method psk",
    "connections a dpd_delay 17",
    "connections a children c tunnel t1",
    "connections b remote_address peer.example.com",
    "connections b remote identity c",
    "connections b local method psk",
    "connections b remote method psk",
    "connections b children d tunnel t2",
    "credentials pre_shared_keys k secret \"protects nothing\"",
    "credentials pre_shared_keys k identities b",
    "credentials pre_shared_keys l secret \"protects nothing either\"",
    "credentials pre_shared_keys l identities c",
    "system dns_servers 192.0.2.53",
    "policies p action discard",
];

fn setting(line: &str) -> Setting {
    Setting::parse(&words::split(line).unwrap(), &Location::root()).unwrap()
}

/// What some of the lines say.
fn config(chosen: &[bool]) -> Config {
    let mut tree = Tree::empty();
    for (line, _) in LINES.iter().zip(chosen).filter(|(_, chosen)| **chosen) {
        tree.set(&setting(line)).unwrap();
    }
    tree.to_config().unwrap()
}

fn told(outcome: Result<Plan, PlanErrors>) -> Result<Plan, Vec<String>> {
    outcome.map_err(|errors| {
        let mut texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    })
}

proptest! {
    #[test]
    fn a_tree_after_another_is_judged_as_if_it_were_alone(
        changes in vec(0..LINES.len(), 1..60),
    ) {
        let mut tree = Tree::empty();
        let mut before: Option<(Tree, Config)> = None;
        for line in changes {
            let setting = setting(LINES[line]);
            if tree.contains(setting.location()) {
                tree.delete(setting.location()).unwrap();
            } else {
                tree.set(&setting).unwrap();
            }
            let config = tree.to_config().unwrap();
            if let Some((before, old)) = &before {
                prop_assert_eq!(tree.validate_after(before), tree.validate());
                prop_assert_eq!(&tree.to_config_after(before, old).unwrap(), &config);
            }
            if tree.validate().is_ok() {
                before = Some((tree.clone(), config));
            }
        }
    }

    #[test]
    fn a_plan_after_another_is_the_plan(
        first in vec(prop::bool::weighted(0.8), LINES.len()),
        changes in vec(vec(0..LINES.len(), 1..4), 1..12),
    ) {
        let digests = DigestKey::new([3; 32]);
        let mut chosen = first;
        let mut before: Option<(Config, Kept)> = None;
        for change in changes {
            let config = config(&chosen);
            let known = before.as_ref().map(|(config, kept)| Before { config, kept });
            let (after, kept) = match plan_after(known, &config, &digests) {
                Ok((plan, kept)) => (Ok(plan), Some(kept)),
                Err(errors) => (Err(errors), None),
            };
            prop_assert_eq!(told(after), told(plan(&config, &digests)));
            if let Some(kept) = kept {
                before = Some((config, kept));
            }
            for line in change {
                chosen[line] = !chosen[line];
            }
        }
    }
}

#[test]
fn what_has_not_changed_is_shared() {
    let digests = DigestKey::new([3; 32]);
    let mut chosen = vec![true; LINES.len()];
    for wrong in [
        "interfaces wan vrf red",
        "interfaces wan self_traffic false",
    ] {
        let place = LINES.iter().position(|line| *line == wrong).unwrap();
        chosen[place] = false;
    }
    let one = config(&chosen);
    let (old, kept) = plan_after(None, &one, &digests).unwrap();
    let shared = |line: &str| {
        let mut chosen = chosen.clone();
        let place = LINES.iter().position(|one| *one == line).unwrap();
        chosen[place] = false;
        let config = config(&chosen);
        let before = Before {
            config: &one,
            kept: &kept,
        };
        let (new, _) = plan_after(Some(before), &config, &digests).unwrap();
        let same = |key: &str| {
            let [old, new] = [&old, &new].map(|plan| plan.get(&key.into()));
            old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new))
        };
        [
            "route/default/10.5.0.0/16",
            "route/default/10.1.0.0/16",
            "connection/a",
            "credential/k",
        ]
        .map(same)
    };
    assert_eq!(shared("interfaces wan mtu 1400"), [true; 4]);
    assert_eq!(shared("tunnels t1 mtu 1380"), [true, true, false, true]);
    assert_eq!(
        shared("connections a dpd_delay 17"),
        [true, true, false, true]
    );
    // The way of one leads by others.
    let others = [true, false, false, true];
    assert_eq!(shared("routes 10.4.0.0/16 action blackhole"), others);
    let ports = [false, false, false, true];
    assert_eq!(shared("interfaces lan addresses 10.0.0.1/24"), ports);
}
