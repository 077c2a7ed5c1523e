//! What the box is called, and what it asks others for itself: names of a real dnsmasq, the time of a real chronyd.
//!
//! ```text
//!   host-a: dnsmasq  10.1.0.10, 10.1.0.11 ── lan0 ── dataplane ── TAP ──┬── mgmt: ping NAME, syslog NAME
//!           chronyd  (keeps the clock)                                  └── chronyd (keeps the clock)
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::Namespace;
use culvert_netlab::process::Guarded;
use culvert_tests::configuration::gateway;
use culvert_tests::gateway::Gateway;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::lan_host::ip;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// A name of one label, which is complete in the domain alone.
const NAME: &str = "files";
const DOMAIN: &str = "branch.test";
/// Where host a is reached, too.
const SECOND: &str = "10.1.0.11";

fn first() -> String {
    Side::A.addresses().host(Family::V4).addr().to_string()
}

/// A name server on this address, which has the same address for every name of the domain.
fn name_server(host: &Namespace, address: &str, log: &Path) -> Guarded {
    let mut command = Command::new("dnsmasq");
    command
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
        ])
        .args([
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
        ])
        .args(["--log-queries", "--log-facility=-"])
        .arg(format!("--listen-address={address}"))
        .arg(format!("--address=/{DOMAIN}/{address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log).unwrap());
    Guarded::start(host, &mut command).unwrap()
}

/// As a process sees it.
fn resolver_of(gateway: &Gateway, process: &str) -> String {
    let pid = gateway.process(process).unwrap().pid;
    fs::read_to_string(format!("/proc/{pid}/root/etc/resolv.conf")).unwrap()
}

fn system(gateway: &Gateway) -> Value {
    let text = gateway.operate("show system | display json\n").unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    state["system"].clone()
}

#[test]
fn names_are_looked_up_by_the_configured_servers() {
    let mut lab = Laboratory::build().unwrap();
    let host = lab.open(Place::HostA);
    ip(&host, &format!("address add {SECOND}/24 dev eth0")).unwrap();
    let log = |name: &str| lab.folder().join(format!("{name}.log"));
    let (one, two) = (log("dnsmasq-1"), log("dnsmasq-2"));
    let asked = |log: &Path, name: &str| {
        let text = fs::read_to_string(log).unwrap();
        text.matches(&format!("query[A] {name}")).count()
    };
    let _one = name_server(&host, &first(), &one);
    let _two = name_server(&host, SECOND, &two);
    let logs = host
        .enter(|| UdpSocket::bind("0.0.0.0:5514"))
        .unwrap()
        .unwrap();
    logs.set_read_timeout(Some(PATIENCE)).unwrap();

    let mut configuration = gateway(Side::A);
    let own = Side::A.addresses().gateway_lan(Family::V4).addr();
    configuration["system"]["dns_servers"] = json!([{ "address": first() }]);
    configuration["system"]["search_domains"] = json!([{ "domain": DOMAIN }]);
    configuration["system"]["syslog_targets"] =
        json!([{ "host": format!("logs.{DOMAIN}"), "port": 5514 }]);
    configuration["system"]["ssh_server"] =
        json!({ "listen_addresses": [{ "address": own.to_string() }] });
    lab.start(Side::A, &configuration).unwrap();
    let box_a = lab.gateway(Side::A);
    wait_for("sshd", PATIENCE, || box_a.process("sshd").ok()).unwrap();
    let ping = format!("ping {NAME} count 2 interval 50\n");

    let text = box_a.operate(&ping).unwrap();
    assert!(text.contains(&format!("from {}", first())), "{text}");
    let text = box_a.operate(&format!("traceroute {NAME}\n")).unwrap();
    assert!(text.contains(&first()), "{text}");
    assert!(asked(&one, &format!("{NAME}.{DOMAIN}")) >= 2);
    // Commits are told to who collects logs, whose name is looked up, too.
    box_a
        .operate("configure\nset system time_zone Europe/Zurich\ncommit\n")
        .unwrap();
    let mut message = [0; 4096];
    let length = logs.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..length]);
    assert!(message.contains("gateway-a culvert-audit"), "{message}");
    assert!(asked(&one, &format!("logs.{DOMAIN}")) >= 1);
    for process in ["mgmt", "charon", "sshd"] {
        let text = resolver_of(box_a, process);
        assert!(
            text.contains(&format!("nameserver {}\n", first())),
            "{process}: {text}"
        );
    }
    assert_eq!(system(box_a)["name_servers"], json!([first()]));
    assert_eq!(system(box_a)["search_domains"], json!([DOMAIN]));
    let text = box_a.operate("show system\n").unwrap();
    assert!(
        text.contains(&format!("looked up by {} in {DOMAIN}", first())),
        "{text}"
    );
    assert_eq!(asked(&two, NAME), 0);

    // Another server says something else, and is heard from then on.
    let before = asked(&one, NAME);
    box_a
        .operate(&format!(
            "configure\nset system dns_servers {SECOND}\ndelete system dns_servers {}\ncommit\n",
            first()
        ))
        .unwrap();
    wait_for("the other server", PATIENCE, || {
        let text = box_a.operate(&ping).unwrap();
        text.contains(&format!("from {SECOND}")).then_some(())
    })
    .unwrap();
    assert!(asked(&two, &format!("{NAME}.{DOMAIN}")) >= 1);
    assert_eq!(asked(&one, NAME), before);
    assert_eq!(system(box_a)["name_servers"], json!([SECOND]));

    // A name that nobody has is said to be none.
    let error = box_a
        .operate("ping nobody.test.\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("nobody.test. is not found"), "{error}");

    // Without servers it is the machine's.
    box_a
        .operate("configure\ndelete system dns_servers\ndelete system search_domains\ncommit\n")
        .unwrap();
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    wait_for("the machine's servers", PATIENCE, || {
        (resolver_of(box_a, "mgmt") == machine).then_some(())
    })
    .unwrap();
    lab.stop(Side::A).unwrap();
}

