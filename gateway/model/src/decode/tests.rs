#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

const RIGHT: &str = include_str!("../../tests/data/gateway.json");

fn errors(text: &str) -> Vec<String> {
    match config_from_json(text.as_bytes()) {
        Ok(config) => panic!("taken: {config:?}"),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

/// The one error of a document.
fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

#[test]
fn a_whole_configuration_is_taken() {
    let config = config_from_json(RIGHT.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.system.unwrap().host_name(), "gateway-a");
    assert_eq!(config.interfaces.len(), 2);
    assert_eq!(config.interfaces[0].mtu, None);
    assert_eq!(
        config.connections[0].children[0].start_action(),
        crate::config::StartAction::Start
    );
}

#[test]
fn json_and_binary_give_the_same() {
    let config = config_from_json(RIGHT.as_bytes()).unwrap();
    let again = config_from_binary(&config.encode_to_vec()).unwrap();
    assert_eq!(config, again);
}

#[test]
fn unknown_and_misspelled_names_are_refused_with_the_nearest() {
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "mtuu": 1500}]}"#),
        r#"interfaces[lan0].mtuu: no such field; is "mtu" meant?"#
    );
    assert_eq!(error(r#"{"zzz": 1}"#), "zzz: no such field");
    assert_eq!(
        error(r#"{"system": {"hostName": "a"}}"#),
        r#"system.hostName: written "host_name" here"#
    );
    assert_eq!(
        error(r#"{"system": {"host_name": "a", "hostName": "a"}}"#),
        r#"system.hostName: written "host_name" here"#
    );
    assert_eq!(
        error(r#"{"system": {"host_name": "a", "host_name": "b"}}"#),
        "system.host_name: given twice; write it once"
    );
}

#[test]
fn wrong_types_are_refused() {
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "mtu": "1500"}]}"#),
        "interfaces[lan0].mtu: text where a whole number from 0 belongs"
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "mtu": 1500.0}]}"#),
        "interfaces[lan0].mtu: a number below zero or not whole where a whole number from 0 belongs"
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "enabled": 1}]}"#),
        "interfaces[lan0].enabled: a number where true or false belongs"
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": null}]}"#),
        "interfaces[#0].name: null where text belongs"
    );
    assert_eq!(
        error(r#"{"interfaces": {"name": "lan0"}}"#),
        "interfaces: an object where a list belongs"
    );
    assert_eq!(error("[]"), "a list where an object belongs");
    assert_eq!(
        error(r#"{"routes": [{"destination": "10.0.0.0/8", "next_hops": [5]}]}"#),
        "routes[default,10.0.0.0/8].next_hops[#0]: a number where an object belongs"
    );
}

#[test]
fn values_out_of_range_and_malformed_are_refused() {
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "mtu": 9217}]}"#),
        "interfaces[lan0].mtu: 9217 is not between 576 and 9216 bytes"
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "mtu": 99999999999}]}"#),
        "interfaces[lan0].mtu: 99999999999 is not between 576 and 9216 bytes"
    );
    assert_eq!(
        error(
            r#"{"routes": [{"destination": "10.1.2.3/8", "next_hops": [{"gateway": "10.0.0.1"}]}]}"#
        ),
        r#"routes[default,10.1.2.3/8].destination: "10.1.2.3/8" has bits beyond its length; the network is 10.0.0.0/8"#
    );
    assert!(
        error(r#"{"interfaces": [{"name": "lan0", "addresses": [{"address": "10.0.0.1"}]}]}"#)
            .contains("such as 192.0.2.1/24")
    );
}

