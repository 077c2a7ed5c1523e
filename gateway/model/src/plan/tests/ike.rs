//! Connections, CHILD_SAs and what proves who somebody is.

use super::*;

#[test]
fn a_second_underlay_is_refused() {
    let text = changed(
        r#""tunnels": ["#,
        r#""vrfs": [{"name": "blue"}], "tunnels": [{"name": "ipsec1", "if_id": 2, "underlay_vrf": "blue"}, "#,
    );
    let second = r#"{
          "name": "other",
          "tunnel": "ipsec1"
        },
        {
          "name": "net","#;
    let text = text.replace("{\n          \"name\": \"net\",", second);
    let errors = errors(&text);
    assert!(
        errors.contains(
            &"connections[to-b].children[net].tunnel: IKE runs in VRF blue already, because of connections[to-b].children[other]; one underlay VRF is supported".to_owned()
        ),
        "{errors:#?}"
    );
}

#[test]
fn digests_tell_credentials_apart_and_nothing_else() {
    let credential = |text: &str, key: &DigestKey| {
        let config = config_from_json(text.as_bytes()).unwrap();
        let plan = plan(&config, key).unwrap();
        plan[&Key::from("credential/hq")].value.clone()
    };
    let first = credential(GATEWAY, &key());
    let again = credential(GATEWAY, &key());
    let other = credential(&changed("0x6b6579", "0x6b657a"), &key());
    let elsewhere = credential(GATEWAY, &DigestKey::new([8; 32]));
    assert!(same(&first, &again));
    assert!(!same(&first, &other));
    assert!(!same(&first, &elsewhere));
    // What a part gives back: no secret.
    let Some(Kind::Credential(full)) = first.kind.clone() else {
        panic!();
    };
    let held = bus::Value {
        kind: Some(Kind::Credential(bus::Credential { kind: None, ..full })),
    };
    assert!(same(&first, &held));
    assert!(!same(&other, &held));
}

