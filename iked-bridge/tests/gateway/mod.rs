//! One gateway without a data path: charon with our plugin, the real bridge, a dataplane that holds SAs.
#![allow(dead_code)]

pub mod dataplane;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use culvert_bus::Client;
use culvert_iked_bridge::{Options, run_until};
use culvert_model::bus::{
    self, ApplyRequest, AuthRound, Child, Connection, Credential, Operation, PreSharedKey,
    StartAction, Value, credential, operation, value,
};
use culvert_plugin_wire::{CharonConf, PLUGIN_FILE, SOCKET_ENV};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::charon::{Charon, Host, PROGRAM};
use dataplane::DataplaneProcess;

pub const IF_ID: u32 = 42;
const PATIENCE: Duration = Duration::from_secs(5);

/// Builds the plugin: an ordinary dependency would only be the Rust half of it.
pub fn plugin_file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "culvert-charon-plugin"])
            .status()
            .unwrap();
        assert!(status.success(), "the plugin does not build");
        let tests = std::env::current_exe().unwrap();
        tests
            .ancestors()
            .nth(2)
            .unwrap()
            .join("libstrongswan_culvert.so")
    })
}

pub struct Gateway {
    pub host: Host,
    pub dataplane: DataplaneProcess,
    pub charon: Option<Charon>,
    pub number: u8,
    root: PathBuf,
    bridge: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Gateway {
    /// Dataplane and bridge run, charon does not yet.
    pub async fn new(number: u8) -> Self {
        let host = Host::new(&[(PLUGIN_FILE, plugin_file())]).unwrap();
        let root = host.path("root");
        std::fs::create_dir_all(root.join("run")).unwrap();
        let mut gateway = Self {
            dataplane: DataplaneProcess::start(&root.join("run")),
            host,
            charon: None,
            number,
            root,
            bridge: None,
        };
        gateway.start_bridge().await;
        gateway
    }

    pub async fn start_bridge(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let options = Options {
            root: self.root.clone(),
        };
        let task = tokio::spawn(async move {
            run_until(options, async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        });
        self.bridge = Some((stop, task));
        let socket = self.root.join("run/charon-plugin.sock");
        eventually("the plugin's socket", || {
            let exists = socket.exists();
            async move { exists.then_some(()) }
        })
        .await;
    }

    pub async fn stop_bridge(&mut self) {
        if let Some((stop, task)) = self.bridge.take() {
            let _ = stop.send(());
            task.await.unwrap();
        }
    }

    pub fn start_charon(&mut self) {
        let vici_socket = self.root.join("run/charon.vici");
        let _ = std::fs::remove_file(&vici_socket);
        let conf = CharonConf {
            vici_socket: vici_socket.clone(),
            interfaces: vec!["wan".into()],
            threads: 16,
            flood_protection: false,
            log_file: None,
            settings: Vec::new(),
        };
        let socket = self.root.join("run/charon-plugin.sock");
        let charon = Charon::spawn_program(
            &self.host,
            PROGRAM,
            &conf.to_string(),
            &[(SOCKET_ENV, socket.to_str().unwrap())],
        )
        .unwrap();
        std::os::unix::fs::symlink(&vici_socket, self.host.path("vici")).unwrap();
        self.charon = Some(charon.ready().unwrap());
    }

    pub fn kill_charon(&mut self) {
        if let Some(mut charon) = self.charon.take() {
            charon.kill().unwrap();
        }
    }

    /// The bus of this gateway, for a task of its own.
    pub fn detached(&self) -> Bus {
        Bus {
            root: self.root.clone(),
            number: self.number,
        }
    }

    pub async fn configure(&self, start: StartAction) {
        self.detached().configure(start).await;
    }

    pub fn connection(&self, start: StartAction) -> Connection {
        self.detached().connection(start)
    }

    fn client(&self, name: &str) -> Client {
        self.detached().client(name)
    }

    pub async fn delete(&self, socket: &str, key: &str) {
        self.detached().delete(socket, key).await;
    }

    pub async fn retrieve(&self, socket: &str) -> Vec<bus::KeyedValue> {
        let request = bus::RetrieveRequest {};
        let reply = self.client(socket).call(&request, PATIENCE).await.unwrap();
        reply.values
    }

    pub async fn show(&self) -> bus::ShowIkeReply {
        let client = self.client("iked-bridge");
        client
            .call(&bus::ShowIkeRequest {}, PATIENCE)
            .await
            .unwrap()
    }

    /// Rekeys a child, or the IKE SA: as soon as charon is not busy with another rekey of it.
    pub async fn rekey(&self, ike: &str, child: &str) {
        let request = bus::RekeyRequest {
            ike: ike.into(),
            child: child.into(),
        };
        let client = self.client("iked-bridge");
        eventually("something to rekey", || async {
            let reply = client.call(&request, PATIENCE).await.ok()?;
            // Two, if an old one is not gone yet. Asking again would rekey again, without end.
            (reply.matches >= 1).then_some(())
        })
        .await;
    }

    /// SPIs of the installed CHILD SAs, as charon says.
    pub async fn children(&self) -> Vec<(u32, u32)> {
        let mut children: Vec<_> = self
            .show()
            .await
            .ikes
            .into_iter()
            .flat_map(|ike| ike.children)
            .filter(|child| child.state == "INSTALLED")
            .map(|child| (child.spi_in, child.spi_out))
            .collect();
        children.sort_unstable();
        children
    }

    /// Waits until charon and dataplane agree on one CHILD SA that is not `other`; gives its SPIs.
    pub async fn settled(&self, other: Option<(u32, u32)>) -> (u32, u32) {
        eventually("one CHILD SA", || async {
            let children = self.children().await;
            let &[(spi_in, spi_out)] = children.as_slice() else {
                return None;
            };
            let mut spis = self.dataplane.spis();
            spis.sort_unstable();
            let mut expected = vec![spi_in, spi_out];
            expected.sort_unstable();
            let outbound = self.dataplane.with(|state| {
                let policies = state
                    .policies
                    .iter()
                    .filter_map(|policy| policy.key.as_ref());
                policies
                    .filter(|key| key.direction() == bus::policy_key::Direction::Out)
                    .map(|key| key.spi)
                    .collect::<Vec<_>>()
            });
            (Some((spi_in, spi_out)) != other && spis == expected && outbound == [spi_out])
                .then_some((spi_in, spi_out))
        })
        .await
    }

    /// No key was ever installed twice.
    pub fn assert_no_key_twice(&self) {
        for places in self.dataplane.installed.lock().unwrap().values() {
            assert_eq!(places.len(), 1, "a key was installed at {places:?}");
        }
    }
}

/// Waits until both ends agree on one CHILD SA; gives the first end's SPIs.
pub async fn agreed(one: &Gateway, two: &Gateway, other: Option<(u32, u32)>) -> (u32, u32) {
    eventually("one CHILD SA of both", || async {
        let (here, there) = (one.settled(other).await, two.settled(None).await);
        (here == (there.1, there.0)).then_some(here)
    })
    .await
}

/// The services of one bridge.
pub struct Bus {
    root: PathBuf,
    number: u8,
}

impl Bus {
    fn client(&self, name: &str) -> Client {
        Client::new(&self.root.join("run/bus").join(name)).unwrap()
    }

    /// Gives the bridge its share of the plan: a key, and a connection to the other gateway.
    pub async fn configure(&self, start: StartAction) {
        let psk = Credential {
            name: "hq-psk".into(),
            kind: Some(credential::Kind::Psk(PreSharedKey {
                identities: vec!["gateway-1".into(), "gateway-2".into()],
                secret: b"a secret of two".to_vec(),
            })),
            digest: vec![7],
        };
        self.apply(
            "iked-bridge-secrets",
            "credential/hq-psk",
            value::Kind::Credential(psk),
        )
        .await;
        let connection = self.connection(start);
        self.apply(
            "iked-bridge",
            "connection/hq",
            value::Kind::Connection(connection),
        )
        .await;
    }

    pub fn connection(&self, start: StartAction) -> Connection {
        let other = 3 - self.number;
        let round = |number: u8| AuthRound {
            method: "psk".into(),
            identity: format!("gateway-{number}"),
            ..AuthRound::default()
        };
        Connection {
            name: "hq".into(),
            local_addresses: vec![format!("192.0.2.{}", self.number)],
            remote_addresses: vec![format!("192.0.2.{other}")],
            ike_proposals: vec!["aes128gcm16-prfsha256-x25519".into()],
            local: Some(round(self.number)),
            remote: Some(round(other)),
            dpd_delay: 10,
            mobike: true,
            children: vec![Child {
                name: "lan".into(),
                if_id: IF_ID,
                local_selectors: vec!["0.0.0.0/0".into()],
                remote_selectors: vec!["0.0.0.0/0".into()],
                esp_proposals: vec!["aes128gcm16-x25519".into()],
                start_action: start.into(),
                rekey_time: Some(3600),
                ..Child::default()
            }],
            ..Connection::default()
        }
    }

    pub async fn apply(&self, socket: &str, key: &str, kind: value::Kind) {
        let operation = Operation {
            verb: operation::Verb::Create.into(),
            key: key.into(),
            value: Some(Value { kind: Some(kind) }),
        };
        let request = ApplyRequest {
            operations: vec![operation],
        };
        let reply = self.client(socket).call(&request, PATIENCE).await.unwrap();
        assert_eq!(reply.results.len(), 1);
        assert_eq!(reply.results[0].error, None);
    }

    pub async fn delete(&self, socket: &str, key: &str) {
        let operation = Operation {
            verb: operation::Verb::Delete.into(),
            key: key.into(),
            value: None,
        };
        let request = ApplyRequest {
            operations: vec![operation],
        };
        let reply = self.client(socket).call(&request, PATIENCE).await.unwrap();
        assert_eq!(reply.results[0].error, None);
    }
}

/// Tries for half a minute.
pub async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} in half a minute");
        sleep(Duration::from_millis(50)).await;
    }
}
