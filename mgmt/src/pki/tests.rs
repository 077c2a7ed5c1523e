//! What is made here is held against openssl, and what openssl makes is read here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use culvert_model::decode::config_from_json;
use culvert_model::plan::{DigestKey, plan, private_key_der};

use super::*;

const DAY: i64 = 86400;
const ALL: [(Algorithm, &str); 4] = [
    (Algorithm::EcdsaP256, "prime256v1"),
    (Algorithm::EcdsaP384, "secp384r1"),
    (Algorithm::Rsa3072, "3072 bit"),
    (Algorithm::Ed25519, "ED25519"),
];

fn openssl(folder: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
    // It says on standard error that a signature is right.
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn wish() -> Wish {
    Wish {
        subject: "C=CH, O=Example\\, Inc., CN=branch.example.com".into(),
        alternative_names: vec![
            "branch.example.com".into(),
            "192.0.2.7".into(),
            "2001:db8::7".into(),
            "ops@example.com".into(),
        ],
    }
}

#[test]
fn openssl_takes_keys_and_requests_of_every_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    for (algorithm, shown) in ALL {
        let pem = generate(algorithm).unwrap();
        assert_ne!(*pem, *generate(algorithm).unwrap());
        fs::write(folder.path().join("key"), pem.as_bytes()).unwrap();
        let text = openssl(folder.path(), "pkey -in key -noout -text");
        assert!(text.contains(shown), "{text}");
        let request = request(&private_key_der(&pem).unwrap(), &wish()).unwrap();
        fs::write(folder.path().join("csr"), request).unwrap();
        let text = openssl(folder.path(), "req -in csr -noout -verify -text");
        for part in [
            "erif", // "verify OK", or "Certificate request self-signature verify OK"
            "C = CH, O = \"Example, Inc.\", CN = branch.example.com",
            "DNS:branch.example.com, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7, email:ops@example.com",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        let own = openssl(folder.path(), "pkey -in key -pubout");
        let asked = openssl(folder.path(), "req -in csr -noout -pubkey");
        assert_eq!(own, asked);
        // charon reads it by the same plugins as strongSwan's own tool.
        for arguments in ["--pub --type priv --in key", "--pub --type pkcs10 --in csr"] {
            let read = Command::new("pki")
                .args(arguments.split(' '))
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(
                read.status.success() && !read.stdout.is_empty(),
                "{arguments}: {read:?}"
            );
        }
    }
}

#[test]
fn older_forms_of_keys_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (make, label) in [
        (
            "ecparam -name prime256v1 -genkey -out key",
            "EC PRIVATE KEY",
        ),
        (
            "ecparam -name secp384r1 -genkey -noout -out key",
            "EC PRIVATE KEY",
        ),
        ("genrsa -traditional -out key 2048", "RSA PRIVATE KEY"),
        ("genpkey -algorithm ed25519 -out key", "BEGIN PRIVATE KEY"),
    ] {
        openssl(folder.path(), make);
        let pem = fs::read_to_string(folder.path().join("key")).unwrap();
        assert!(pem.contains(label), "{make}");
        let request = request(&private_key_der(&pem).unwrap(), &wish()).unwrap();
        fs::write(folder.path().join("csr"), request).unwrap();
        openssl(folder.path(), "req -in csr -noout -verify");
        let own = openssl(folder.path(), "pkey -in key -pubout");
        assert_eq!(own, openssl(folder.path(), "req -in csr -noout -pubkey"));
    }
    openssl(
        folder.path(),
        "ecparam -name secp521r1 -genkey -noout -out key",
    );
    let pem = fs::read_to_string(folder.path().join("key")).unwrap();
    let refused = request(&private_key_der(&pem).unwrap(), &wish());
    assert!(matches!(refused, Err(PkiError::Key)));
    assert!(matches!(request(b"no key", &wish()), Err(PkiError::Key)));
}

#[test]
fn names_that_are_none_are_refused() {
    let key = private_key_der(&generate(Algorithm::EcdsaP256).unwrap()).unwrap();
    let error = |wish: Wish| request(&key, &wish).unwrap_err().to_string();
    for (subject, expected) in [
        ("", "not a name such as"),
        ("branch", "\"branch\" is not a part of a name"),
        ("CN=", "\"CN=\" is not a part of a name"),
        ("C=Switzerland", "\"Switzerland\" is not a country"),
        ("X=a", "\"X\" is not one of CN, O"),
        ("CN=a, CN=b", "is not the only part of its kind"),
    ] {
        let said = error(Wish {
            subject: subject.into(),
            ..Wish::default()
        });
        assert!(said.contains(expected), "{subject}: {said}");
    }
    for name in ["", "a b", "ü", "@example.com", "a@b@c"] {
        let said = error(Wish {
            subject: "CN=a".into(),
            alternative_names: vec![name.into()],
        });
        assert!(
            said.contains("is not a host name, an address or a mail address"),
            "{said}"
        );
    }
}

#[test]
fn certificates_are_listed_with_their_keys_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let key = generate(Algorithm::Ed25519).unwrap();
    write(
        "csr",
        &request(&private_key_der(&key).unwrap(), &wish()).unwrap(),
    );
    openssl(
        folder.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 365 -subj /CN=authority",
    );
    openssl(
        folder.path(),
        "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -out own.pem -days 90 -copy_extensions copy",
    );
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let config = serde_json::json!({ "credentials": {
        "certificates": [{ "name": "own", "pem": read("own.pem") }],
        "ca_certificates": [{ "name": "authority", "pem": read("ca.pem") }],
        "private_keys": [{ "name": "mine", "pem": key.as_str() }, { "name": "other", "pem": read("ca.key") }],
    } });
    let config = config_from_json(config.to_string().as_bytes()).unwrap();
    let plan = plan(&config, &DigestKey::new([7; 32])).unwrap();
    let now = list(&plan, 0)[0].not_before;
    let listed = |now| {
        let mut all = list(&plan, now);
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    };
    let [authority, own] = &listed(now)[..] else {
        panic!("not two");
    };
    assert_eq!(
        (authority.name.as_str(), authority.authority),
        ("authority", true)
    );
    assert_eq!(
        (authority.subject.as_str(), authority.issuer.as_str()),
        ("CN=authority", "CN=authority")
    );
    assert_eq!(
        (own.name.as_str(), own.key.as_str(), own.authority),
        ("own", "mine", false)
    );
    assert!(
        own.subject.contains("CN=branch.example.com"),
        "{}",
        own.subject
    );
    assert_eq!(own.issuer, "CN=authority");
    assert_eq!(own.not_after - own.not_before, 90 * DAY);
    assert!(!own.serial.is_empty());
    let warning = |now| listed(now)[1].warning.clone();
    assert_eq!(warning(now), "");
    assert_eq!(warning(own.not_before - 1), "not valid yet");
    assert_eq!(warning(own.not_after - 10 * DAY), "expires in 10 days");
    assert_eq!(warning(own.not_after + 1), "expired");
}
