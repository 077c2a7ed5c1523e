//! An uplink that gets its address by DHCP, from Debian's dnsmasq: what is lent is used, renewed, kept over a crash, and
//! goes when the server says so or nobody wants it any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::Namespace;
use culvert_netlab::ping::{Ping, PingReport};
use culvert_netlab::process::Interrupt;
use culvert_tests::dnsmasq::Dnsmasq;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::lan_host::ip;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// Renewed after 4 s, or asked of any server after 10 s.
const TIMES: [&str; 2] = ["--dhcp-option=58,4", "--dhcp-option=59,10"];
/// The router knows the LAN behind it.
const FIRST: &str = "192.0.2.2";
const SECOND: &str = "192.0.2.77";

fn configuration(client: Value) -> Value {
    let mut wan = json!({ "name": "wan", "device": "wan0" });
    if !client.is_null() {
        wan["dhcp_client"] = client;
    }
    let lan = Side::A.addresses().gateway_lan(Family::V4).to_string();
    json!({
        "system": { "host_name": "branch" },
        "interfaces": [
            wan,
            { "name": "lan", "device": "lan0", "addresses": [{ "address": lan }] },
        ],
    })
}

fn ping(from: &Namespace, destination: IpAddr, count: u32) -> PingReport {
    let ping = Ping {
        destination,
        count,
        interval: Duration::from_millis(50),
        patience: Duration::from_secs(1),
        size: 56,
        marker: b"",
    };
    ping.run(from, &Interrupt::default()).unwrap()
}

#[test]
fn an_uplink_by_dhcp_is_obtained_renewed_kept_lost_and_given_back() {
    let mut lab = Laboratory::build().unwrap();
    let [router, behind, linux] =
        [Place::Wan, Place::HostA, Place::GatewayA].map(|place| lab.open(place));
    // Of the other link of the router: only a default route leads there.
    let beyond = Side::B.addresses().router(Family::V4).addr();
    let mut options = TIMES.to_vec();
    options.push("--dhcp-option=option:dns-server,192.0.2.53");
    options.push("--domain=branch.example.com");
    let server = Dnsmasq::start(&lab, FIRST, &options).unwrap();
    lab.start(Side::A, &configuration(json!({ "enabled": true })))
        .unwrap();
    let own = lab.gateway(Side::A);
    let show = |words: &str| own.operate(&format!("{words}\n")).unwrap();
    let addresses = || ip(&linux, "-4 -o address show dev wan").unwrap();
    let wait = |what: &str, found: &dyn Fn() -> bool| {
        wait_for(what, SOON, || found().then_some(()))
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", show("show dhcp"), server.log()));
    };

    // Obtained: in Linux and in the dataplane, with its routes and name servers.
    wait("the address", &|| {
        addresses().contains(&format!("{FIRST}/24"))
    });
    wait("the default route", &|| {
        ip(&linux, "route show default")
            .unwrap()
            .contains("via 192.0.2.1 dev wan proto 213")
    });
    wait("an answer through the gateway", &|| {
        ping(&behind, beyond, 1).received == 1
    });
    let resolver = fs::read_to_string(own.root().join("etc/resolv.conf")).unwrap();
    assert!(resolver.contains("nameserver 192.0.2.53"), "{resolver}");
    assert!(resolver.contains("search branch.example.com"), "{resolver}");
    assert!(server.log().contains("branch"), "{}", server.log());
    let told = show("show dhcp");
    for word in ["wan", "bound", "192.0.2.2/24", "192.0.2.1"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let status = show("show configuration status");
    assert!(status.contains("obtained"), "{status}");
    let interfaces = show("show interfaces");
    assert!(interfaces.contains(&format!("{FIRST}/24")), "{interfaces}");

    // Renewed: asked of its server alone, and by nobody's going back to the beginning.
    let [offers, leases] = ["DHCPOFFER", "DHCPACK"].map(|kind| server.count(kind));
    wait("two renewals", &|| server.count("DHCPACK") >= leases + 2);
    assert_eq!(server.count("DHCPOFFER"), offers, "{}", server.log());

    // Kept while the process is away, and after: nobody misses a packet.
    let before = own.process("dhcp").unwrap();
    let acknowledged = server.count("DHCPACK");
    let report = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping(&behind, beyond, 100));
        own.signal("dhcp", Signal::SIGKILL).unwrap();
        pinging.join().unwrap()
    });
    assert_eq!(report.received, report.sent, "{}", server.log());
    wait("another process", &|| {
        own.process("dhcp")
            .is_ok_and(|process| process.pid != before.pid)
    });
    wait("its lease", &|| {
        server.count("DHCPACK") > acknowledged && show("show dhcp").contains("bound")
    });
    assert_eq!(server.count("DHCPOFFER"), offers, "{}", server.log());
    assert!(addresses().contains(FIRST));

    // Lost: the server does not know of it any more, and has another.
    drop(server);
    let server = Dnsmasq::start(&lab, SECOND, &TIMES).unwrap();
    let wait = |what: &str, found: &dyn Fn() -> bool| {
        wait_for(what, SOON, || found().then_some(()))
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", show("show dhcp"), server.log()));
    };
    wait("the other address", &|| {
        let addresses = addresses();
        addresses.contains(SECOND) && !addresses.contains(&format!("{FIRST}/"))
    });
    assert!(server.count("DHCPNAK") > 0, "{}", server.log());
    wait("an answer from the other address", &|| {
        ping(&router, SECOND.parse().unwrap(), 1).received == 1
    });
    assert_eq!(ping(&router, FIRST.parse().unwrap(), 1).received, 0);

    // Given back: nothing of it is left, nor the process.
    own.reload(&configuration(Value::Null)).unwrap();
    wait("the release", &|| server.count("DHCPRELEASE") == 1);
    wait("the end of it", &|| {
        addresses().is_empty() && own.process("dhcp").is_err()
    });
    assert!(ip(&linux, "route show default").unwrap().is_empty());
    assert_eq!(ping(&router, SECOND.parse().unwrap(), 1).received, 0);
}
