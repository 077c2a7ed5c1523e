//! To see inside a running gateway: `culvert trace` and `culvert capture`, beside packets that are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::Ping;
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::gateway;
use culvert_tests::gateway::program;
use culvert_tests::laboratory::Laboratory;
use serde_json::Value;

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

/// Pings from host a to host b for some seconds.
fn pings(lab: &Laboratory, family: Family) -> JoinHandle<u32> {
    let from = lab.open(Place::HostA);
    let destination = Side::B.addresses().host(family).addr();
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
    let pinging = pings(&lab, Family::V4);

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