#[test]
fn certificates_become_der() {
    let pem = "-----BEGIN EC PARAMETERS-----\\nBggqhkjOPQMBBw==\\n-----END EC PARAMETERS-----\\n-----BEGIN EC PRIVATE KEY-----\\nAAEC\\n-----END EC PRIVATE KEY-----\\n";
    let text =
        format!(r#"{{"credentials": {{"private_keys": [{{"name": "a", "pem": "{pem}"}}]}}}}"#);
    let plan = plan_of(&text).unwrap();
    let Some(Kind::Credential(credential)) = &plan[&Key::from("credential/a")].value.kind else {
        panic!();
    };
    let Some(bus::credential::Kind::PrivateKey(private)) = &credential.kind else {
        panic!();
    };
    assert_eq!(private.secret, [0, 1, 2]);
    let text =
        format!(r#"{{"credentials": {{"certificates": [{{"name": "a", "pem": "{pem}"}}]}}}}"#);
    assert_eq!(
        errors(&text),
        [
            "credentials.certificates[a].pem: not PEM of a certificate: only EC PARAMETERS, EC PRIVATE KEY"
        ]
    );
}

#[test]
fn a_connection_without_a_local_address_comes_after_the_one_it_will_use() {
    let text = changed(r#""local_address": "192.0.2.1","#, "");
    let plan = plan_of(&text).unwrap();
    let connection = &plan[&Key::from("connection/to-b")];
    let texts = |keys: &[Key]| keys.iter().map(Key::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&connection.needs), ["credential/hq"]);
    assert_eq!(
        texts(&connection.after),
        [
            "forwarding",
            "linux/address/wan0/192.0.2.1/24",
            "linux/route/0.0.0.0/0"
        ]
    );
}

/// charon's own default offers what the dataplane does not have.
#[test]
fn without_proposals_only_algorithms_of_the_dataplane_are_offered() {
    let offered = |text: &str| {
        let plan = plan_of(text).unwrap();
        match &plan[&Key::from("connection/to-b")].value.kind {
            Some(Kind::Connection(connection)) => connection.children[0].esp_proposals.clone(),
            other => panic!("{other:?}"),
        }
    };
    let (aead, classic) = (
        "aes128gcm16-aes192gcm16-aes256gcm16",
        "aes128-aes192-aes256-sha256-sha384-sha512-sha1",
    );
    let with = |proposals: &str| {
        let named = format!(r#""proposals": [{proposals}]"#);
        offered(&changed(
            r#""proposals": [{ "proposal": "aes128gcm16" }]"#,
            &named,
        ))
    };
    assert_eq!(with(""), [aead, classic]);
    assert_eq!(with(r#"{ "proposal": "null-sha256" }"#), ["null-sha256"]);
    let last = r#"{ "proposal": "aes256-sha512" }, { "proposal": "default" }"#;
    assert_eq!(with(last), ["aes256-sha512", aead, classic]);
}

#[test]
fn a_child_without_a_tunnel_is_guarded_by_its_selectors() {
    let text = changed(
        r#""tunnel": "ipsec0""#,
        r#""local_selectors": [{ "selector": "10.1.0.0/24" }]"#,
    );
    let text = text.replacen(
        r#""routes":"#,
        r#""policies": [{ "name": "lan", "action": "bypass", "local_selectors": [{ "selector": "10.1.0.0/24" }],
            "remote_selectors": [{ "selector": "10.1.0.0/24[tcp/22]" }] }],
        "routes":"#,
        1,
    );
    let plan = plan_of(&text).unwrap();
    let Some(Kind::Tunnel(tunnel)) = &plan[&Key::from("tunnel/policies")].value.kind else {
        panic!();
    };
    assert_eq!(
        (tunnel.if_id, tunnel.vrf.as_str(), tunnel.admin_up),
        (0, "default", true)
    );
    let policy = |key: &str| {
        let planned = &plan[&Key::from(key)];
        assert_eq!(planned.needs, [Key::from("tunnel/policies")]);
        assert!(
            plan[&Key::from("forwarding")]
                .after
                .contains(&Key::from(key))
        );
        match &planned.value.kind {
            Some(Kind::Policy(policy)) => policy.clone(),
            other => panic!("{other:?}"),
        }
    };
    let guard = policy("guard/net");
    assert_eq!(guard.action(), bus::traffic_policy::Action::Protect);
    // Everything of both families is what the selectors of the other side are without any.
    assert_eq!((guard.local.len(), guard.remote.len()), (1, 2));
    let bypass = policy("policy/lan");
    assert_eq!(bypass.action(), bus::traffic_policy::Action::Bypass);
    assert_eq!(
        (
            bypass.priority,
            bypass.remote[0].first_port,
            bypass.remote[0].protocol
        ),
        (1000, 22, 6)
    );
    let Some(Kind::Connection(connection)) = &plan[&Key::from("connection/to-b")].value.kind else {
        panic!();
    };
    assert_eq!(connection.children[0].if_id, 0);
    assert!(
        !plan_of(GATEWAY)
            .unwrap()
            .contains_key(&Key::from("tunnel/policies"))
    );
}

/// The fixture with one piece of the connection replaced, and EAP secrets.
fn with_eap(changes: &[(&str, &str)]) -> String {
    let mut text = changed(
        r#""credentials": {"#,
        r#""credentials": { "eap_secrets": [{ "name": "me", "identities": [{ "identity": "branch" }], "secret": "pass" }],"#,
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in the fixture");
        text = text.replace(from, to);
    }
    text
}

fn connection_of(plan: &Plan) -> (&bus::Connection, &[Key]) {
    let planned = &plan[&Key::from("connection/to-b")];
    let Some(Kind::Connection(connection)) = &planned.value.kind else {
        panic!("{planned:?}");
    };
    (connection, &planned.needs)
}

#[test]
fn eap_on_either_side_is_planned_with_its_password() {
    let own = r#""local": { "method": "eap-mschapv2", "identity": "gateway-a", "eap_identity": "branch" }"#;
    let plan = plan_of(&with_eap(&[(LOCAL, own)])).unwrap();
    let (connection, needs) = connection_of(&plan);
    let local = connection.local.as_ref().unwrap();
    assert_eq!(
        (
            local.method.as_str(),
            local.identity.as_str(),
            local.eap_identity.as_str()
        ),
        ("eap-mschapv2", "gateway-a", "branch")
    );
    // The peer's key, and the password.
    assert_eq!(
        needs
            .iter()
            .filter(|key| key.as_str().starts_with("credential/"))
            .count(),
        2
    );
    assert!(needs.contains(&Key::from("credential/me")));
    let credential = &plan[&Key::from("credential/me")];
    let Some(Kind::Credential(credential)) = &credential.value.kind else {
        panic!("no credential");
    };
    let Some(bus::credential::Kind::Eap(password)) = &credential.kind else {
        panic!("no password");
    };
    assert_eq!(password.secret, b"pass");
    assert!(!credential.digest.is_empty());

    // The peer proves itself: it is asked for its name, and begins.
    let theirs = r#""remote": { "method": "eap-md5" }"#;
    let waits = r#""start_action": "none""#;
    let plan = plan_of(&with_eap(&[(REMOTE, theirs), (START, waits)])).unwrap();
    let (connection, needs) = connection_of(&plan);
    let remote = connection.remote.as_ref().unwrap();
    assert_eq!(
        (
            remote.method.as_str(),
            remote.identity.as_str(),
            remote.eap_identity.as_str()
        ),
        ("eap-md5", "", "%any")
    );
    assert!(
        needs.contains(&Key::from("credential/me")) && needs.contains(&Key::from("credential/hq"))
    );
}

#[test]
fn eap_that_cannot_work_is_refused() {
    let eap = |side: &str, rest: &str| format!(r#""{side}": {{ "method": "eap-mschapv2"{rest} }}"#);
    let waits = r#""start_action": "none""#;
    for (changes, expected) in [
        (
            vec![
                (LOCAL, eap("local", r#", "identity": "branch""#)),
                (REMOTE, eap("remote", "")),
            ],
            "connections[to-b].remote.method: one side at most uses EAP (RFC 7296 section 2.16): the one that begins",
        ),
        (
            vec![(REMOTE, eap("remote", ""))],
            "connections[to-b].children[net].start_action: the peer proves who it is by EAP, so it begins; none is possible",
        ),
        (
            vec![(LOCAL, eap("local", ""))],
            "connections[to-b].local.eap_identity: must be given, or the identity: the user name by which this gateway proves who it is",
        ),
        (
            vec![(LOCAL, eap("local", r#", "identity": "other""#))],
            r#"connections[to-b].local: no EAP secret belongs to "other""#,
        ),
        (
            vec![
                (REMOTE, eap("remote", r#", "eap_identity": "other""#)),
                (START, waits.to_owned()),
            ],
            r#"connections[to-b].remote: no EAP secret belongs to "other""#,
        ),
        (
            vec![
                (LOCAL, eap("local", r#", "identity": "branch""#)),
                (
                    r#""remote_address": "198.51.100.2""#,
                    r#""remote_address": "%any""#.to_owned(),
                ),
            ],
            "connections[to-b].remote_address: this gateway proves who it is by EAP, so it begins: one peer must be named",
        ),
        (
            vec![
                (
                    REMOTE,
                    r#""remote": { "method": "eap-tls", "identity": "b" }"#.to_owned(),
                ),
                (START, waits.to_owned()),
            ],
            "connections[to-b].local.method: a peer that uses eap-tls wants a certificate of this gateway",
        ),
        (
            vec![(
                LOCAL,
                r#""local": { "method": "eap-tls", "identity": "gateway-a" }"#.to_owned(),
            )],
            "connections[to-b].local.certificates: must name the certificate that this gateway shows",
        ),
        (
            vec![(
                LOCAL,
                LOCAL.replace(" }", r#", "eap_identity": "branch" }"#),
            )],
            "connections[to-b].local.eap_identity: means something with EAP only",
        ),
        (
            vec![(
                REMOTE,
                REMOTE.replace(" }", r#", "aaa_identity": "branch" }"#),
            )],
            "connections[to-b].remote.aaa_identity: means something with eap-tls of the local side only",
        ),
    ] {
        let changes: Vec<(&str, &str)> = changes
            .iter()
            .map(|(from, to)| (*from, to.as_str()))
            .collect();
        let errors = errors(&with_eap(&changes));
        assert!(
            errors.contains(&expected.to_owned()),
            "{expected}\nnot in\n{errors:#?}"
        );
    }
}

#[test]
fn reauthentication_comes_after_rekeying() {
    let times = |text: &str| changed(r#""name": "to-b","#, &format!(r#""name": "to-b", {text},"#));
    let plan = plan_of(&times(r#""reauth_time": 3600, "rekey_time": 600"#)).unwrap();
    let (connection, _) = connection_of(&plan);
    assert_eq!(
        (connection.reauth_time, connection.rekey_time),
        (3600, Some(600))
    );
    for right in [
        r#""reauth_time": 0, "rekey_time": 600"#,
        r#""reauth_time": 600, "rekey_time": 0"#,
    ] {
        plan_of(&times(right)).unwrap();
    }
    assert_eq!(
        errors(&times(r#""reauth_time": 600, "rekey_time": 600"#)),
        [
            "connections[to-b].reauth_time: 600 s is not above the rekey_time of 600 s: the IKE_SA would never be rekeyed"
        ]
    );
}
