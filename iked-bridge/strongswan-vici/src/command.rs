//! charon's commands, typed. What a connection or an authority may contain is charon's own vocabulary (swanctl.conf(5)),
//! so those are [`Message`]s; everything else has a type.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::ViciError;
use crate::event::EventStream;
use crate::message::Message;
use crate::sa::IkeSa;
use crate::session::Vici;

/// Added to the time charon itself waits for a negotiation, so that its own answer comes first.
const NEGOTIATION_MARGIN: Duration = Duration::from_secs(5);

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `charon`, `charon-systemd` ...
    pub daemon: String,
    /// `5.9.8`.
    pub version: String,
}

/// How loaded charon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// IKE SAs in any state.
    pub ike_sas: u32,
    /// IKE SAs not yet established.
    pub half_open: u32,
    /// Worker threads.
    pub workers: u32,
    /// Worker threads that wait for work.
    pub idle_workers: u32,
    /// Jobs that wait for a worker, of all priorities.
    pub queued_jobs: u32,
    /// Jobs that wait for their time.
    pub scheduled_jobs: u32,
    /// Names of the loaded plugins.
    pub plugins: Vec<String>,
}

/// Kind of a shared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedKeyType {
    /// Pre-shared key of IKE.
    Ike,
    /// EAP password.
    Eap,
    /// `XAuth` password.
    Xauth,
}

/// A pre-shared key or password. Wiped when dropped; not formattable.
#[derive(Clone)]
pub struct SharedKey {
    /// Unique, to replace or unload it by.
    pub id: String,
    /// What it is for.
    pub kind: SharedKeyType,
    /// The secret.
    pub data: Zeroizing<Vec<u8>>,
    /// Identities it belongs to; empty: any.
    pub owners: Vec<String>,
}

/// Kind of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateType {
    /// An X.509 certificate.
    X509,
    /// A certificate revocation list.
    X509Crl,
}

/// Use of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateFlag {
    /// An end entity.
    None,
    /// An authority to trust.
    Ca,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Kind.
    pub kind: CertificateType,
    /// Use.
    pub flag: CertificateFlag,
    /// PEM or DER.
    pub data: Vec<u8>,
}

/// Kind of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// Found out from the encoding: PKCS#8, and with it Ed25519.
    Any,
    /// RSA.
    Rsa,
    /// ECDSA.
    Ecdsa,
}

/// Which SAs to list; nothing set: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaFilter {
    /// Of that connection.
    pub ike: Option<String>,
    /// With that unique id.
    pub ike_id: Option<u32>,
    /// IKE SAs with CHILD SAs of that configuration.
    pub child: Option<String>,
    /// IKE SAs with that CHILD SA.
    pub child_id: Option<u32>,
    /// Leave out IKE SAs that are busy, and do not wait for them.
    pub no_block: bool,
}

/// What to initiate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initiate {
    /// CHILD configuration; `None`: the IKE SA alone.
    pub child: Option<String>,
    /// Connection, where the name of the CHILD is not unique.
    pub ike: Option<String>,
    /// How long to wait for the result; `None`: do not wait.
    pub timeout: Option<Duration>,
}

/// What to terminate; at least one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminate {
    /// CHILD SAs of that configuration.
    pub child: Option<String>,
    /// IKE SAs of that connection.
    pub ike: Option<String>,
    /// The CHILD SA with that unique id.
    pub child_id: Option<u32>,
    /// The IKE SA with that unique id.
    pub ike_id: Option<u32>,
    /// Do not wait for the peer's consent.
    pub force: bool,
    /// How long to wait for the result; `None`: do not wait.
    pub timeout: Option<Duration>,
}

/// What was terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminated {
    /// SAs that matched.
    pub matches: u32,
    /// Those that are gone.
    pub terminated: u32,
}

/// What to rekey; one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rekey {
    /// CHILD SAs of that configuration.
    pub child: Option<String>,
    /// IKE SAs of that connection.
    pub ike: Option<String>,
    /// The CHILD SA with that unique id.
    pub child_id: Option<u32>,
    /// The IKE SA with that unique id.
    pub ike_id: Option<u32>,
}

impl Vici {
    /// Opens a connection for events; see [`EventStream::connect`].
    pub async fn events(&self, events: &[&str]) -> Result<EventStream, ViciError> {
        EventStream::connect(self.path(), events).await
    }

