//! To see inside a running gateway: `culvert trace` and `culvert capture`, beside packets that are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::Ping;
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::gateway;
use culvert_tests::gateway::program;
use culvert_tests::laboratory::Laboratory;
use culvert_tests::scapy::interpreter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// `culvert` with these arguments and the root of a gateway.
fn culvert(root: &Path, arguments: &[&str]) -> Child {
    Command::new(program().unwrap())
        .args(arguments)
        .arg("--root")
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pings from host a for some seconds.
fn pings(lab: &Laboratory, destination: &str) -> JoinHandle<u32> {
    let from = lab.open(Place::HostA);
    let destination = destination.parse().unwrap();
    std::thread::spawn(move || {
        let ping = Ping {
            destination,
            count: 60,
            interval: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            size: 56,
            marker: b"",
        };
        ping.run(&from, &Interrupt::default()).unwrap().received
    })
}

/// The nodes that each packet of `culvert trace --json` has met, and the line as it is.
fn paths(output: &Output) -> Vec<(Vec<String>, Value)> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| {
            let packet: Value = serde_json::from_str(line).unwrap();
            let visits = packet["visits"].as_array().unwrap();
            let nodes = visits.iter().map(|visit| &visit["node"]);
            let nodes = nodes.map(|node| node.as_str().unwrap().to_owned());
            (nodes.collect(), packet)
        })
        .collect()
}

fn visit<'p>(packet: &'p Value, node: &str) -> &'p Value {
    let visits = packet["visits"].as_array().unwrap();
    visits.iter().find(|visit| visit["node"] == node).unwrap()
}

