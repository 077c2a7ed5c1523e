//! Datagrams and streams of every size between two Linux hosts, over a tunnel whose packets do not fit the WAN: the
//! hosts' kernels fragment and put together on their side, the gateways on theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_tests::configuration::gateway;
use culvert_tests::exchange::{self, DontFragment};
use culvert_tests::gateway::program;
use culvert_tests::laboratory::Laboratory;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);

fn pair(fragmentation: &str, wan_mtu: u16) -> Laboratory {
    let configured = |side| -> Value {
        let mut configuration = gateway(side);
        configuration["interfaces"][0]["mtu"] = json!(wan_mtu);
        configuration["tunnels"][0]["fragmentation"] = json!(fragmentation);
        configuration["tunnels"][0]["mss_clamp"] = json!(false);
        configuration
    };
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    lab
}

fn echo(
    lab: &Laboratory,
    family: Family,
    sizes: impl Iterator<Item = usize>,
    dont_fragment: DontFragment,
) -> usize {
    exchange::echo(lab, family, sizes, dont_fragment).unwrap()
}

fn stream(lab: &Laboratory, family: Family) {
    exchange::stream(lab, family).unwrap();
}

const LARGEST: usize = 20_000;

/// A stream as its own kernel cuts it, and one of single writes: each size up to what two packets hold, some of all
/// others.
fn streams(lab: &Laboratory, family: Family) {
    stream(lab, family);
    let sizes = (1..=3000).chain((3001..=LARGEST).step_by(1501));
    exchange::writes(lab, family, sizes).unwrap();
}

/// How many packets a gateway has dropped for each reason.
fn drops(lab: &Laboratory, side: Side) -> impl Fn(&str) -> u64 {
    let drops = lab.gateway(side).control().drops().unwrap();
    move |reason| drops.get(reason).copied().unwrap_or(0)
}

fn cut_before_encryption(wan_mtu: u16) {
    let lab = pair("before", wan_mtu);
    assert_eq!(echo(&lab, Family::V4, 1..=LARGEST, DontFragment::Never), 0);
    let drops = drops(&lab, Side::A);
    assert!(drops("fragmented") > 1000);
    assert_eq!(drops("reassembled"), 0, "that is the hosts' matter");
    // Told the path's MTU, the sender fits: one datagram each way is lost to learn it.
    let again = echo(&lab, Family::V6, 1..=LARGEST, DontFragment::Never);
    assert!(again <= 2, "{again} datagrams were lost");
    for family in Family::BOTH {
        streams(&lab, family);
    }
}

#[test]
fn what_does_not_fit_1500_is_cut_before_encryption() {
    cut_before_encryption(1500);
}

#[test]
fn what_does_not_fit_1400_is_cut_before_encryption() {
    cut_before_encryption(1400);
}

#[test]
fn what_does_not_fit_1280_is_cut_before_encryption() {
    cut_before_encryption(1280);
}

fn cut_after_encryption(wan_mtu: u16) {
    let lab = pair("after", wan_mtu);
    for family in Family::BOTH {
        assert_eq!(echo(&lab, family, 1..=LARGEST, DontFragment::Never), 0);
        streams(&lab, family);
    }
    // Nobody on the way may cut these, and they fill the hosts' links: only the very same packets can come out.
    assert_eq!(echo(&lab, Family::V4, 1200..=1472, DontFragment::Always), 0);
    let drops = drops(&lab, Side::B);
    assert!(drops("reassembled") > 1000);
    for reason in [
        "mtu-exceeded",
        "reassembly-timed-out",
        "reassembly-overlap",
        "reassembly-crowded",
        "esp-bad-icv",
    ] {
        assert_eq!(drops(reason), 0, "{reason}");
    }
}

#[test]
fn what_does_not_fit_1500_is_cut_after_encryption_and_comes_out_whole() {
    cut_after_encryption(1500);
}

#[test]
fn what_does_not_fit_1400_is_cut_after_encryption_and_comes_out_whole() {
    cut_after_encryption(1400);
}

#[test]
fn what_does_not_fit_1280_is_cut_after_encryption_and_comes_out_whole() {
    cut_after_encryption(1280);
}

/// What `show interfaces` says of the driver of an interface.
fn driver(lab: &Laboratory, side: Side, interface: &str) -> String {
    let output = Command::new(program().unwrap())
        .args(["show", "interfaces", "--json", "--root"])
        .arg(lab.gateway(side).root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let row = rows.iter().find(|row| row["name"] == interface).unwrap();
    row["driver"].as_str().unwrap().to_owned()
}

fn assert_drivers(lab: &Laboratory, expected: &str) {
    for side in [Side::A, Side::B] {
        for interface in ["wan", "lan"] {
            assert_eq!(driver(lab, side, interface), expected, "{interface}");
        }
    }
}

/// Launches a gateway for which no XDP program loads, as jumbo frames' program does not on a kernel before 5.18.
fn launch_without_xdp(lab: &mut Laboratory, side: Side, configuration: &Value) {
    const PROGRAM_LOAD: u64 = 5;
    let load = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, PROGRAM_LOAD);
    let rule = SeccompRule::new(vec![load.unwrap()]).unwrap();
    let filter = SeccompFilter::new(
        [(nix::libc::SYS_bpf, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(nix::libc::EINVAL.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    // The filter stays with this thread and what it starts.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            seccompiler::apply_filter(&program).unwrap();
            lab.launch(side, configuration).unwrap();
        });
        thread.join().unwrap();
    });
}