    /// What runs.
    pub async fn version(&self) -> Result<Version, ViciError> {
        let answer = self.request("version", &Message::new()).await?;
        let field = |field: &'static str| {
            answer
                .text(field)
                .map(str::to_owned)
                .ok_or(ViciError::Field {
                    command: "version",
                    field,
                })
        };
        Ok(Version {
            daemon: field("daemon")?,
            version: field("version")?,
        })
    }

    /// How loaded it is.
    pub async fn stats(&self) -> Result<Stats, ViciError> {
        let answer = self.request("stats", &Message::new()).await?;
        let field = |section: &str, field: &'static str| {
            answer
                .section(section)
                .and_then(|section| section.parse(field))
                .ok_or(ViciError::Field {
                    command: "stats",
                    field,
                })
        };
        let queues_by_priority = answer.section("queues");
        let waiting = ["critical", "high", "medium", "low"]
            .into_iter()
            .filter_map(|priority| queues_by_priority?.parse::<u32>(priority))
            .fold(0, u32::saturating_add);
        Ok(Stats {
            ike_sas: field("ikesas", "total")?,
            half_open: field("ikesas", "half-open")?,
            workers: field("workers", "total")?,
            idle_workers: field("workers", "idle")?,
            queued_jobs: waiting,
            scheduled_jobs: answer.parse("scheduled").unwrap_or_default(),
            plugins: answer.list("plugins").map(str::to_owned).collect(),
        })
    }

    /// Reads `strongswan.conf` again.
    pub async fn reload_settings(&self) -> Result<(), ViciError> {
        self.command("reload-settings", &Message::new()).await
    }

    /// Loads or replaces a connection; `connection` is the section that swanctl.conf(5) has under `connections`.
    pub async fn load_conn(&self, name: &str, connection: Message) -> Result<(), ViciError> {
        self.command("load-conn", &Message::new().with_section(name, connection))
            .await
    }

    /// Unloads a connection. Its SAs stay.
    pub async fn unload_conn(&self, name: &str) -> Result<(), ViciError> {
        self.command("unload-conn", &Message::new().with("name", name))
            .await
    }

    /// Names of the loaded connections.
    pub async fn get_conns(&self) -> Result<Vec<String>, ViciError> {
        self.names("get-conns", "conns").await
    }

    /// The loaded connections, one message each: a section under its name.
    pub async fn list_conns(&self) -> Result<Vec<Message>, ViciError> {
        self.stream("list-conns", "list-conn", &Message::new())
            .await
    }

    /// Loads or replaces a shared key.
    pub async fn load_shared(&self, key: &SharedKey) -> Result<(), ViciError> {
        let kind = match key.kind {
            SharedKeyType::Ike => "IKE",
            SharedKeyType::Eap => "EAP",
            SharedKeyType::Xauth => "XAUTH",
        };
        let message = Message::new()
            .with("id", &key.id)
            .with("type", kind)
            .with("data", &*key.data)
            .with_list("owners", &key.owners);
        self.command("load-shared", &message).await
    }

    /// Unloads a shared key by its id.
    pub async fn unload_shared(&self, id: &str) -> Result<(), ViciError> {
        self.command("unload-shared", &Message::new().with("id", id))
            .await
    }

    /// Ids of the loaded shared keys.
    pub async fn get_shared(&self) -> Result<Vec<String>, ViciError> {
        self.names("get-shared", "keys").await
    }

    /// Loads a certificate.
    pub async fn load_cert(&self, certificate: &Certificate) -> Result<(), ViciError> {
        let kind = match certificate.kind {
            CertificateType::X509 => "X509",
            CertificateType::X509Crl => "X509_CRL",
        };
        let flag = match certificate.flag {
            CertificateFlag::None => "NONE",
            CertificateFlag::Ca => "CA",
        };
        let message = Message::new()
            .with("type", kind)
            .with("flag", flag)
            .with("data", &certificate.data);
        self.command("load-cert", &message).await
    }

    /// Loads a private key, PEM or DER; the answer is its id, to unload it by.
    pub async fn load_key(&self, kind: KeyType, data: &[u8]) -> Result<String, ViciError> {
        let kind = match kind {
            KeyType::Any => "any",
            KeyType::Rsa => "rsa",
            KeyType::Ecdsa => "ecdsa",
        };
        let answer = self
            .request(
                "load-key",
                &Message::new().with("type", kind).with("data", data),
            )
            .await?;
        answer
            .text("id")
            .map(str::to_owned)
            .ok_or(ViciError::Field {
                command: "load-key",
                field: "id",
            })
    }

    /// Unloads a private key by its id.
    pub async fn unload_key(&self, id: &str) -> Result<(), ViciError> {
        self.command("unload-key", &Message::new().with("id", id))
            .await
    }

    /// Ids of the loaded private keys.
    pub async fn get_keys(&self) -> Result<Vec<String>, ViciError> {
        self.names("get-keys", "keys").await
    }

    /// Loads or replaces an authority; `authority` is the section that swanctl.conf(5) has under `authorities`.
    pub async fn load_authority(&self, name: &str, authority: Message) -> Result<(), ViciError> {
        self.command(
            "load-authority",
            &Message::new().with_section(name, authority),
        )
        .await
    }

    /// Unloads an authority.
    pub async fn unload_authority(&self, name: &str) -> Result<(), ViciError> {
        self.command("unload-authority", &Message::new().with("name", name))
            .await
    }

    /// Names of the loaded authorities.
    pub async fn get_authorities(&self) -> Result<Vec<String>, ViciError> {
        self.names("get-authorities", "authorities").await
    }

    /// Unloads every certificate, private key and shared key.
    pub async fn clear_creds(&self) -> Result<(), ViciError> {
        self.command("clear-creds", &Message::new()).await
    }

    /// The SAs there are.
    pub async fn list_sas(&self, filter: &SaFilter) -> Result<Vec<IkeSa>, ViciError> {
        let message = Message::new()
            .with_some("ike", filter.ike.as_ref())
            .with_some("ike-id", filter.ike_id)
            .with_some("child", filter.child.as_ref())
            .with_some("child-id", filter.child_id)
            .with_some("noblock", filter.no_block.then_some("yes"));
        let listed = self.stream("list-sas", "list-sa", &message).await?;
        Ok(listed
            .iter()
            .map(IkeSa::from_listing)
            .collect::<Result<_, _>>()?)
    }

    /// Initiates an SA; refused when the negotiation fails or does not end in time.
    pub async fn initiate(&self, what: &Initiate) -> Result<(), ViciError> {
        let message = Message::new()
            .with_some("child", what.child.as_ref())
            .with_some("ike", what.ike.as_ref())
            .with("timeout", milliseconds(what.timeout));
        self.negotiate(what.timeout, "initiate", &message)
            .await
            .map(drop)
    }

    /// Terminates SAs; refused when none matches.
    pub async fn terminate(&self, what: &Terminate) -> Result<Terminated, ViciError> {
        let message = Message::new()
            .with_some("child", what.child.as_ref())
            .with_some("ike", what.ike.as_ref())
            .with_some("child-id", what.child_id)
            .with_some("ike-id", what.ike_id)
            .with_some("force", what.force.then_some("yes"))
            .with("timeout", milliseconds(what.timeout));
        let answer = self.negotiate(what.timeout, "terminate", &message).await?;
        Ok(Terminated {
            matches: answer.parse("matches").unwrap_or_default(),
            terminated: answer.parse("terminated").unwrap_or_default(),
        })
    }

    /// Begins to rekey SAs and says how many; refused when none matches.
    pub async fn rekey(&self, what: &Rekey) -> Result<u32, ViciError> {
        let message = Message::new()
            .with_some("child", what.child.as_ref())
            .with_some("ike", what.ike.as_ref())
            .with_some("child-id", what.child_id)
            .with_some("ike-id", what.ike_id);
        let answer = self.request("rekey", &message).await?;
        answer.parse("matches").ok_or(ViciError::Field {
            command: "rekey",
            field: "matches",
        })
    }

    /// Installs the trap, drop or bypass policy of a CHILD configuration.
    pub async fn install(&self, child: &str, ike: Option<&str>) -> Result<(), ViciError> {
        self.command(
            "install",
            &Message::new().with("child", child).with_some("ike", ike),
        )
        .await
    }

    /// Removes what [`Self::install`] installed.
    pub async fn uninstall(&self, child: &str, ike: Option<&str>) -> Result<(), ViciError> {
        self.command(
            "uninstall",
            &Message::new().with("child", child).with_some("ike", ike),
        )
        .await
    }

    async fn command(&self, command: &str, message: &Message) -> Result<(), ViciError> {
        self.request(command, message).await.map(drop)
    }

    async fn names(&self, command: &str, list: &str) -> Result<Vec<String>, ViciError> {
        let answer = self.request(command, &Message::new()).await?;
        Ok(answer.list(list).map(str::to_owned).collect())
    }

    async fn negotiate(
        &self,
        timeout: Option<Duration>,
        command: &str,
        message: &Message,
    ) -> Result<Message, ViciError> {
        match timeout {
            Some(timeout) => {
                self.request_within(timeout + NEGOTIATION_MARGIN, command, message)
                    .await
            }
            None => self.request(command, message).await,
        }
    }
}

/// charon's own time limit: 0 would wait for ever, -1 does not wait.
fn milliseconds(timeout: Option<Duration>) -> String {
    match timeout {
        Some(timeout) => timeout.as_millis().clamp(1, i32::MAX as u128).to_string(),
        None => "-1".to_owned(),
    }
}