#[test]
fn a_ping_is_traced_into_the_tunnel_and_out_of_it() {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
    let [a, b] = Side::BOTH.map(|side| lab.gateway(side).root().to_owned());
    let pinging = pings(&lab, "10.2.0.10");

    let filter = "icmp and src host 10.1.0.10";
    let near = culvert(&a, &["trace", filter, "--count", "2", "--json"]);
    let far = culvert(
        &b,
        &[
            "trace",
            "esp",
            "--count",
            "1",
            "--json",
            "--interface",
            "wan",
        ],
    );
    let near = near.wait_with_output().unwrap();
    let far = far.wait_with_output().unwrap();
    assert!(
        near.status.success() && far.status.success(),
        "{} {}",
        said(&near),
        said(&far)
    );
    assert!(said(&near).contains("2 packets"), "{}", said(&near));

    let near = paths(&near);
    assert_eq!(near.len(), 2);
    for (nodes, packet) in &near {
        assert_eq!(
            nodes[..],
            [
                "ethernet-input",
                "ip4-input",
                "ip4-lookup",
                "tunnel-output",
                "esp-encrypt",
                "ip4-rewrite",
                "interface-output",
            ]
        );
        let encrypt = visit(packet, "esp-encrypt");
        assert_eq!(encrypt["before"]["destination"], "10.2.0.10");
        assert_eq!(encrypt["before"]["length"], 84);
        assert_eq!(encrypt["before"]["hops"], 63);
        assert_eq!(encrypt["after"]["protocol"], "esp");
        assert_eq!(encrypt["after"]["destination"], "198.51.100.2");
        let sa = encrypt["details"][0].as_str().unwrap();
        assert!(
            sa.starts_with("SA out 0x") && sa.contains("aes128gcm16"),
            "{sa}"
        );
        assert_eq!(visit(packet, "interface-output")["port"], "wan");
        let first = visit(packet, "ethernet-input");
        assert_eq!(first["before"]["rx_interface"], "lan");
        assert!(
            first["before"]["about"]
                .as_str()
                .unwrap()
                .starts_with("echo request")
        );
        assert!(first["before"].get("bytes").is_none(), "only with --hex");
    }
    let (nodes, packet) = &paths(&far)[0];
    assert_eq!(
        nodes[..],
        [
            "ethernet-input",
            "ip4-input",
            "ip4-lookup",
            "ip4-local",
            "esp-decrypt",
            "ip4-input",
            "ip4-lookup",
            "ip4-rewrite",
            "interface-output",
        ]
    );
    let decrypt = visit(packet, "esp-decrypt");
    assert_eq!(decrypt["after"]["destination"], "10.2.0.10");
    assert!(
        decrypt["details"][0]
            .as_str()
            .unwrap()
            .starts_with("SA in 0x")
    );

    // For people: the same as a table.
    let table = culvert(&a, &["trace", "icmp", "--count", "1", "--hex"]);
    let table = table.wait_with_output().unwrap();
    let text = String::from_utf8(table.stdout.clone()).unwrap();
    assert!(
        text.starts_with("packet 1  ") && text.contains("esp-encrypt"),
        "{text}"
    );
    assert!(text.contains("0800"), "bytes were asked for: {text}");
    println!("{text}");
    assert!(pinging.join().unwrap() > 0);

    // Refusals say what is wrong, and nothing matched is an exit status.
    let refused = |arguments: &[&str], text: &str| {
        let output = culvert(&a, arguments).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(text), "{}", said(&output));
    };
    refused(
        &["trace", "hots", "10.0.0.1"],
        "\"hots\" stands where a test",
    );
    refused(
        &["trace", "--interface", "lan7"],
        "there is: ipsec0, lan, wan",
    );
    refused(&["trace", "host 10.9.9.9", "--timeout", "1"], "0 packets");
    let long = || culvert(&a, &["trace", "host 10.9.9.9", "--timeout", "30"]);
    let mut busy = long();
    let limit = Duration::from_secs(20);
    culvert_tests::laboratory::wait_for("a refusal", limit, || {
        // It may have been refused itself, while the last one here was under way.
        if busy.try_wait().unwrap().is_some() {
            busy = long();
        }
        let output = culvert(&a, &["trace", "host 10.9.9.9", "--timeout", "1"]);
        said(&output.wait_with_output().unwrap())
            .contains("another trace is under way")
            .then_some(())
    })
    .unwrap();
    // Killed, it leaves nothing behind for long.
    busy.kill().unwrap();
    busy.wait().unwrap();
    culvert_tests::laboratory::wait_for(
        "a forgotten trace to end",
        Duration::from_secs(40),
        || {
            let output = culvert(&a, &["trace", "host 10.9.9.9", "--timeout", "1"]);
            said(&output.wait_with_output().unwrap())
                .contains("0 packets")
                .then_some(())
        },
    )
    .unwrap();
}

