//! The plan of a real configuration through the scheduler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use culvert_model::bus::{self, value::Kind};
use culvert_model::decode::config_from_json;
use culvert_model::plan::{DigestKey, Key, Part, plan};
use culvert_scheduler::{Change, GatewayScheduler};

const CONFIG: &str = include_str!("../../model/tests/data/gateway.json");
const PARTS: [Part; 3] = [Part::Dataplane, Part::Linux, Part::Iked];

/// Parts that do what they are told, and give back credentials without their secrets.
#[derive(Default)]
struct Parts {
    held: BTreeMap<Part, BTreeMap<Key, bus::Value>>,
    log: Vec<String>,
    batches: usize,
}

impl Parts {
    fn drive(&mut self, scheduler: &mut GatewayScheduler) {
        loop {
            for part in scheduler.parts_to_retrieve() {
                let values = self.held.entry(part).or_default().clone();
                scheduler.retrieved(
                    part,
                    values
                        .into_iter()
                        .map(|(key, value)| (key, read_back(value))),
                );
            }
            let batches = scheduler.next_batches(Duration::ZERO);
            if batches.is_empty() {
                return;
            }
            self.batches += batches.len();
            for batch in batches {
                let held = self.held.entry(batch.part).or_default();
                let mut results = Vec::new();
                for operation in batch.operations {
                    let (verb, value) = match operation.change {
                        Change::Create(value) => ("create", Some(value)),
                        Change::Update(value) => ("update", Some(value)),
                        Change::Delete => ("delete", None),
                    };
                    self.log.push(format!("{verb} {}", operation.key));
                    match value {
                        Some(value) => held.insert(operation.key, value),
                        None => held.remove(&operation.key),
                    };
                    results.push(Ok(()));
                }
                scheduler.completed(batch.id, results, Duration::ZERO);
            }
        }
    }

    fn operations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

fn read_back(value: bus::Value) -> bus::Value {
    match value.kind {
        Some(Kind::Credential(credential)) => bus::Value {
            kind: Some(Kind::Credential(bus::Credential {
                kind: None,
                ..credential
            })),
        },
        Some(Kind::LinuxLink(link)) => bus::Value {
            kind: Some(Kind::LinuxLink(bus::LinuxLink {
                mac: vec![2, 0, 0, 0, 0, 1],
                ..link
            })),
        },
        kind => bus::Value { kind },
    }
}

fn set(scheduler: &mut GatewayScheduler, text: &str) {
    let config = config_from_json(text.as_bytes()).unwrap();
    let plan = plan(&config, &DigestKey::new([1; 32])).unwrap();
    scheduler.set_plan(&plan).unwrap();
}

fn running() -> (GatewayScheduler, Parts) {
    let mut scheduler = GatewayScheduler::new();
    let mut parts = Parts::default();
    set(&mut scheduler, CONFIG);
    for part in PARTS {
        scheduler.part_up(part);
    }
    parts.drive(&mut scheduler);
    assert!(
        scheduler.is_converged(),
        "{:?}",
        scheduler.status().collect::<Vec<_>>()
    );
    (scheduler, parts)
}

#[test]
fn a_gateway_starts_in_order() {
    let (_, mut parts) = running();
    let log = parts.operations();
    let place = |what: &str| {
        log.iter()
            .position(|line| line == &format!("create {what}"))
            .unwrap_or_else(|| panic!("{what} is not in {log:#?}"))
    };
    for (first, then) in [
        ("vrf/default", "interface/wan0"),
        ("interface/wan0", "address/wan0/192.0.2.1/24"),
        ("address/wan0/192.0.2.1/24", "route/default/0.0.0.0/0"),
        ("route/default/0.0.0.0/0", "forwarding"),
        ("tunnel/ipsec0", "forwarding"),
        ("interface/wan0", "linux/link/wan0"),
        (
            "address/wan0/192.0.2.1/24",
            "linux/address/wan0/192.0.2.1/24",
        ),
        ("linux/address/wan0/192.0.2.1/24", "linux/route/0.0.0.0/0"),
        ("forwarding", "connection/to-b"),
        ("credential/hq", "connection/to-b"),
        ("linux/route/0.0.0.0/0", "connection/to-b"),
    ] {
        assert!(place(first) < place(then), "{first} {then}");
    }
}

#[test]
fn asking_all_parts_again_changes_nothing() {
    let (mut scheduler, mut parts) = running();
    parts.operations();
    for part in PARTS {
        scheduler.part_up(part);
        parts.drive(&mut scheduler);
    }
    assert_eq!(parts.operations(), Vec::<String>::new());
}

#[test]
fn a_dataplane_that_restarts_leaves_linux_and_charon_alone() {
    let (mut scheduler, mut parts) = running();
    parts.operations();
    let held = parts.held.remove(&Part::Dataplane).unwrap().len();
    scheduler.part_up(Part::Dataplane);
    parts.drive(&mut scheduler);
    let log = parts.operations();
    assert_eq!(log.len(), held);
    assert!(
        !log.iter()
            .any(|line| line.contains("linux/") || line.contains("connection/"))
    );
    assert_eq!(log.last().unwrap(), "create forwarding");
}

#[test]
fn a_new_secret_is_one_update() {
    let (mut scheduler, mut parts) = running();
    parts.operations();
    set(&mut scheduler, &CONFIG.replace("0x6b6579", "0x6b657a"));
    parts.drive(&mut scheduler);
    assert_eq!(parts.operations(), ["update credential/hq"]);
}

#[test]
fn another_address_takes_along_what_needs_it_and_nothing_else() {
    let (mut scheduler, mut parts) = running();
    parts.operations();
    set(
        &mut scheduler,
        &CONFIG
            .replace("192.0.2.1\"", "192.0.2.9\"")
            .replace("192.0.2.1/", "192.0.2.9/"),
    );
    parts.drive(&mut scheduler);
    assert!(scheduler.is_converged());
    let log = parts.operations();
    assert!(
        !log.iter().any(|line| line.contains("lan0")
            || line.contains("forwarding")
            || line.contains("link")),
        "{log:#?}"
    );
    let place = |what: &str| log.iter().position(|line| line == what).unwrap();
    assert!(place("update connection/to-b") < place("delete linux/address/wan0/192.0.2.1/24"));
    assert!(place("create linux/address/wan0/192.0.2.9/24") < place("update connection/to-b"));
}

/// A full table is decided on in a few rounds, not in as many as there are routes.
#[test]
fn a_full_table_takes_few_batches() {
    let routes: Vec<String> = (0..20_000_u32)
        .map(|index| {
            let [_, high, middle, low] = index.to_be_bytes();
            format!(r#"{{"destination": "{}.{middle}.{low}.0/24", "next_hops": [{{"gateway": "192.0.2.2"}}]}}"#, 20 + high)
        })
        .collect();
    let text = format!(
        r#"{{"interfaces": [{{"name": "wan0", "addresses": [{{"address": "192.0.2.1/24"}}]}}], "routes": [{}]}}"#,
        routes.join(",")
    );
    let mut scheduler = GatewayScheduler::new();
    let mut parts = Parts::default();
    set(&mut scheduler, &text);
    for part in PARTS {
        scheduler.part_up(part);
    }
    parts.drive(&mut scheduler);
    assert!(scheduler.is_converged());
    assert_eq!(parts.held[&Part::Dataplane].len(), 20_004);
    // VRF, interface, address, two of routes, forwarding; link, address, two of Linux's routes.
    assert!(parts.batches <= 12, "{}", parts.batches);
}
