//! What holds for the schema as a whole: secrets stay out of Debug texts, packages stay apart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Debug;

use culvert_model::{bus, schema};
use prost_reflect::{Kind, MessageDescriptor};

const KEY: &[u8] = b"correct horse battery staple";

/// The key as text, as a byte list and as hexadecimal must not be in the Debug text; the rest must be.
fn hides_key(message: &dyn Debug, also_shows: &str) {
    for text in [format!("{message:?}"), format!("{message:#?}")] {
        let compact: String = text.split_whitespace().collect();
        let list = KEY.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let hex = "636f7272656374"; // correct
        assert!(!text.contains("battery"), "{text}");
        assert!(!compact.contains(&list), "{text}");
        assert!(!text.contains(hex), "{text}");
        assert!(text.contains(also_shows), "{also_shows} not in {text}");
    }
}

#[test]
fn no_debug_text_shows_a_key() {
    let keys = bus::SaKeys {
        encryption: KEY.to_vec(),
        integrity: KEY.to_vec(),
    };
    hides_key(&keys, "<28 secret bytes>");
    let add = bus::AddSaRequest {
        sa: Some(bus::Sa {
            if_id: 4711,
            ..bus::Sa::default()
        }),
        keys: Some(keys),
    };
    hides_key(&add, "4711");

    let psk = bus::PreSharedKey {
        identities: vec!["gateway-a".to_owned()],
        secret: KEY.to_vec(),
    };
    hides_key(&psk, "gateway-a");
    let private = bus::PrivateKey {
        secret: KEY.to_vec(),
    };
    hides_key(&private, "<28 secret bytes>");
    for kind in [
        bus::credential::Kind::Psk(psk.clone()),
        bus::credential::Kind::Eap(psk),
        bus::credential::Kind::PrivateKey(private),
    ] {
        hides_key(&kind, "secret bytes");
        let credential = bus::Credential {
            name: "headquarters".to_owned(),
            kind: Some(kind),
            digest: vec![1],
        };
        hides_key(&credential, "headquarters");
        let value = bus::Value {
            kind: Some(bus::value::Kind::Credential(credential)),
        };
        hides_key(&value, "headquarters");
        let keyed = bus::KeyedValue {
            key: "credential/headquarters".to_owned(),
            value: Some(value.clone()),
        };
        hides_key(&keyed, "credential/headquarters");
        hides_key(
            &bus::RetrieveReply {
                values: vec![keyed],
            },
            "credential/headquarters",
        );
        let operation = bus::Operation {
            verb: bus::operation::Verb::Create.into(),
            key: "credential/headquarters".to_owned(),
            value: Some(value),
        };
        hides_key(&operation, "credential/headquarters");
        hides_key(
            &bus::ApplyRequest {
                operations: vec![operation],
            },
            "credential/headquarters",
        );
    }

    hides_key(
        &bus::Request {
            id: 7,
            deadline_ms: 100,
            method: "add_sa".to_owned(),
            body: KEY.to_vec(),
            incarnation: 3,
        },
        "add_sa",
    );
    hides_key(
        &bus::Reply {
            id: 7,
            outcome: Some(bus::reply::Outcome::Body(KEY.to_vec())),
        },
        "<28 secret bytes>",
    );
    hides_key(
        &bus::Publication {
            number: 9,
            incarnation: 1,
            body: Some(KEY.to_vec()),
        },
        "<28 secret bytes>",
    );
}

/// All messages and enums that can be reached from `message`, by package.
fn packages_from(message: &MessageDescriptor, seen: &mut BTreeSet<String>) -> BTreeSet<String> {
    let mut packages = BTreeSet::from([message.package_name().to_owned()]);
    if !seen.insert(message.full_name().to_owned()) {
        return packages;
    }
    for field in message.fields() {
        match field.kind() {
            Kind::Message(inner) => packages.extend(packages_from(&inner, seen)),
            Kind::Enum(inner) => {
                packages.insert(inner.package_name().to_owned());
            }
            _ => {}
        }
    }
    packages
}

#[test]
fn packages_share_only_leaf_types() {
    let mut walked = 0;
    for message in schema::pool().all_messages() {
        let own = message.package_name();
        let allowed: &[&str] = match own {
            "culvert.config.v1" | "culvert.state.v1" | "culvert.bus" => {
                &["culvert", "culvert.types.v1"]
            }
            "culvert.api.v1" => &[
                "culvert",
                "culvert.types.v1",
                "culvert.config.v1",
                "culvert.state.v1",
            ],
            "culvert.types.v1" | "culvert" => &["culvert"],
            _ => continue,
        };
        walked += 1;
        for package in packages_from(&message, &mut BTreeSet::new()) {
            assert!(
                package == own || allowed.contains(&package.as_str()),
                "{} reaches {package}",
                message.full_name()
            );
        }
    }
    assert!(walked > 50, "only {walked} messages: is the pool empty?");
}

#[test]
fn options_and_comments_are_embedded() {
    let pool = schema::pool();
    let rules = pool.get_extension_by_name("culvert.field").unwrap();
    let keys = pool.get_message_by_name("culvert.bus.SaKeys").unwrap();
    let encryption = keys.get_field_by_name("encryption").unwrap();
    let options = encryption.options();
    assert!(options.has_extension(&rules));
    let file = keys.parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    assert!(
        info.unwrap()
            .location
            .iter()
            .any(|location| location.leading_comments().contains("Salt included"))
    );
}
