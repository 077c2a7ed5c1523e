//! A gateway of ours and Debian's strongSwan with an ESP that nobody here wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::classify::WanClass;
use culvert_netlab::iperf::{Way, measure};
use culvert_netlab::ping::Ping;
use culvert_netlab::process::Interrupt;
use culvert_tests::authority;
use culvert_tests::configuration::{CHILD, CONNECTION, child, gateway, identity};
use culvert_tests::exchange;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::lan_host::ip;
use culvert_tests::losses::{Losses, Lost};
use culvert_tests::names::NameServer;
use culvert_tests::stock::{PASSWORD, Proof, Protected, Stock, USER, moved};
use culvert_tests::traffic::Traffic;
use culvert_tests::wire::{INFORMATIONAL, Kind, Wire};
use serde_json::{Value, json};

const UP: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_secs(1);

/// Ours, which begins as soon as it is ready: the stock peer is started first.
fn ours() -> Value {
    let mut configuration = gateway(Side::A);
    configuration["connections"][0]["children"] = json!([child(Side::A, CHILD, &[Family::V4])]);
    configuration
}

fn pair(configuration: &Value) -> (Laboratory, Stock) {
    let mut lab = Laboratory::build().unwrap();
    let stock = Stock::start(&lab, Proof::Psk).unwrap();
    lab.start(Side::A, configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    (lab, stock)
}

/// Ping and TCP pass, in UDP on the wire.
fn carries(lab: &Laboratory) {
    let destination = Side::B.addresses().host(Family::V4).addr();
    let (a, b) = (lab.open(Place::HostA), lab.open(Place::HostB));
    let interrupt = Interrupt::default();
    let wire = Wire::tap(lab).unwrap();
    let ping = Ping {
        destination,
        count: 50,
        interval: Duration::from_millis(20),
        patience: Duration::from_secs(1),
        size: 200,
        marker: &culvert_tests::wire::MARKER[..16],
    };
    let report = ping.run(&a, &interrupt).unwrap();
    assert_eq!((report.sent, report.received), (50, 50));
    let seized = wire.cut().unwrap();
    seized.assert_nothing_in_the_clear();
    for side in Side::BOTH {
        let esp = seized
            .of(side)
            .filter(|packet| matches!(packet.kind, Kind::Esp { udp: true, .. }));
        assert!(esp.count() >= 50);
    }
    for way in [Way::Forth, Way::Back] {
        let reached = measure(&a, &b, destination, way, 2, &interrupt).unwrap();
        println!("TCP {way:?}: {:.0} Mbit/s", reached.mbit);
        assert!(reached.mbit > 5.0, "{way:?}: {reached:?}");
    }
}

/// CHILD and IKE, begun by either side, under traffic.
fn rekeys(lab: &Laboratory, stock: &Stock) {
    let control = lab.gateway(Side::A).control();
    let spi = || {
        let children = control.children(CHILD);
        (children.len() == 1).then(|| children[0].spi_out)
    };
    let ike = || {
        let ikes = control.established(CONNECTION);
        (ikes.len() == 1).then(|| ikes[0].unique_id)
    };
    let traffic = Traffic::start(lab, Family::V4, 7100).unwrap();
    sleep(MOMENT);
    let new_child = |old: Option<u32>| {
        wait_for("a new CHILD_SA", UP, || {
            spi().filter(|new| Some(*new) != old)
        })
        .unwrap();
    };
    let new_ike = |old: Option<u64>| {
        wait_for("a new IKE_SA", UP, || ike().filter(|new| Some(*new) != old)).unwrap();
    };
    let old = spi();
    assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
    new_child(old);
    let old = spi();
    stock.swanctl(&["--rekey", "--child", CHILD]).unwrap();
    new_child(old);
    let old = ike();
    assert_eq!(control.rekey_ike(CONNECTION).unwrap(), 1);
    new_ike(old);
    let old = ike();
    stock.swanctl(&["--rekey", "--ike", CONNECTION]).unwrap();
    new_ike(old);
    sleep(MOMENT);
    traffic.stop().unwrap().assert_nothing_lost();
}

#[test]
fn a_pre_shared_key() {
    let (lab, stock) = pair(&ours());
    let sas = stock.swanctl(&["--list-sas"]).unwrap();
    assert!(
        sas.contains("ESTABLISHED") && sas.contains("TUNNEL-in-UDP"),
        "{sas}"
    );
    carries(&lab);
    rekeys(&lab, &stock);
    carries(&lab);
}

#[test]
fn certificates() {
    let mut configuration = ours();
    let connection = &mut configuration["connections"][0];
    connection["local"] = json!({
        "method": "certificate", "identity": identity(Side::A), "certificates": [{ "name": "own" }],
    });
    connection["remote"] = json!({
        "method": "certificate", "identity": identity(Side::B), "ca_certificates": [{ "name": "authority" }],
    });
    let mut lab = Laboratory::build().unwrap();
    with_certificates(&lab, &mut configuration);
    let stock = Stock::start(&lab, Proof::Certificate).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(
        log.contains("with ECDSA") || log.contains("ECDSA_WITH_SHA"),
        "{log}"
    );
    carries(&lab);
    rekeys(&lab, &stock);
}

/// The private key is made by the gateway and never leaves it; an authority elsewhere signs what it asks for.
#[test]
fn a_key_that_was_made_on_the_gateway() {
    let mut configuration = ours();
    let mut connection = configuration["connections"].take();
    configuration["connections"] = json!([]);
    configuration["credentials"] = json!({});
    let mut lab = Laboratory::build().unwrap();
    let pki = lab.folder().join("pki");
    authority::make_certificates(&pki).unwrap();
    let stock = Stock::start(&lab, Proof::Certificate).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    let gateway = lab.gateway(Side::A);
    let identity_a = identity(Side::A);
    let said = gateway
        .operate(&format!(
            "generate private-key own-key\ncommit\n\
             generate certificate-request key own-key subject \"CN={identity_a}\" subject-alternative-name \"{identity_a}\"\n"
        ))
        .unwrap();
    let begin = said.find("-----BEGIN CERTIFICATE REQUEST-----").unwrap();
    let certificate = authority::sign(&pki, &said.as_bytes()[begin..]).unwrap();
    let of_authority = std::fs::read_to_string(pki.join("ca.pem")).unwrap();
    connection[0]["local"] = json!({
        "method": "certificate", "identity": identity_a, "certificates": [{ "name": "own" }],
    });
    connection[0]["remote"] = json!({
        "method": "certificate", "identity": identity(Side::B), "ca_certificates": [{ "name": "authority" }],
    });
    let said = gateway
        .operate(&format!(
            "set credentials certificates own pem \"{}\"\n\
             set credentials ca_certificates authority pem \"{}\"\n\
             load merge terminal\n{:#}\n.\ncommit\nrun show certificates\n",
            certificate.trim_end(),
            of_authority.trim_end(),
            json!({ "connections": connection }),
        ))
        .unwrap();
    assert!(said.contains("own-key"), "{said}");
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(
        log.contains(&format!("authentication of '{identity_a}' with ECDSA"))
            && log.contains("successful"),
        "{log}"
    );
    carries(&lab);
    // It is there again after a restart, and nobody is shown it.
    let gateway = lab.gateway(Side::A);
    let shown = gateway.operate("show configuration\n").unwrap();
    assert!(
        shown.contains("own-key") && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    lab.stop(Side::A).unwrap();
    lab.start_again(Side::A).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
}

/// Certificates of both sides and their authority, in the configuration and in the laboratory.
fn with_certificates(lab: &Laboratory, configuration: &mut Value) {
    let pki = lab.folder().join("pki");
    authority::make_certificates(&pki).unwrap();
    let pem = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let credentials = &mut configuration["credentials"];
    credentials["certificates"] = json!([{ "name": "own", "pem": pem("a.pem") }]);
    credentials["ca_certificates"] = json!([{ "name": "authority", "pem": pem("ca.pem") }]);
    credentials["private_keys"] = json!([{ "name": "own-key", "pem": pem("a.key") }]);
}

fn with_password(configuration: &mut Value) {
    configuration["credentials"]["eap_secrets"] = json!([
        { "name": "branch", "identities": [{ "identity": USER }], "secret": PASSWORD },
    ]);
}

#[test]
fn a_password_by_eap_which_is_asked_again() {
    let mut configuration = ours();
    with_password(&mut configuration);
    let connection = &mut configuration["connections"][0];
    connection["local"] =
        json!({ "method": "eap-mschapv2", "identity": identity(Side::A), "eap_identity": USER });
    connection["reauth_time"] = json!(20);
    let mut lab = Laboratory::build().unwrap();
    let stock = Stock::start(&lab, Proof::Eap(Side::A, "eap-mschapv2")).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(log.contains("EAP method EAP_MSCHAPV2 succeeded"), "{log}");
    carries(&lab);
    // Once more, with a new IKE_SA beside the old one, and nothing is lost of what passes.
    let proofs = || {
        stock
            .log()
            .matches("EAP method EAP_MSCHAPV2 succeeded")
            .count()
    };
    let before = proofs();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    wait_for("a reauthentication", UP, || {
        (proofs() > before).then_some(())
    })
    .unwrap();
    sleep(8 * MOMENT);
    traffic.stop().unwrap().assert_nothing_lost();
    assert_eq!(
        lab.gateway(Side::A).control().established(CONNECTION).len(),
        1
    );
}

/// Here by a method that proves the client alone, with a peer that knows it from a plugin of its own.
#[test]
fn a_password_by_eap_md5() {
    let mut configuration = ours();
    with_password(&mut configuration);
    let connection = &mut configuration["connections"][0];
    connection["local"] =
        json!({ "method": "eap-md5", "identity": identity(Side::A), "eap_identity": USER });
    let mut lab = Laboratory::build().unwrap();
    let stock = Stock::start(&lab, Proof::Eap(Side::A, "eap-md5")).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(log.contains("EAP method EAP_MD5 succeeded"), "{log}");
    assert!(!log.contains("EAP_MSCHAPV2"), "{log}");
    carries(&lab);
}

#[test]
fn a_peer_whose_password_is_checked_here_by_eap_md5() {
    let mut configuration = ours();
    with_password(&mut configuration);
    let connection = &mut configuration["connections"][0];
    connection["remote"] = json!({ "method": "eap-md5" });
    connection["children"][0]["start_action"] = json!("none");
    let mut lab = Laboratory::build().unwrap();
    let stock = Stock::start(&lab, Proof::Eap(Side::B, "eap-md5")).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    stock.swanctl(&["--initiate", "--child", CHILD]).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(log.contains("EAP_MD5"), "{log}");
    carries(&lab);
}

#[test]
fn a_peer_whose_password_is_checked_here() {
    let mut configuration = ours();
    with_password(&mut configuration);
    let connection = &mut configuration["connections"][0];
    connection["remote"] = json!({ "method": "eap-mschapv2" });
    connection["children"][0]["start_action"] = json!("none");
    let mut lab = Laboratory::build().unwrap();
    let stock = Stock::start(&lab, Proof::Eap(Side::B, "eap-mschapv2")).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    stock.swanctl(&["--initiate", "--child", CHILD]).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    carries(&lab);
}

#[test]
fn a_certificate_by_eap() {
    let mut configuration = ours();
    let connection = &mut configuration["connections"][0];
    connection["local"] = json!({
        "method": "eap-tls", "identity": identity(Side::A), "certificates": [{ "name": "own" }],
    });
    connection["remote"] = json!({
        "method": "certificate", "identity": identity(Side::B), "ca_certificates": [{ "name": "authority" }],
    });
    let mut lab = Laboratory::build().unwrap();
    with_certificates(&lab, &mut configuration);
    let stock = Stock::start(&lab, Proof::Eap(Side::A, "eap-tls")).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let log = stock.log();
    assert!(log.contains("EAP method EAP_TLS succeeded"), "{log}");
    carries(&lab);
}

/// The peer moves without a word; only the name server knows where to.
#[test]
fn a_peer_by_its_name_is_found_at_its_new_address() {
    let server = Side::A.addresses().host(Family::V4).addr();
    let IpAddr::V4(listens) = server else {
        panic!("{server}");
    };
    let IpAddr::V4(first) = Side::B.addresses().gateway_wan(Family::V4).addr() else {
        panic!("not IPv4");
    };
    let mut configuration = ours();
    configuration["system"]["dns_servers"] = json!([{ "address": server.to_string() }]);
    let connection = &mut configuration["connections"][0];
    connection["remote_address"] = json!("hq.culvert.example");
    connection["dpd_delay"] = json!(2);
    connection["mobike"] = json!(false);
    let mut lab = Laboratory::build().unwrap();
    let names = NameServer::start(&lab.open(Place::HostA), listens, first).unwrap();
    let stock = Stock::start(&lab, Proof::Psk).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    let asked = names.asked();
    assert!(asked > 0);

    names.set(moved());
    let peer = lab.open(Place::GatewayB);
    let router = Side::B.addresses().router(Family::V4).addr();
    for change in [
        format!("address del {first}/24 dev wan0"),
        format!("address add {}/24 dev wan0", moved()),
        format!(
            "route replace {} via {router}",
            Side::A.addresses().wan_network(Family::V4)
        ),
    ] {
        ip(&peer, &change).unwrap();
    }
    // As if it had been switched off meanwhile.
    let _ = stock.swanctl(&[
        "--terminate",
        "--ike",
        CONNECTION,
        "--force",
        "--timeout",
        "1",
    ]);
    let control = lab.gateway(Side::A).control();
    // Five retransmissions without an answer, some 53 s, come first.
    let found = wait_for(
        "the peer at its new address",
        Duration::from_mins(2),
        || {
            control
                .established(CONNECTION)
                .into_iter()
                .find(|ike| ike.remote_address.starts_with(&moved().to_string()))
        },
    );
    found.unwrap();
    assert!(names.asked() > asked);
    lab.wait_open(Family::V4, UP).unwrap();
}

#[test]
fn a_busy_peer_is_not_asked_and_a_silent_one_is_given_up() {
    let mut configuration = ours();
    configuration["connections"][0]["dpd_delay"] = json!(2);
    let (lab, _stock) = pair(&configuration);
    let wire = Wire::tap(&lab).unwrap();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    sleep(2 * MOMENT);
    let busy = SystemTime::now();
    sleep(Duration::from_secs(8));
    let idle = SystemTime::now();
    traffic.stop().unwrap().assert_nothing_lost();
    // Idle, it is asked, and answers.
    sleep(Duration::from_secs(6));
    let silenced = SystemTime::now();
    let control = lab.gateway(Side::A).control();
    assert_eq!(control.established(CONNECTION).len(), 1);
    let old: Vec<u64> = control
        .established(CONNECTION)
        .iter()
        .map(|ike| ike.unique_id)
        .collect();
    let losses = Losses::begin(&lab, &[Lost::AllFrom(Side::B)]).unwrap();
    // Retransmissions end after 53 s, with some jitter; then it is negotiated anew.
    wait_for("the end of the IKE_SA", Duration::from_secs(75), || {
        let ikes = control.established(CONNECTION);
        ikes.iter()
            .all(|ike| !old.contains(&ike.unique_id))
            .then_some(())
    })
    .unwrap();
    drop(losses);
    let seized = wire.cut().unwrap();
    assert_eq!(
        seized.report.count(WanClass::Cleartext),
        0,
        "{:02x?}",
        seized.report.examples
    );
    let asked = |between| seized.requests(Side::A, INFORMATIONAL, between).len();
    assert_eq!(
        asked(busy..idle),
        0,
        "a busy peer was asked whether it lives"
    );
    assert!(
        (1..=4).contains(&asked(idle..silenced)),
        "an idle peer was asked {} times",
        asked(idle..silenced)
    );
    assert!(asked(silenced..SystemTime::now()) >= 3);
}

/// What both can. Its libipsec has neither extended sequence numbers nor GMAC; those are tested against scapy.
const SUITES: [&str; 15] = [
    "aes128gcm16",
    "aes192gcm16",
    "aes256gcm16",
    "aes128gcm12",
    "aes256gcm8",
    "chacha20poly1305",
    "aes128-sha1",
    "aes128-sha256",
    "aes192-sha384",
    "aes256-sha256",
    "aes256-sha384",
    "aes256-sha512",
    "aes128ctr-sha256",
    "aes256ctr-sha512",
    "null-sha256",
];

/// One CHILD_SA for each suite, all at once, told apart by addresses of host a, since libipsec has one route to each
/// network; each carries packets with every length of padding and up to the largest that fit, both ways.
#[test]
fn every_suite_that_both_have() {
    const PORT: u16 = 7400;
    let lan = |side: Side| side.addresses().lan_network(Family::V4).to_string();
    let address = |number: usize| format!("10.1.0.{}", 100 + number);
    let name = |number: usize| format!("suite-{number}");
    let mut configuration = ours();
    let children: Vec<Value> = SUITES
        .iter()
        .enumerate()
        .map(|(number, proposal)| {
            let mut child = child(Side::A, &name(number), &[Family::V4]);
            child["local_selectors"] = json!([{ "selector": format!("{}/32", address(number)) }]);
            child["proposals"] = json!([{ "proposal": proposal }]);
            child
        })
        .collect();
    configuration["connections"][0]["children"] = json!(children);
    let peers: Vec<Protected> = (0..SUITES.len())
        .map(|number| Protected {
            name: name(number),
            local: lan(Side::B),
            remote: format!("{}/32", address(number)),
            proposal: SUITES[number].to_owned(),
        })
        .collect();
    let mut lab = Laboratory::build().unwrap();
    let (a, b) = (lab.open(Place::HostA), lab.open(Place::HostB));
    for number in 0..SUITES.len() {
        ip(&a, &format!("address add {}/24 dev eth0", address(number))).unwrap();
    }
    let stock = Stock::start_for(&lab, Proof::Psk, &peers).unwrap();
    lab.start(Side::A, &configuration).unwrap();
    let control = lab.gateway(Side::A).control();
    for (number, proposal) in SUITES.iter().enumerate() {
        wait_for(proposal, UP, || {
            (control.installed(&name(number)).len() == 1).then_some(())
        })
        .unwrap();
    }
    println!("{}", stock.swanctl(&["--list-sas"]).unwrap());
    let wire = Wire::tap(&lab).unwrap();
    // Every remainder of a block, and up to the 1400 bytes that its TUN device takes with 28 of headers.
    let sizes = || (1..=64).chain((65..1300).step_by(61)).chain(1300..=1372);
    for (number, proposal) in SUITES.iter().enumerate() {
        let near = a
            .enter(|| UdpSocket::bind((address(number), PORT)).unwrap())
            .unwrap();
        let host = Side::B.addresses().host(Family::V4).addr();
        let far = b.enter(|| UdpSocket::bind((host, PORT)).unwrap()).unwrap();
        // One alone: gateway a has to ask who has the address, and lets only a few wait for the answer.
        exchange::mirrored(&near, far.try_clone().unwrap(), std::iter::once(1)).unwrap();
        let again = exchange::mirrored(&near, far, sizes()).unwrap();
        println!("{proposal}: {again} sent again");
        assert_eq!(again, 0, "{proposal}");
    }
    let seized = wire.cut().unwrap();
    assert_eq!(seized.report.count(WanClass::Cleartext), 0);
    let dump = control.sas().unwrap();
    assert_eq!(dump.sas.len(), 2 * SUITES.len());
    for reason in ["esp-bad-icv", "esp-bad-padding", "esp-bad-inner"] {
        assert_eq!(control.dropped(reason).unwrap(), 0, "{reason}");
    }
}