/// What scapy reads in a capture.
fn read(file: &Path) -> Vec<Value> {
    let output = Command::new(interpreter())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/pcapng.py"))
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn layers(packet: &Value) -> Vec<&str> {
    let layers = packet["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer.as_str().unwrap()).collect()
}

#[test]
fn packets_are_captured_on_interfaces_at_nodes_and_where_they_are_dropped() {
    let mut lab = Laboratory::build().unwrap();
    let mut configured = gateway(Side::A);
    let nowhere = json!({ "destination": "10.99.0.0/16", "action": "blackhole" });
    configured["routes"].as_array_mut().unwrap().push(nowhere);
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &configured).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
    let root = lab.gateway(Side::A).root().to_owned();
    let file = lab.folder().join("seen.pcapng");
    let capture = |arguments: &[&str]| {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut all = vec![
            "capture",
            "--write",
            file.to_str().unwrap(),
            "--duration",
            "30",
        ];
        all.extend(arguments);
        let output = culvert(&root, &all).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            said(&output).contains("0 found no room"),
            "{}",
            said(&output)
        );
        let packets = read(&file);
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for packet in &packets {
            let time = Duration::from_nanos(packet["time_ns"].as_u64().unwrap());
            // scapy's times are floating point.
            let slack = Duration::from_millis(1);
            assert!(before < time + slack && time < after + slack, "{packet}");
        }
        packets
    };
    let pinging = pings(&lab, "10.2.0.10");
    let lost = pings(&lab, "10.99.0.1");

    let lan = capture(&[
        "--interface",
        "lan",
        "--count",
        "4",
        "icmp",
        "and",
        "host",
        "10.2.0.10",
    ]);
    assert_eq!(lan.len(), 4);
    for packet in &lan {
        let (source, icmp) = match packet["direction"].as_u64() {
            Some(1) => ("10.1.0.10", 8),
            _ => ("10.2.0.10", 0),
        };
        assert_eq!(layers(packet)[..3], ["Ether", "IP", "ICMP"]);
        assert_eq!(
            (&packet["source"], &packet["icmp"]),
            (&json!(source), &json!(icmp))
        );
        assert_eq!(
            (&packet["interface"], &packet["length"]),
            (&json!("lan"), &json!(98))
        );
    }
    assert!(lan.iter().any(|packet| packet["direction"] == 2), "{lan:?}");

    let wan = capture(&["--interface", "wan", "--count", "4", "esp"]);
    assert_eq!(wan.len(), 4);
    for packet in &wan {
        assert_eq!(layers(packet)[..3], ["Ether", "IP", "ESP"], "{packet}");
        let out = packet["direction"] == 2;
        let source = if out { "192.0.2.2" } else { "198.51.100.2" };
        assert_eq!(packet["source"], source);
    }
    let out = capture(&[
        "--interface",
        "wan",
        "--direction",
        "out",
        "--count",
        "3",
        "--snaplen",
        "40",
    ]);
    assert!(
        out.iter()
            .all(|packet| packet["direction"] == 2 && packet["kept"] == 40)
    );

    let tunnel = capture(&["--interface", "ipsec0", "--count", "4"]);
    for packet in &tunnel {
        assert_eq!(layers(packet)[..2], ["IP", "ICMP"], "{packet}");
        assert_eq!(packet["length"], 84);
    }
    assert!(tunnel.iter().any(|packet| packet["direction"] == 2));
    assert!(tunnel.iter().any(|packet| packet["direction"] == 1));

    let node = capture(&["--node", "esp-encrypt", "--count", "1"]);
    assert_eq!(node[0]["comments"], json!(["node esp-encrypt, worker 0"]));
    assert_eq!(node[0]["destination"], "10.2.0.10");

    let dropped = capture(&["--node", "drop", "--count", "2", "dst host 10.99.0.1"]);
    for packet in &dropped {
        assert_eq!(
            packet["comments"],
            json!(["dropped: route-blackhole at ip4-lookup"])
        );
        assert_eq!(
            (&packet["source"], &packet["icmp"]),
            (&json!("10.1.0.10"), &json!(8))
        );
        assert_eq!(packet["interface"], "lan");
    }
    assert_eq!(dropped.len(), 2);

    // Ctrl-C ends it in order; standard output takes it as well.
    let piped = culvert(
        &root,
        &["capture", "--interface", "lan", "--write", "-", "icmp"],
    );
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(piped.id() as i32), Signal::SIGINT).unwrap();
    let output = piped.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    fs::write(&file, &output.stdout).unwrap();
    assert!(!read(&file).is_empty());
    assert!(
        said(&output).contains("packets written"),
        "{}",
        said(&output)
    );

    // A misspelt name leaves an earlier file as it is.
    let kept = fs::read(&file).unwrap();
    for (arguments, text) in [
        (["--interface", "lan7"], "there is: ipsec0, lan, wan"),
        (["--node", "ip4-lokup"], "there is: drop, ethernet-input"),
    ] {
        let mut all = vec!["capture", "--write", file.to_str().unwrap()];
        all.extend(arguments);
        let output = culvert(&root, &all).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(text), "{}", said(&output));
    }
    assert_eq!(fs::read(&file).unwrap(), kept);
    assert!(pinging.join().unwrap() > 0);
    assert_eq!(lost.join().unwrap(), 0);
}