/// A time server on this address, which believes the machine's clock.
fn time_server(lab: &Laboratory, host: &Namespace, address: &str) -> Guarded {
    let file = |end: &str| lab.folder().join(format!("time-{address}.{end}"));
    let text = format!(
        "local stratum 8\nallow all\nbindaddress {address}\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
        file("pid").display()
    );
    fs::write(file("conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/chronyd");
    command
        .args(["-x", "-d", "-u", "root", "-f"])
        .arg(file("conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(file("log")).unwrap());
    Guarded::start(host, &mut command).unwrap()
}

fn clock(gateway: &Gateway) -> Value {
    let text = gateway.operate("show ntp | display json\n").unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    state["clock"].clone()
}

/// Waits until the clock follows this server, one of so many.
fn follows(gateway: &Gateway, server: &str, of: usize) -> Value {
    let what = format!("a clock that follows {server}");
    wait_for(&what, PATIENCE, || {
        // chronyd may be about to start.
        let text = gateway.operate("show ntp | display json\n").ok()?;
        let state: Value = serde_json::from_str(&text).unwrap();
        let clock = state["clock"].clone();
        let known = clock["ntp_servers"].as_array()?.len();
        let right = clock["synchronised"] == true && clock["source"] == server && known == of;
        right.then_some(clock)
    })
    .unwrap()
}

fn restarts(gateway: &Gateway) -> Option<u64> {
    let status = gateway.status()?;
    let chronyd = status.processes.get("chronyd")?;
    (chronyd.state == "ready").then_some(chronyd.restarts)
}

#[test]
fn the_clock_follows_the_configured_servers() {
    let mut lab = Laboratory::build().unwrap();
    let host = lab.open(Place::HostA);
    ip(&host, &format!("address add {SECOND}/24 dev eth0")).unwrap();
    let _one = time_server(&lab, &host, &first());
    let _two = time_server(&lab, &host, SECOND);
    let _names = name_server(&host, SECOND, &lab.folder().join("dnsmasq.log"));

    let mut configuration = gateway(Side::A);
    configuration["system"]["dns_servers"] = json!([{ "address": SECOND }]);
    configuration["system"]["ntp_servers"] = json!([{ "host": first() }]);
    lab.start(Side::A, &configuration).unwrap();
    let box_a = lab.gateway(Side::A);
    let clock_a = follows(box_a, &first(), 1);
    assert_eq!(clock_a["stratum"], 9, "{clock_a}");
    let server = &clock_a["ntp_servers"][0];
    assert_eq!(server["host"], json!(first()), "{clock_a}");
    assert_eq!(server["state"], "selected", "{clock_a}");
    assert_eq!(server["stratum"], 8, "{clock_a}");
    assert!(server["reach"].as_u64().unwrap() > 0, "{clock_a}");
    let text = box_a.operate("show ntp\n").unwrap();
    assert!(
        text.contains(&format!("follows {}, at stratum 9", first())),
        "{text}"
    );

    // It leaves this machine's clock alone, whatever it is told: it may not set it.
    let chronyd = box_a.process("chronyd").unwrap();
    let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", chronyd.pid)).unwrap();
    assert!(of("cmdline").contains("\0-x\0"));
    let status = of("status");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(
            status.lines().any(|found| found == line),
            "{line}: {status}"
        );
    }
    // And answers nobody.
    for table in ["net/udp", "net/udp6"] {
        let table = of(table);
        assert!(
            !table.contains(":007B ") && !table.contains(":0143 "),
            "{table}"
        );
    }

    let killed = box_a.signal("chronyd", Signal::SIGKILL).unwrap();
    assert!(killed.wait_gone(PATIENCE));
    wait_for("another chronyd", PATIENCE, || {
        (restarts(box_a)? == 1).then_some(())
    })
    .unwrap();
    follows(box_a, &first(), 1);

    // Another one, by its name.
    let name = format!("time.{DOMAIN}");
    box_a
        .operate(&format!(
            "configure\nset system ntp_servers {name} prefer true\ndelete system ntp_servers {}\ncommit\n",
            first()
        ))
        .unwrap();
    follows(box_a, &name, 1);

    // One that does not answer is told as such.
    box_a
        .operate("configure\nset system ntp_servers 10.1.0.99\ncommit\n")
        .unwrap();
    let clock_a = follows(box_a, &name, 2);
    let servers = clock_a["ntp_servers"].as_array().unwrap();
    let silent = servers
        .iter()
        .find(|server| server["host"] == "10.1.0.99")
        .unwrap();
    assert_eq!(silent["state"], "unusable", "{clock_a}");
    assert_eq!(silent["last_heard"], Value::Null, "{clock_a}");

    let chronyd = box_a.process("chronyd").unwrap();
    box_a
        .operate("configure\ndelete system ntp_servers\ncommit\n")
        .unwrap();
    assert!(chronyd.wait_gone(PATIENCE));
    let gone = || box_a.process("chronyd").is_err().then_some(());
    wait_for("no chronyd", PATIENCE, gone).unwrap();
    assert_eq!(clock(box_a)["ntp_servers"], json!([]));
    box_a.wait_healthy(PATIENCE).unwrap();
    lab.stop(Side::A).unwrap();
}

/// As a process sees it.
fn name_seen_by(gateway: &Gateway, process: &str) -> String {
    let pid = gateway.process(process).unwrap().pid;
    let output = Command::new("nsenter")
        .args(["--uts", "--target", &pid.to_string(), "uname", "-n"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn gateways_on_one_machine_have_their_own_names() {
    let called = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    let machine = called();
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &gateway(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for side in Side::BOTH {
        let (gateway, name) = (lab.gateway(side), side.gateway().name());
        assert_eq!(system(gateway)["host_name"], name);
        for process in ["mgmt", "dataplane", "charon"] {
            assert_eq!(name_seen_by(gateway, process), name, "{process}");
        }
    }
    // It changes for processes that run, those of one gateway alone.
    let box_a = lab.gateway(Side::A);
    let named = |name: &str| {
        wait_for(name, PATIENCE, || {
            (system(box_a)["host_name"] == name).then_some(())
        })
        .unwrap();
        assert_eq!(name_seen_by(box_a, "charon"), name);
    };
    box_a
        .operate("configure\nset system host_name branch-7.example.com\ncommit\n")
        .unwrap();
    named("branch-7.example.com");
    box_a
        .operate("configure\ndelete system host_name\ncommit\n")
        .unwrap();
    named(&machine);
    let other = Side::B.gateway().name();
    assert_eq!(system(lab.gateway(Side::B))["host_name"], other);
    assert_eq!(called(), machine);
}