#[test]
fn missing_and_duplicate_keys_are_refused() {
    assert_eq!(
        error(r#"{"interfaces": [{"mtu": 1500}]}"#),
        "interfaces[#0].name: missing; it must be given"
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0"}, {"name": "lan0"}]}"#),
        "interfaces[lan0]: the same as interfaces[#0]; each may stand once"
    );
    assert_eq!(
        error(
            r#"{"routes": [
                {"destination": "2001:db8::/32", "next_hops": [{"gateway": "fe80::1"}]},
                {"vrf": "default", "destination": "2001:DB8:0::/32", "next_hops": [{"gateway": "fe80::1"}]}
            ]}"#
        ),
        "routes[default,2001:db8::/32]: the same as routes[#0]; each may stand once"
    );
    assert_eq!(
        error(r#"{"credentials": {"pre_shared_keys": [{"name": "hq", "secret": "x"}]}}"#),
        "credentials.pre_shared_keys[hq].identities: missing; it must be given"
    );
    assert_eq!(
        error(r#"{"routes": [{"destination": "10.0.0.0/8", "next_hops": [{}]}]}"#),
        "routes[default,10.0.0.0/8].next_hops[#0]: at least one of gateway, interface, vrf must be given"
    );
}

#[test]
fn references_to_nothing_are_refused_with_the_nearest() {
    assert_eq!(
        error(r#"{"vrfs": [{"name": "blue"}], "interfaces": [{"name": "lan0", "vrf": "bleu"}]}"#),
        r#"interfaces[lan0].vrf: "bleu" is not in vrfs; is "blue" meant?"#
    );
    assert_eq!(
        error(r#"{"interfaces": [{"name": "lan0", "vrf": "defualt"}]}"#),
        r#"interfaces[lan0].vrf: "defualt" is not in vrfs; is "default" meant?"#
    );
    assert_eq!(
        error(
            r#"{"interfaces": [{"name": "lan0"}], "tunnels": [{"name": "ipsec0", "if_id": 1}],
                "routes": [{"destination": "10.0.0.0/8", "next_hops": [{"interface": "ipsec1"}]}]}"#
        ),
        r#"routes[default,10.0.0.0/8].next_hops[ipsec1].interface: "ipsec1" is not in interfaces or tunnels or ip_tunnels; is "ipsec0" meant?"#
    );
}

#[test]
fn keywords_are_words() {
    let text = RIGHT.replace(r#""start_action": "start""#, r#""start_action": "strat""#);
    assert_ne!(text, RIGHT);
    assert_eq!(
        error(&text),
        r#"connections[to-b].children[net].start_action: "strat" is not one of none, start, trap; is "start" meant?"#
    );
    let text = RIGHT.replace(r#""start_action": "start""#, r#""start_action": 2"#);
    assert_eq!(
        error(&text),
        r#"connections[to-b].children[net].start_action: "2" is not one of none, start, trap"#
    );
}

#[test]
fn all_errors_are_told_at_once() {
    let errors = errors(
        r#"{"system": {"host_name": "-"}, "interfaces": [{"name": "a b"}, {"name": "lan0", "mtu": 1}, {"naem": 3}]}"#,
    );
    assert_eq!(errors.len(), 5, "{errors:#?}");
}

#[test]
fn errors_do_not_repeat_secrets() {
    let text = RIGHT.replace("0x6b6579", "0xnot-hexadecimal");
    assert_ne!(text, RIGHT);
    let error = error(&text);
    assert!(
        error.starts_with("credentials.pre_shared_keys[hq].secret: not a secret"),
        "{error}"
    );
    assert!(!error.contains("hexadecimal\""), "{error}");
    assert!(!error.contains("0xnot"), "{error}");
}

#[test]
fn binary_is_as_strict() {
    let reasons = |bytes: &[u8]| config_from_binary(bytes).unwrap_err().to_string();
    // Field 200, a varint.
    assert_eq!(reasons(&[0xc0, 0x0c, 1]), "no field has the number 200");
    // system { host_name: "a" host_name: "b" }
    assert!(reasons(&[0x0a, 6, 0x0a, 1, b'a', 0x0a, 1, b'b']).contains("given twice"));
    // connections { children { start_action: 7 } }
    let text = reasons(&[0x32, 4, 0x72, 2, 0x30, 7]);
    assert!(
        text.contains("children[#0].start_action: 7 is not one of none, start, trap"),
        "{text}"
    );
    // The zero is not a value either.
    let text = reasons(&[0x32, 4, 0x72, 2, 0x30, 0]);
    assert!(text.contains("start_action: 0 is not one of"), "{text}");
    assert!(config_from_binary(&vec![0; MAX_BYTES + 1]).is_err());
    assert!(config_from_binary(&[0xff; 7]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any bytes: an answer, no panic.
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = config_from_json(&bytes);
        let _ = config_from_binary(&bytes);
    }

    /// A right document with bytes replaced, removed and inserted.
    #[test]
    fn mutated_documents_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..3_u8, any::<u8>()), 1..8)
    ) {
        let config = config_from_json(RIGHT.as_bytes()).unwrap();
        for (document, binary) in [(RIGHT.as_bytes().to_vec(), false), (config.encode_to_vec(), true)] {
            let mut document = document;
            for (place, what, byte) in &changes {
                let place = place.index(document.len());
                match what {
                    0 => document[place] = *byte,
                    1 => { document.remove(place); }
                    _ => document.insert(place, *byte),
                }
            }
            let _ = if binary { config_from_binary(&document) } else { config_from_json(&document) };
        }
    }

    /// Any JSON of the schema's own names: what is taken survives the binary form unchanged.
    #[test]
    fn what_is_taken_is_the_same_in_binary(text in document(4)) {
        if let Ok(config) = config_from_json(text.as_bytes()) {
            prop_assert_eq!(config_from_binary(&config.encode_to_vec()).unwrap(), config);
        }
    }
}

/// JSON made of names and values of the schema in any place.
fn document(depth: u32) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<u16>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:?}")),
        proptest::sample::select(vec![
            "lan0",
            "default",
            "10.0.0.0/8",
            "10.0.0.1/8",
            "192.0.2.1",
            "psk",
            "start",
            "%any",
            "",
        ])
        .prop_map(|text| format!("{text:?}")),
    ];
    leaf.prop_recursive(depth, 64, 6, |inner| {
        let name = proptest::sample::select(vec![
            "system",
            "host_name",
            "interfaces",
            "name",
            "mtu",
            "addresses",
            "address",
            "vrf",
            "vrfs",
            "routes",
            "destination",
            "next_hops",
            "gateway",
            "interface",
            "tunnels",
            "if_id",
            "ifId",
        ]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((name, inner), 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries
                    .into_iter()
                    .map(|(name, value)| format!("{name:?}:{value}"))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}
