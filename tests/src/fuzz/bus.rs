//! What other processes ask of the dataplane: SAs, policies and values, from their bytes to the tables.
//!
//! ```text
//!   input = which (1 byte) | a message:  which % 4: 0 Sa, 1 Policy, 2 TrafficPolicy, 3 ApplyRequest
//! ```

use std::sync::Arc;

use culvert_crypto::Portable;
use culvert_dataplane::control::{Action, ControlPlane, DetectionTiming};
use culvert_dataplane::sa::{SaManager, SaTables, service};
use culvert_dataplane::tables::{Publisher, Tables};
use culvert_model::bus::{self, ApplyRequest};
use culvert_net::MacAddr;
use prost::Message;

/// Reads the message and installs what it asks for; what was installed is shown as it was asked for.
pub fn feed(input: &[u8]) {
    let Some((which, message)) = input.split_first() else {
        return;
    };
    match which % 4 {
        0 => sa(message),
        1 => policy(message),
        2 => configured(message),
        _ => apply(message),
    }
}

fn manager() -> (SaManager, SaTables) {
    match SaManager::new(Arc::new(Portable)) {
        Ok(manager) => (manager, SaTables::default()),
        Err(error) => panic!("{error}"),
    }
}

fn sa(message: &[u8]) {
    let Ok(spec) = bus::Sa::decode(message).map(|sa| service::sa_from_bus(&sa)) else {
        return;
    };
    let Ok(spec) = spec else { return };
    let (mut manager, mut tables) = manager();
    let suite = spec.suite;
    let key = |length: usize| vec![7; length];
    let keys = [suite.encryption_key_len(), suite.integrity_key_len()].map(key);
    let Ok(index) = manager.add(&mut tables, spec, &keys[0], &keys[1]) else {
        return;
    };
    let Some(installed) = tables.sas.get(index) else {
        panic!("an SA that was added is there");
    };
    // Of selectors that were no pairs the dump may have more than an SA can be asked for with.
    let dump = service::dump(installed);
    if let Some(Ok(again)) = dump.sa.as_ref().map(service::sa_from_bus) {
        assert_eq!(again.id, installed.spec.id);
        assert_eq!(again.suite, installed.spec.suite);
    }
}

fn policy(message: &[u8]) {
    let Ok(policy) = bus::Policy::decode(message) else {
        return;
    };
    let Ok(spec) = service::policy_from_bus(&policy) else {
        return;
    };
    let shown = service::policy_to_bus(&spec);
    assert_eq!(service::policy_from_bus(&shown).ok(), Some(spec));
    let (mut manager, mut tables) = manager();
    assert!(manager.add_policy(&mut tables, spec).is_ok());
    assert!(manager.add_policy(&mut tables, spec).is_ok());
    assert!(manager.delete_policy(&mut tables, spec.id).is_ok());
    assert!(tables.policies.get(spec.id.if_id).is_none());
    assert!(tables.inbound_policies.is_empty());
}

fn configured(message: &[u8]) {
    let Ok(policy) = bus::TrafficPolicy::decode(message) else {
        return;
    };
    let Ok(configured) = service::configured_from_bus(&policy) else {
        return;
    };
    let (mut manager, mut tables) = manager();
    for standing in [Some(&configured), Some(&configured), None] {
        assert!(manager.configure(&mut tables, "one", standing).is_ok());
    }
    assert!(tables.inbound_policies.is_empty());
}

fn apply(message: &[u8]) {
    let Ok(request) = ApplyRequest::decode(message) else {
        return;
    };
    let publisher = Publisher::new(Tables::default());
    let mut plane = ControlPlane::new(publisher, DetectionTiming::default());
    let device = |_: &str| Some(MacAddr([2, 0, 0, 0, 1, 1]));
    let mut now = 1_000_000_000;
    for operation in &request.operations {
        if let Ok(actions) = plane.apply(operation, &device, now) {
            let opened = |action: &Action| matches!(action, Action::OpenPort { .. });
            assert!(actions.iter().filter(|action| opened(action)).count() <= 1);
        }
        now += 1_000_000_000;
        let _ = plane.tick(now);
    }
    // Whatever was taken is there, once.
    let mut keys: Vec<_> = plane
        .retrieve()
        .into_iter()
        .map(|value| value.key)
        .collect();
    let all = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), all);
}
