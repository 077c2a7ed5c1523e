//! What the tests of the plugin share: two hosts, their charons, and what to look for in the calls.
#![allow(dead_code)]

use std::path::PathBuf;
use std::time::Duration;

use culvert_plugin_wire::{
    AddPolicy, AddSa, Answer, Call, CharonConf, DelPolicy, DelSa, Expire, PLUGIN_FILE, SOCKET_ENV,
    Selector, UpdateSa,
};
use strongswan_vici::{Initiate, Message, SharedKey, SharedKeyType, Vici};

use crate::bridge::FakeBridge;
use crate::charon::{Charon, Host, PROGRAM};

pub const IF_ID: u32 = 42;
/// What most tests negotiate.
pub const GCM: &str = "aes128gcm16-x25519";

pub fn plugin_file() -> PathBuf {
    let built = std::env::current_exe()
        .unwrap()
        .with_file_name("libstrongswan_culvert.so");
    assert!(built.exists(), "{} was not built", built.display());
    built
}

pub fn connection(ours: u8, theirs: u8, esp: &str, child: Message) -> Message {
    let side = |number: u8| {
        Message::new()
            .with("auth", "psk")
            .with("id", format!("192.0.2.{number}"))
    };
    let child = child
        .with_list("local_ts", [format!("10.{ours}.0.0/16")])
        .with_list("remote_ts", [format!("10.{theirs}.0.0/16")])
        .with_list("esp_proposals", [esp]);
    Message::new()
        .with("version", "2")
        .with_list("local_addrs", [format!("192.0.2.{ours}")])
        .with_list("remote_addrs", [format!("192.0.2.{theirs}")])
        .with_list("proposals", ["aes128-sha256-x25519"])
        .with_section("local", side(ours))
        .with_section("remote", side(theirs))
        .with_section("children", Message::new().with_section("net", child))
}

pub async fn load(vici: &Vici, connection: Message) {
    let data = b"a secret of two".to_vec().into();
    let key = SharedKey {
        id: "psk".into(),
        kind: SharedKeyType::Ike,
        data,
        owners: Vec::new(),
    };
    vici.load_shared(&key).await.unwrap();
    vici.load_conn("hq", connection).await.unwrap();
}

pub fn initiate() -> Initiate {
    Initiate {
        child: Some("net".into()),
        ike: None,
        timeout: Some(Duration::from_secs(30)),
    }
}

/// A charon with the plugin and its stock peer, both loaded, nothing initiated.
pub struct Setup {
    pub bridge: FakeBridge,
    pub charon: Charon,
    pub vici: Vici,
    _peer: Charon,
    _hosts: [Host; 2],
}

impl Setup {
    pub async fn new() -> Self {
        let file = plugin_file();
        let left = Host::new(&[(PLUGIN_FILE, &file)]).unwrap();
        let right = Host::new(&[]).unwrap();
        left.join(&right).unwrap();
        let bridge = FakeBridge::start(&left.path("bridge"));
        let peer = Charon::start(&right, "kernel-libipsec!", &[]).unwrap();
        let charon = start(&left, PROGRAM, bridge.path()).ready().unwrap();
        let vici = Vici::new(&charon.vici);
        let if_id = IF_ID.to_string();
        let child = Message::new()
            .with("if_id_in", &if_id)
            .with("if_id_out", &if_id)
            .with("rekey_time", "3000")
            .with("life_time", "3600")
            .with("rand_time", "0")
            .with("rekey_bytes", "5000000")
            .with("life_bytes", "6000000")
            .with("rand_bytes", "0")
            .with("rekey_packets", "70000")
            .with("life_packets", "80000")
            .with("rand_packets", "0")
            .with("replay_window", "128")
            .with("tfc_padding", "600");
        load(&vici, connection(1, 2, GCM, child)).await;
        load(
            &Vici::new(&peer.vici),
            connection(2, 1, GCM, Message::new()),
        )
        .await;
        Self {
            bridge,
            charon,
            vici,
            _peer: peer,
            _hosts: [left, right],
        }
    }

    /// Initiates, and gives the SAs as they were added: inbound and outbound.
    pub async fn establish(&self) -> (AddSa, AddSa) {
        self.vici.initiate(&initiate()).await.unwrap();
        let added = self.bridge.calls(added);
        let of = |inbound| {
            added
                .iter()
                .find(|sa| sa.inbound == inbound)
                .unwrap()
                .clone()
        };
        (of(true), of(false))
    }
}

pub fn added(call: &Call) -> Option<AddSa> {
    match call {
        Call::AddSa(sa) => Some(sa.clone()),
        _ => None,
    }
}

pub fn added_policy(call: &Call) -> Option<AddPolicy> {
    match call {
        Call::AddPolicy(policy) => Some(policy.clone()),
        _ => None,
    }
}

pub fn deleted(call: &Call) -> Option<u32> {
    match call {
        Call::DelSa(DelSa { id: Some(id) }) => Some(id.spi),
        _ => None,
    }
}

pub fn deleted_policy(call: &Call) -> Option<DelPolicy> {
    match call {
        Call::DelPolicy(policy) => Some(policy.clone()),
        _ => None,
    }
}

pub fn updated(call: &Call) -> Option<UpdateSa> {
    match call {
        Call::UpdateSa(update) => Some(update.clone()),
        _ => None,
    }
}

pub fn spi(sa: &AddSa) -> u32 {
    sa.id.as_ref().unwrap().spi
}

pub fn network(second: u8) -> Selector {
    let address = |third, fourth| std::net::Ipv4Addr::new(10, second, third, fourth).into();
    Selector::addresses(address(0, 0), address(255, 255))
}

pub fn expire(sa: &AddSa, hard: bool) -> Answer {
    let id = sa.id.as_ref().unwrap();
    Answer::Expire(Expire {
        protocol: id.protocol,
        spi: id.spi,
        dst: id.dst.clone(),
        hard,
    })
}

/// Starts charon as the product does: with the generated configuration.
pub fn start(host: &Host, program: &str, socket: &str) -> Charon {
    let conf = CharonConf {
        vici_socket: host.path("vici"),
        interfaces: vec!["wan".into()],
        threads: 32,
        flood_protection: false,
        log_file: None,
        settings: Vec::new(),
    };
    // Reusing an IKE SA makes charon wait for each one that is busy before it begins another, which would hide how many
    // calls the plugin can have under way.
    let conf = format!("{conf}charon {{\n reuse_ikesa = no\n}}\n");
    Charon::spawn_program(host, program, &conf, &[(SOCKET_ENV, socket)]).unwrap()
}