/// Links of 9000 bytes and more from host to host, or on the hosts' side alone.
fn jumbo_pair(wan_mtu: u32, fragmentation: &str, driver: &str) -> Laboratory {
    jumbo_pair_as(wan_mtu, fragmentation, driver, |lab, configuration| {
        lab.launch(Side::A, configuration).unwrap();
    })
}

/// The same with gateway A launched by this.
fn jumbo_pair_as(
    wan_mtu: u32,
    fragmentation: &str,
    driver: &str,
    launch: impl FnOnce(&mut Laboratory, &Value),
) -> Laboratory {
    const LAN_MTU: u32 = 9000;
    let configured = |side| -> Value {
        let mut configuration = gateway(side);
        configuration["interfaces"][0]["mtu"] = json!(wan_mtu);
        configuration["interfaces"][1]["mtu"] = json!(LAN_MTU);
        for interface in [0, 1] {
            configuration["interfaces"][interface]["driver"] = json!(driver);
        }
        let tunnel = &mut configuration["tunnels"][0];
        tunnel["fragmentation"] = json!(fragmentation);
        if fragmentation == "after" {
            tunnel["mtu"] = json!(LAN_MTU);
        }
        configuration
    };
    let mut lab = Laboratory::build().unwrap();
    for (place, device, mtu) in [
        (Place::HostA, "eth0", LAN_MTU),
        (Place::HostB, "eth0", LAN_MTU),
        (Place::Wan, "wan-a", wan_mtu),
        (Place::Wan, "wan-b", wan_mtu),
    ] {
        lab.open(place)
            .netlink(async |netlink| netlink.set_mtu(device, mtu).await)
            .unwrap();
    }
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    launch(&mut lab, &configured(Side::A));
    for side in [Side::A, Side::B] {
        lab.wait_ready(side).unwrap();
    }
    for family in Family::BOTH {
        lab.wait_open(family, UP).unwrap();
    }
    lab
}

/// Around every buffer size and MTU on the way, and some of all others.
fn jumbo_sizes() -> impl Iterator<Item = usize> {
    (1..=20_000)
        .step_by(83)
        .chain(1300..=1500)
        .chain(1780..=2080)
        .chain(8700..=9220)
        .chain([20_000])
}

#[test]
fn jumbo_packets_pass_a_jumbo_wan_in_one_piece() {
    let lab = jumbo_pair(9216, "before", "af-packet");
    assert_drivers(&lab, "af-packet");
    pass_in_one_piece(&lab);
}

#[test]
fn jumbo_packets_pass_a_jumbo_wan_in_one_piece_by_xdp_sockets() {
    let lab = jumbo_pair(9216, "before", "af-xdp");
    assert_drivers(&lab, "af-xdp (native, copy)");
    pass_in_one_piece(&lab);
}

/// A kernel that does not take frames in several buffers is said, and packet sockets are used.
#[test]
fn jumbo_packets_pass_where_xdp_sockets_do_not_take_them() {
    let lab = jumbo_pair_as(9216, "before", "af-xdp", |lab, configuration| {
        launch_without_xdp(lab, Side::A, configuration);
    });
    for (interface, mtu) in [("wan", 9216), ("lan", 9000)] {
        let shown = driver(&lab, Side::A, interface);
        let reason = format!("an MTU of {mtu} bytes needs multi-buffer XDP");
        assert!(
            shown.starts_with("af-packet (") && shown.contains(&reason),
            "{shown}"
        );
        assert_eq!(driver(&lab, Side::B, interface), "af-xdp (native, copy)");
    }
    pass_in_one_piece(&lab);
}

fn pass_in_one_piece(lab: &Laboratory) {
    for family in Family::BOTH {
        assert_eq!(echo(lab, family, jumbo_sizes(), DontFragment::Never), 0);
        stream(lab, family);
    }
    let full = (8000..=8972).step_by(9);
    assert_eq!(echo(lab, Family::V4, full, DontFragment::Always), 0);
    for side in [Side::A, Side::B] {
        let drops = drops(lab, side);
        for reason in [
            "fragmented",
            "reassembled",
            "frame-too-large",
            "no-room",
            "no-buffer",
            "tx-error",
            "tx-queue-full",
        ] {
            assert_eq!(drops(reason), 0, "{reason}");
        }
    }
}

#[test]
fn jumbo_packets_are_cut_for_an_ordinary_wan_before_encryption() {
    let lab = jumbo_pair(1500, "before", "af-packet");
    assert_eq!(
        echo(&lab, Family::V4, jumbo_sizes(), DontFragment::Never),
        0
    );
    assert!(drops(&lab, Side::A)("fragmented") > 500);
    stream(&lab, Family::V4);
    stream(&lab, Family::V6);
}

/// With XDP sockets that take frames in one buffer on the WAN, in several on the LAN.
#[test]
fn jumbo_packets_are_cut_for_an_ordinary_wan_after_encryption_and_come_out_whole() {
    let lab = jumbo_pair(1500, "after", "af-xdp");
    assert_drivers(&lab, "af-xdp (native, copy)");
    for family in Family::BOTH {
        assert_eq!(echo(&lab, family, jumbo_sizes(), DontFragment::Never), 0);
        stream(&lab, family);
    }
    let full = (8000..=8972).step_by(9);
    assert_eq!(echo(&lab, Family::V4, full, DontFragment::Always), 0);
    let drops = drops(&lab, Side::B);
    assert!(drops("reassembled") > 1000);
    for reason in ["reassembly-too-large", "no-buffer", "no-room", "tx-error"] {
        assert_eq!(drops(reason), 0, "{reason}");
    }
}
