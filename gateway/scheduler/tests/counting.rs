//! How many operations a change takes on a large gateway: 10,000 routes and 1,000 tunnels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use culvert_model::bus::{self, value::Kind};
use culvert_model::decode::config_from_json;
use culvert_model::large::configuration;
use culvert_model::plan::{DigestKey, Key, Part, plan};
use culvert_scheduler::{Change, GatewayScheduler};

const PARTS: [Part; 3] = [Part::Dataplane, Part::Linux, Part::Iked];

/// A gateway whose parts do what they are told, and tell of credentials only the digest.
struct Gateway {
    scheduler: GatewayScheduler,
    held: BTreeMap<Part, BTreeMap<Key, bus::Value>>,
}

impl Gateway {
    fn running(text: &str) -> Self {
        let mut gateway = Self {
            scheduler: GatewayScheduler::new(),
            held: PARTS.map(|part| (part, BTreeMap::new())).into(),
        };
        for part in PARTS {
            gateway.scheduler.part_up(part);
        }
        gateway.operations(text);
        assert!(gateway.scheduler.is_converged());
        gateway
    }

    /// What it takes to follow another configuration.
    fn operations(&mut self, text: &str) -> Vec<String> {
        let config = config_from_json(text.as_bytes()).unwrap();
        let plan = plan(&config, &DigestKey::new([1; 32])).unwrap();
        self.scheduler.set_plan(&plan).unwrap();
        self.drive()
    }

    /// What it takes after every part was asked what it holds.
    fn resynchronised(&mut self) -> Vec<String> {
        for part in PARTS {
            self.scheduler.resynchronise(part);
        }
        self.drive()
    }

    fn drive(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        loop {
            for part in self.scheduler.parts_to_retrieve() {
                let values = self.held[&part].clone().into_iter();
                let values = values.map(|(key, value)| (key, without_secret(value)));
                self.scheduler.retrieved(part, values);
            }
            let batches = self.scheduler.next_batches(Duration::ZERO);
            if batches.is_empty() {
                return log;
            }
            for batch in batches {
                let held = self.held.get_mut(&batch.part).unwrap();
                let mut results = Vec::new();
                for operation in batch.operations {
                    let (verb, value) = match operation.change {
                        Change::Create(value) => ("create", Some(value)),
                        Change::Update(value) => ("update", Some(value)),
                        Change::Delete => ("delete", None),
                    };
                    log.push(format!("{verb} {}", operation.key));
                    match value {
                        Some(value) => held.insert(operation.key, value),
                        None => held.remove(&operation.key),
                    };
                    results.push(Ok(()));
                }
                self.scheduler.completed(batch.id, results, Duration::ZERO);
            }
        }
    }
}

fn without_secret(value: bus::Value) -> bus::Value {
    match value.kind {
        Some(Kind::Credential(credential)) => bus::Value {
            kind: Some(Kind::Credential(bus::Credential {
                kind: None,
                ..credential
            })),
        },
        kind => bus::Value { kind },
    }
}

#[test]
fn a_change_on_a_large_gateway_is_one_operation() {
    let text = configuration(10_000, 1_000);
    let mut gateway = Gateway::running(&text);
    assert_eq!(gateway.operations(&text), Vec::<String>::new());
    assert_eq!(gateway.resynchronised(), Vec::<String>::new());

    let changed = text.replacen(
        r#""10.1.1.0/24", "next_hops": [{"interface": "ipsec258"}]"#,
        r#""10.1.1.0/24", "next_hops": [{"interface": "ipsec259"}]"#,
        1,
    );
    assert_ne!(changed, text);
    let log = gateway.operations(&changed);
    assert_eq!(log, ["update route/default/10.1.1.0/24"]);

    // What the box's own traffic takes, too, is in Linux as well: one operation for each of the two who have it.
    let text = changed;
    let changed = text.replacen(
        r#""20.20.20.0/24", "next_hops": [{"gateway": "192.0.2.2"}]"#,
        r#""20.20.20.0/24", "next_hops": [{"gateway": "192.0.2.3"}]"#,
        1,
    );
    assert_ne!(changed, text);
    let log = gateway.operations(&changed);
    assert_eq!(
        log,
        [
            "update route/default/20.20.20.0/24",
            "update linux/route/20.20.20.0/24"
        ]
    );

    // A timer of one connection: it is loaded anew, and nothing is taken away.
    let timer = changed.replacen(
        r#""name": "peer500","#,
        r#""name": "peer500", "dpd_delay": 7,"#,
        1,
    );
    assert_ne!(timer, changed);
    assert_eq!(gateway.operations(&timer), ["update connection/peer500"]);
    assert_eq!(gateway.resynchronised(), Vec::<String>::new());
    assert!(gateway.scheduler.is_converged());
}

#[test]
fn what_was_tampered_with_is_put_right_and_nothing_else() {
    let mut gateway = Gateway::running(&configuration(10_000, 1_000));
    let mut expected = Vec::new();
    let dataplane = gateway.held.get_mut(&Part::Dataplane).unwrap();
    for number in [3, 500, 999] {
        let key = Key::from(format!("route/default/20.10.{}.0/24", number % 256));
        dataplane.remove(&key).unwrap();
        expected.push(format!("create {key}"));
    }
    let key = Key::from("tunnel/ipsec77");
    let Some(Kind::Tunnel(tunnel)) = &mut dataplane.get_mut(&key).unwrap().kind else {
        panic!("{key}");
    };
    tunnel.mtu = Some(1000);
    expected.push(format!("update {key}"));
    let stranger = Key::from("route/default/30.0.0.0/8");
    let route = dataplane[&Key::from("route/default/20.4.4.0/24")].clone();
    dataplane.insert(stranger.clone(), route);
    expected.push(format!("delete {stranger}"));

    // A key that is not the configured one is known by its digest alone; the others' are the same.
    let iked = gateway.held.get_mut(&Part::Iked).unwrap();
    let key = Key::from("credential/key12");
    let Some(Kind::Credential(credential)) = &mut iked.get_mut(&key).unwrap().kind else {
        panic!("{key}");
    };
    credential.digest = vec![0; 32];
    expected.push(format!("update {key}"));

    let mut log = gateway.resynchronised();
    log.sort();
    expected.sort();
    assert_eq!(log, expected);
    assert!(gateway.scheduler.is_converged());
    assert_eq!(gateway.resynchronised(), Vec::<String>::new());
}
