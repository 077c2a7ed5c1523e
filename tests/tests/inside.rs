//! To see inside a running gateway: `culvert trace` and `culvert capture`, beside packets that are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::ping::Ping;
use culvert_netlab::process::Interrupt;
use culvert_tests::configuration::gateway;
use culvert_tests::gateway::program;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::scapy::interpreter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// `culvert` with these words and the root of a gateway.
fn culvert(root: &Path, words: &str) -> Child {
    Command::new(program().unwrap())
        .args(words.split_whitespace())
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

/// What it wrote, if it ended well.
fn done(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output
}

/// It ends with status 1 and says this.
fn refused(root: &Path, words: &str, text: &str) {
    let output = culvert(root, words).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(text), "{}", said(&output));
}

/// Two gateways with a tunnel, and pings from host a until the end.
struct Scene {
    lab: Laboratory,
    interrupt: Interrupt,
    pings: Vec<JoinHandle<()>>,
}

impl Scene {
    fn open(configuration: &Value) -> Self {
        let mut lab = Laboratory::build().unwrap();
        lab.launch(Side::B, &gateway(Side::B)).unwrap();
        lab.start(Side::A, configuration).unwrap();
        lab.wait_ready(Side::B).unwrap();
        lab.wait_open(Family::V4, Duration::from_mins(1)).unwrap();
        Self {
            lab,
            interrupt: Interrupt::default(),
            pings: Vec::new(),
        }
    }

    fn root(&self, side: Side) -> PathBuf {
        self.lab.gateway(side).root().to_owned()
    }

    fn ping(&mut self, destination: &str) {
        let from = self.lab.open(Place::HostA);
        let ping = Ping {
            destination: destination.parse().unwrap(),
            count: 3000,
            interval: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            size: 56,
            marker: b"",
        };
        let interrupt = self.interrupt.clone();
        self.pings.push(std::thread::spawn(move || {
            // It ends when the test does.
            let _ = ping.run(&from, &interrupt);
        }));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.interrupt.set();
        for ping in self.pings.drain(..) {
            let _ = ping.join();
        }
    }
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
    let mut scene = Scene::open(&gateway(Side::A));
    let [a, b] = Side::BOTH.map(|side| scene.root(side));
    scene.ping("10.2.0.10");
    let near = culvert(&a, "trace --json --count 2 icmp and src host 10.1.0.10");
    let far = culvert(&b, "trace --json --count 1 --interface wan esp");
    let (near, far) = (done(near), done(far));
    assert!(said(&near).contains("2 packets"), "{}", said(&near));

    let near = paths(&near);
    assert_eq!(near.len(), 2);
    for (nodes, packet) in &near {
        let way = "ethernet-input ip4-input ip4-lookup tunnel-output esp-encrypt ip4-rewrite interface-output";
        assert_eq!(nodes.join(" "), way);
        into_the_tunnel(packet);
    }
    let (nodes, packet) = &paths(&far)[0];
    let way = "ethernet-input ip4-input ip4-lookup ip4-local esp-decrypt ip4-input ip4-lookup ip4-rewrite interface-output";
    assert_eq!(nodes.join(" "), way);
    let decrypt = visit(packet, "esp-decrypt");
    assert_eq!(decrypt["after"]["destination"], "10.2.0.10");
    let sa = decrypt["details"][0].as_str().unwrap();
    assert!(sa.starts_with("SA in 0x"), "{sa}");

    // For people: the same as a table.
    let table = done(culvert(
        &a,
        "trace --count 1 --hex icmp and dst host 10.2.0.10",
    ));
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(
        text.starts_with("packet 1  ") && text.contains("esp-encrypt"),
        "{text}"
    );
    assert!(
        text.contains("0a02000a0800"),
        "bytes were asked for: {text}"
    );
}

fn into_the_tunnel(packet: &Value) {
    let first = &visit(packet, "ethernet-input")["before"];
    assert_eq!(first["rx_interface"], "lan");
    assert!(first["about"].as_str().unwrap().starts_with("echo request"));
    assert!(first.get("bytes").is_none(), "only with --hex");
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
}

