//! One gateway: what the kernel must not do for it, what it refuses, and what it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::capture::Capture;
use culvert_netlab::namespace::Namespace;
use culvert_netlab::packet_socket::Seen;
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::{Interrupt, run};
use culvert_tests::configuration::gateway;
use culvert_tests::gateway::program;
use culvert_tests::laboratory::{Laboratory, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;

const MOMENT: Duration = Duration::from_secs(1);

fn ip(namespace: &Namespace, arguments: &str) -> String {
    run(
        namespace,
        Command::new("ip").args(arguments.split_whitespace()),
        &[],
        Duration::from_secs(5),
        &Interrupt::default(),
    )
    .unwrap()
}

fn ping(from: &Namespace, family: Family) -> PingReport {
    let ping = Ping {
        destination: Side::A.addresses().gateway_lan(family).addr(),
        count: 5,
        interval: Duration::from_millis(100),
        patience: MOMENT / 2,
        size: 56,
        marker: b"",
    };
    ping.run(from, &Interrupt::default()).unwrap()
}

#[test]
fn the_kernel_answers_nothing_while_the_dataplane_is_stopped() {
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    let host = lab.open(Place::HostA);
    for family in Family::BOTH {
        wait_for("an answer", Duration::from_secs(10), || {
            (ping(&host, family).received > 0).then_some(())
        })
        .unwrap();
    }
    // The NIC is in a namespace of the dataplane, without addresses; charon's is in another.
    let stopped = lab
        .gateway(Side::A)
        .signal("dataplane", Signal::SIGSTOP)
        .unwrap();
    sleep(Duration::from_millis(200));
    let captures = [Place::HostA, Place::Wan]
        .map(|place| Capture::start(&lab.open(place), Seen::Received, b"", None).unwrap());
    let begin = Instant::now();
    ip(&host, "neighbour flush all");
    for family in Family::BOTH {
        // To an address that is known, to one that must be asked for, and to nobody.
        assert_eq!(ping(&host, family).received, 0);
    }
    let [lan, wan] = captures.map(|capture| capture.stop().unwrap());
    assert!(
        stopped.is_running(),
        "it was replaced after {:?}",
        begin.elapsed()
    );
    // gateway b does not run: nothing else is there to send on the WAN.
    assert_eq!((lan.total(), wan.total()), (0, 0), "{lan:?} {wan:?}");
    assert!(stopped.signal(Signal::SIGCONT));
    for family in Family::BOTH {
        wait_for("an answer", Duration::from_secs(20), || {
            (ping(&host, family).received > 0).then_some(())
        })
        .unwrap();
    }
}

/// Everything below a folder that is no ordinary file or folder.
fn sockets(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if !kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Network namespaces that any process of this machine is in.
fn inhabited() -> std::collections::BTreeSet<std::path::PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok())
        .collect()
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let mut lab = Laboratory::build().unwrap();
    let place = lab.open(Place::GatewayA);
    let links = || ip(&place, "-o link show").lines().count();
    let before = (links(), ip(&place, "address show"));
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.start(Side::B, &gateway(Side::B)).unwrap();
    lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
    let root = lab.gateway(Side::A).root().to_owned();
    let processes: Vec<_> = ["dataplane", "iked-bridge", "charon"]
        .map(|name| lab.gateway(Side::A).process(name).unwrap())
        .into();
    let network = fs::read_link(format!("/proc/{}/ns/net", processes[0].pid)).unwrap();
    assert!(inhabited().contains(&network));
    assert!(ip(&place, "-d link show").contains("tun type tap"));
    assert!(sockets(&root).len() >= 3);

    let took = lab.stop(Side::A).unwrap();
    println!("stopped in {took:?}");
    assert_eq!(place.processes().unwrap(), Vec::<u32>::new());
    for process in processes {
        assert!(!process.is_running(), "{process:?}");
    }
    assert_eq!(sockets(&root), Vec::<std::path::PathBuf>::new());
    assert!(!inhabited().contains(&network));
    let links_after = ip(&place, "-d link show");
    assert!(!links_after.contains("tun type tap"), "{links_after}");
    assert_eq!(links(), before.0, "{links_after}");
    for device in ["lan0", "wan0"] {
        assert!(links_after.contains(device), "{links_after}");
        assert!(before.1.contains(device));
    }
    assert!(!ip(&place, "route show table all").contains("10.2.0.0/24"));
    // And it starts again in the same place.
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
}

#[test]
fn a_wrong_configuration_names_path_and_reason_and_starts_nothing() {
    let lab = Laboratory::build().unwrap();
    let place = lab.open(Place::GatewayA);
    let mut unknown = gateway(Side::A);
    unknown["connections"][0]["children"][0]["proposal"] = json!("aes128gcm16");
    let mut reference = gateway(Side::A);
    reference["connections"][0]["children"][0]["tunnel"] = json!("ipsec7");
    let mut range = gateway(Side::A);
    range["interfaces"][0]["mtu"] = json!(70_000);
    let mut kind = gateway(Side::A);
    kind["routes"][0]["destination"] = json!("10.2.0.0/33");
    for (configuration, path, reason) in [
        (unknown, "children[lans]", "proposal"),
        (reference, "tunnel", "ipsec7"),
        (range, "interfaces[wan].mtu", "9216"),
        (kind, "routes", "10.2.0.0/33"),
    ] {
        let file = lab.folder().join("wrong.json");
        fs::write(&file, configuration.to_string()).unwrap();
        let root = lab.folder().join("wrong");
        let mut command = Command::new(program().unwrap());
        command
            .arg("run")
            .arg("--root")
            .arg(&root)
            .arg("--config")
            .arg(&file);
        let mut child = place
            .spawn(command.stderr(std::process::Stdio::piped()))
            .unwrap();
        let status = wait_for("a refusal", Duration::from_secs(10), || {
            child.try_wait().unwrap()
        });
        if status.is_err() {
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status.unwrap().code(), Some(2), "{said}");
        assert!(
            said.contains(path) && said.contains(reason),
            "{path}, {reason}: {said}"
        );
        assert!(!root.exists());
        assert_eq!(place.processes().unwrap(), Vec::<u32>::new());
    }
}

/// What `culvert show` says of a gateway, as a table or as JSON.
fn show(root: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program().unwrap())
        .arg("show")
        .args(arguments)
        .arg("--root")
        .arg(root)
        .output()
        .unwrap();
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_running_gateway_shows_what_it_knows() {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
    let root = lab.gateway(Side::A).root().to_owned();
    let rows = |topic: &str| -> Vec<serde_json::Value> {
        let (shown, text) = show(&root, &[topic, "--json"]);
        assert!(shown, "{topic}: {text}");
        serde_json::from_str(&text).unwrap()
    };
    let named = |rows: &[serde_json::Value], field: &str, name: &str| {
        rows.iter().find(|row| row[field] == name).cloned()
    };

    let interfaces = rows("interfaces");
    let wan = named(&interfaces, "name", "wan").unwrap();
    assert_eq!((&wan["state"], &wan["mtu"]), (&json!("up"), &json!(1500)));
    assert!(wan["rx_packets"].as_u64().unwrap() > 0);
    assert!(named(&interfaces, "name", "ipsec0").is_some());
    let neighbours = rows("neighbours");
    assert!(
        named(&neighbours, "address", "192.0.2.1").is_some(),
        "{neighbours:?}"
    );
    let route = named(&rows("routes"), "destination", "10.2.0.0/24").unwrap();
    assert_eq!(route["via"], json!(["ipsec0"]));
    let ike = named(&rows("ike"), "connection", "peer").unwrap();
    assert_eq!(ike["state"], "ESTABLISHED");
    let child = named(&rows("children"), "state", "INSTALLED").unwrap();
    let sas = rows("sas");
    let out = named(&sas, "spi", child["spi_out"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&out["direction"], &out["algorithm"]),
        (&json!("out"), &json!("aes128gcm16"))
    );
    assert!(out["packets"].as_u64().unwrap() > 0);
    let policy = named(&rows("policies"), "source", "10.1.0.0/24").unwrap();
    assert_eq!(
        (&policy["direction"], &policy["action"]),
        (&json!("out"), &json!("protect"))
    );
    assert_eq!(rows("reassembly")[0]["fragments"], 0);
    assert!(named(&rows("nodes"), "name", "esp-encrypt").is_some());
    assert!(
        rows("drops")
            .iter()
            .all(|drop| drop["packets"].as_u64() > Some(0))
    );

    for topic in ["interfaces", "sas", "nodes", "drops", "reassembly"] {
        let (shown, text) = show(&root, &[topic]);
        assert!(shown, "{topic}: {text}");
        let heading = text.lines().next().unwrap();
        assert!(!heading.contains('{') && text.lines().count() > 1, "{text}");
    }
    let (shown, text) = show(Path::new("/nowhere"), &["sas"]);
    assert!(
        !shown && text.contains("no gateway runs in /nowhere"),
        "{text}"
    );
}

#[test]
fn suites_that_few_ask_for_are_negotiated_and_carry_packets() {
    use culvert_model::bus::EncryptionAlgorithm as Encryption;
    for (proposal, encryption) in [
        ("aes256gcm12", Encryption::AesGcm12),
        ("aes128gcm8", Encryption::AesGcm8),
        ("aes192ctr-sha256", Encryption::AesCtr),
        ("aes128gmac", Encryption::AesGmac),
        ("null-sha512", Encryption::Null),
        // Of those without any, the first that the dataplane has.
        ("", Encryption::AesGcm16),
    ] {
        let mut lab = Laboratory::build().unwrap();
        let configured = |side| {
            let mut configuration = gateway(side);
            configuration["connections"][0]["children"][0]["proposals"] = match proposal {
                "" => json!([]),
                proposal => json!([{ "proposal": proposal }]),
            };
            configuration
        };
        lab.launch(Side::B, &configured(Side::B)).unwrap();
        lab.start(Side::A, &configured(Side::A)).unwrap();
        lab.wait_ready(Side::B).unwrap();
        for family in Family::BOTH {
            lab.wait_open(family, Duration::from_secs(20))
                .unwrap_or_else(|error| panic!("{proposal}: {error}"));
        }
        for side in Side::BOTH {
            let sas = lab.gateway(side).control().sas().unwrap().sas;
            assert_eq!(sas.len(), 2, "{proposal}");
            for dump in sas {
                let (sa, usage) = (dump.sa.unwrap(), dump.usage.unwrap());
                assert_eq!(sa.encryption(), encryption);
                assert!(usage.packets > 0, "{proposal}: {sa:?}");
            }
        }
    }
}