#[test]
fn a_trace_is_refused_by_name_and_ends_without_its_reader() {
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    let root = lab.gateway(Side::A).root().to_owned();
    refused(&root, "trace hots 10.0.0.1", "\"hots\" stands where a test");
    refused(
        &root,
        "trace --interface lan7",
        "there is: ipsec0, lan, wan",
    );
    let nothing = "trace --timeout 1 host 10.9.9.9";
    refused(&root, nothing, "0 packets");

    let long = || culvert(&root, "trace --timeout 300 host 10.9.9.9");
    let mut busy = long();
    let answer = || said(&culvert(&root, nothing).wait_with_output().unwrap());
    wait_for("a refusal", Duration::from_secs(30), || {
        // It may have been refused itself, while the last one here was under way.
        if busy.try_wait().unwrap().is_some() {
            busy = long();
        }
        answer()
            .contains("another trace is under way")
            .then_some(())
    })
    .unwrap();
    // Killed, it leaves nothing behind for long.
    busy.kill().unwrap();
    busy.wait().unwrap();
    wait_for("a forgotten trace to end", Duration::from_mins(1), || {
        answer().contains("0 packets").then_some(())
    })
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

/// The first layers of a packet.
fn layers(packet: &Value, count: usize) -> Vec<&str> {
    let layers = packet["layers"].as_array().unwrap();
    let names = layers.iter().map(|layer| layer.as_str().unwrap());
    names.take(count).collect()
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Captures, and reads what was captured while it did.
fn capture(root: &Path, file: &Path, words: &str) -> Vec<Value> {
    let before = since_1970();
    let words = format!("capture --duration 60 --write {} {words}", file.display());
    let output = done(culvert(root, &words));
    assert!(
        said(&output).contains("0 found no room"),
        "{}",
        said(&output)
    );
    let packets = read(file);
    let after = since_1970();
    for packet in &packets {
        let time = Duration::from_nanos(packet["time_ns"].as_u64().unwrap());
        // scapy's times are floating point.
        let slack = Duration::from_millis(1);
        assert!(before < time + slack && time < after + slack, "{packet}");
    }
    packets
}

/// Gateway a, which drops what is for 10.99.0.0/16, and pings to there and to host b.
fn with_drops() -> Scene {
    let mut configured = gateway(Side::A);
    let nowhere = json!({ "destination": "10.99.0.0/16", "action": "blackhole" });
    configured["routes"].as_array_mut().unwrap().push(nowhere);
    let mut scene = Scene::open(&configured);
    scene.ping("10.2.0.10");
    scene.ping("10.99.0.1");
    scene
}

#[test]
fn packets_are_captured_on_interfaces_at_nodes_and_where_they_are_dropped() {
    let scene = with_drops();
    let root = scene.root(Side::A);
    let file = scene.lab.folder().join("seen.pcapng");
    let seen = |words: &str| capture(&root, &file, words);
    let both_ways = |packets: &[Value]| {
        for way in [1, 2] {
            assert!(
                packets.iter().any(|packet| packet["direction"] == way),
                "{packets:?}"
            );
        }
    };

    let lan = seen("--interface lan --count 4 icmp and host 10.2.0.10");
    assert_eq!(lan.len(), 4);
    both_ways(&lan);
    for packet in &lan {
        let inward = packet["direction"] == 1;
        let (source, icmp) = if inward {
            ("10.1.0.10", 8)
        } else {
            ("10.2.0.10", 0)
        };
        assert_eq!(layers(packet, 3), ["Ether", "IP", "ICMP"]);
        assert_eq!(packet["source"], source);
        assert_eq!(packet["icmp"], icmp);
        assert_eq!(packet["interface"], "lan");
        assert_eq!(packet["length"], 98);
    }
    let wan = seen("--interface wan --count 4 esp");
    assert_eq!(wan.len(), 4);
    both_ways(&wan);
    for packet in &wan {
        assert_eq!(layers(packet, 3), ["Ether", "IP", "ESP"], "{packet}");
        let out = packet["direction"] == 2;
        let source = if out { "192.0.2.2" } else { "198.51.100.2" };
        assert_eq!(packet["source"], source);
    }
    let out = seen("--interface wan --direction out --count 3 --snaplen 40 esp");
    assert_eq!(out.len(), 3);
    for packet in &out {
        assert_eq!(
            (&packet["direction"], &packet["kept"]),
            (&json!(2), &json!(40))
        );
    }
    let tunnel = seen("--interface ipsec0 --count 4 icmp");
    both_ways(&tunnel);
    for packet in &tunnel {
        assert_eq!(layers(packet, 2), ["IP", "ICMP"], "{packet}");
        assert_eq!(packet["length"], 84);
    }
    let node = seen("--node esp-encrypt --count 1 icmp");
    assert_eq!(node[0]["comments"], json!(["node esp-encrypt, worker 0"]));
    assert_eq!(node[0]["destination"], "10.2.0.10");

    let dropped = seen("--node drop --count 2 dst host 10.99.0.1");
    assert_eq!(dropped.len(), 2);
    for packet in &dropped {
        let comment = "dropped: route-blackhole at ip4-lookup";
        assert_eq!(packet["comments"], json!([comment]));
        assert_eq!(packet["source"], "10.1.0.10");
        assert_eq!(packet["interface"], "lan");
    }
}

#[test]
fn a_capture_ends_in_order_when_it_is_interrupted_and_spares_files_when_it_is_refused() {
    let scene = with_drops();
    let root = scene.root(Side::A);
    let file = scene.lab.folder().join("seen.pcapng");
    let mut piped = culvert(&root, "capture --interface lan --write - icmp");
    // The section, the interface and some packets.
    let mut bytes = vec![0; 600];
    let mut output = piped.stdout.take().unwrap();
    output.read_exact(&mut bytes).unwrap();
    kill(Pid::from_raw(piped.id() as i32), Signal::SIGINT).unwrap();
    output.read_to_end(&mut bytes).unwrap();
    let output = done(piped);
    assert!(
        said(&output).contains("packets written"),
        "{}",
        said(&output)
    );
    fs::write(&file, &bytes).unwrap();
    assert!(read(&file).len() >= 2);

    for (words, text) in [
        ("--interface lan7", "there is: ipsec0, lan, wan"),
        ("--node ip4-lokup", "there is: drop, ethernet-input"),
        ("--node drop host", "an address should stand"),
    ] {
        let words = format!("capture --write {} {words}", file.display());
        refused(&root, &words, text);
    }
    assert_eq!(fs::read(&file).unwrap(), bytes);
}
