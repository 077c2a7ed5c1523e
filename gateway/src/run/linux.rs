//! The Linux part of the configuration: what the plan says of TAPs, carried out by the mirror.
//!
//! The TAPs are made by this process, so nothing of ours can be on them that this process did not put there: it
//! remembers each value it applied, and reads back from the kernel which of them are still there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use culvert_model::bus::{self, operation, value};
use culvert_model::convert::ConvertError;
use culvert_tap_inject::device::{TapError, TapName};
use culvert_tap_inject::mirror::{LinkSettings, Mirror, MirrorError, TapAddress, TapRoute};
use ipnet::IpNet;
use thiserror::Error;

use super::host_name::{HostName, HostNameError};
use super::ntp::{NtpError, NtpFile};
use super::resolver::{ResolverError, ResolverFile};

/// Netlink answers at once; a kernel that does not in this time is not going to.
const ANSWER: Duration = Duration::from_secs(10);

/// Why an operation on Linux failed.
#[derive(Debug, Error)]
pub enum LinuxError {
    /// An operation that is not create, update or delete.
    #[error("operation {0} is unknown")]
    Verb(i32),
    /// A create without a value, or of a kind that is not Linux's.
    #[error("{0} carries no value for Linux")]
    Kind(String),
    /// An address of the value.
    #[error(transparent)]
    Address(#[from] ConvertError),
    /// A name of the value.
    #[error(transparent)]
    Name(#[from] TapError),
    /// The kernel, mostly.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The file that says where names are looked up.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// What chronyd is told.
    #[error(transparent)]
    Ntp(#[from] NtpError),
    /// What the gateway is called.
    #[error(transparent)]
    HostName(#[from] HostNameError),
    /// No answer.
    #[error("Linux did not answer")]
    Silent,
}

impl LinuxError {
    fn is_retriable(&self) -> bool {
        match self {
            Self::Mirror(error) => error.is_retriable(),
            Self::Silent | Self::HostName(_) => true,
            Self::Resolver(error) => !matches!(error, ResolverError::Placeless(_)),
            // What is not installed does not come by itself.
            Self::Ntp(error) => !matches!(error, NtpError::Missing(_)),
            Self::Verb(_) | Self::Kind(_) | Self::Address(_) | Self::Name(_) => false,
        }
    }

    fn fields(&self) -> Vec<String> {
        let field = match self {
            Self::Address(_) => "address",
            Self::Name(_) => "tap",
            _ => return Vec::new(),
        };
        vec![field.to_owned()]
    }
}

/// A value of the plan, parsed.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Link(LinkSettings),
    Address(TapAddress),
    Route(TapRoute),
    Resolver(bus::Resolver),
    Ntp(bus::Ntp),
    HostName(bus::HostName),
}

impl Wanted {
    /// The TAP that it is on.
    fn tap(&self) -> Option<&TapName> {
        match self {
            Self::Link(settings) => Some(&settings.tap),
            Self::Address(address) => Some(&address.tap),
            Self::Route(route) => Some(&route.tap),
            Self::Resolver(_) | Self::Ntp(_) | Self::HostName(_) => None,
        }
    }
}

/// What this process has put into Linux.
#[derive(Debug)]
pub struct Linux {
    mirror: Mirror,
    resolver: ResolverFile,
    ntp: NtpFile,
    host_name: HostName,
    /// MAC addresses of the interfaces that TAPs stand for.
    macs: BTreeMap<TapName, [u8; 6]>,
    applied: BTreeMap<String, (bus::Value, Wanted)>,
}

impl Linux {
    /// In the network namespace of the calling thread.
    pub fn open(
        resolver: ResolverFile,
        ntp: NtpFile,
        host_name: HostName,
    ) -> Result<Self, MirrorError> {
        Ok(Self {
            mirror: Mirror::open()?,
            resolver,
            ntp,
            host_name,
            macs: BTreeMap::new(),
            applied: BTreeMap::new(),
        })
    }

    /// The MAC addresses that TAPs shall have from now on.
    pub fn set_macs(&mut self, macs: BTreeMap<TapName, [u8; 6]>) {
        self.macs = macs;
    }

    /// Carries out operations in their order: one result each.
    pub async fn apply(&mut self, operations: &[bus::Operation]) -> Vec<bus::OperationResult> {
        let mut results = Vec::with_capacity(operations.len());
        for operation in operations {
            let outcome = tokio::time::timeout(ANSWER, self.operate(operation))
                .await
                .unwrap_or(Err(LinuxError::Silent));
            let error = outcome.err().map(|error| bus::OperationError {
                retriable: error.is_retriable(),
                message: error.to_string(),
                fields: error.fields(),
            });
            results.push(bus::OperationResult { error });
        }
        results
    }

    /// What is there of what was applied.
    pub async fn retrieve(&self) -> Result<Vec<bus::KeyedValue>, LinuxError> {
        tokio::time::timeout(ANSWER, self.read())
            .await
            .unwrap_or(Err(LinuxError::Silent))
    }

    async fn operate(&mut self, operation: &bus::Operation) -> Result<(), LinuxError> {
        let old = self
            .applied
            .get(&operation.key)
            .map(|(_, wanted)| wanted.clone());
        match operation.verb() {
            operation::Verb::Create | operation::Verb::Update => {
                let kind = || LinuxError::Kind(operation.key.clone());
                let value = operation.value.as_ref().ok_or_else(kind)?;
                let wanted = self.parse(value)?.ok_or_else(kind)?;
                // Made anew in place: links and routes are replaced, an address is another key.
                if let Some(old) = old.filter(|old| *old != wanted) {
                    self.remove(&old, Some(&wanted)).await?;
                }
                match &wanted {
                    Wanted::Link(settings) => self.mirror.set_link(settings).await?,
                    Wanted::Address(address) => self.mirror.add_address(address).await?,
                    Wanted::Route(route) => self.mirror.add_route(route).await?,
                    Wanted::Resolver(resolver) => self.resolver.write(Some(resolver))?,
                    Wanted::Ntp(ntp) => self.ntp.write(Some(ntp))?,
                    Wanted::HostName(name) => self.host_name.write(Some(name))?,
                }
                self.applied
                    .insert(operation.key.clone(), (value.clone(), wanted));
            }
            operation::Verb::Delete => {
                if let Some(old) = old {
                    self.remove(&old, None).await?;
                }
                self.applied.remove(&operation.key);
            }
            operation::Verb::Unspecified => return Err(LinuxError::Verb(operation.verb)),
        }
        Ok(())
    }

    async fn remove(&self, old: &Wanted, new: Option<&Wanted>) -> Result<(), LinuxError> {
        match (old, new) {
            (Wanted::Link(old), Some(Wanted::Link(new))) if old.tap == new.tap => {}
            (Wanted::Link(old), _) => match self.mirror.set_link_down(&old.tap).await {
                Err(MirrorError::NoDevice(_)) => {}
                other => other?,
            },
            (Wanted::Address(old), _) => self.mirror.delete_address(old).await?,
            (Wanted::Route(old), _) => self.mirror.delete_route(old).await?,
            (Wanted::Resolver(_), Some(Wanted::Resolver(_)))
            | (Wanted::Ntp(_), Some(Wanted::Ntp(_)))
            | (Wanted::HostName(_), Some(Wanted::HostName(_))) => {}
            (Wanted::Resolver(_), _) => self.resolver.write(None)?,
            (Wanted::Ntp(_), _) => self.ntp.write(None)?,
            (Wanted::HostName(_), _) => self.host_name.write(None)?,
        }
        Ok(())
    }

    async fn read(&self) -> Result<Vec<bus::KeyedValue>, LinuxError> {
        let taps: Vec<TapName> = self
            .applied
            .values()
            .filter_map(|(_, wanted)| wanted.tap().cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let links = self.mirror.links().await?;
        let addresses: BTreeSet<TapAddress> =
            self.mirror.addresses(&taps).await?.into_iter().collect();
        let routes: BTreeSet<TapRoute> = self.mirror.routes(&taps).await?.into_iter().collect();
        let there = |wanted: &Wanted| match wanted {
            Wanted::Link(settings) => links.get(settings.tap.as_str()).is_some_and(|link| {
                link.up
                    && link.mtu == settings.mtu
                    && settings.mac.is_none_or(|mac| link.mac == mac)
            }),
            Wanted::Address(address) => addresses.contains(address),
            Wanted::Route(route) => routes.contains(route),
            Wanted::Resolver(resolver) => self.resolver.says(resolver),
            Wanted::Ntp(ntp) => self.ntp.says(ntp),
            Wanted::HostName(name) => self.host_name.says(name),
        };
        Ok(self
            .applied
            .iter()
            .filter(|(_, (_, wanted))| there(wanted))
            .map(|(key, (value, _))| bus::KeyedValue {
                key: key.clone(),
                value: Some(value.clone()),
            })
            .collect())
    }

    /// None: not a value of Linux.
    fn parse(&self, value: &bus::Value) -> Result<Option<Wanted>, LinuxError> {
        let prefix = |prefix: Option<&culvert_model::types::IpPrefix>| {
            IpNet::try_from(prefix.ok_or(ConvertError::NoAddress)?)
        };
        Ok(Some(match &value.kind {
            Some(value::Kind::LinuxLink(link)) => {
                let tap: TapName = link.tap.parse()?;
                Wanted::Link(LinkSettings {
                    mac: self.macs.get(&tap).copied(),
                    mtu: link.mtu,
                    tap,
                })
            }
            Some(value::Kind::LinuxAddress(address)) => Wanted::Address(TapAddress {
                tap: address.tap.parse()?,
                address: prefix(address.address.as_ref())?,
            }),
            Some(value::Kind::LinuxRoute(route)) => Wanted::Route(TapRoute {
                destination: prefix(route.destination.as_ref())?.trunc(),
                gateway: route.gateway.as_ref().map(IpAddr::try_from).transpose()?,
                tap: route.tap.parse()?,
            }),
            Some(value::Kind::Resolver(resolver)) => Wanted::Resolver(resolver.clone()),
            Some(value::Kind::Ntp(ntp)) => Wanted::Ntp(ntp.clone()),
            Some(value::Kind::HostName(name)) => Wanted::HostName(name.clone()),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::Command;

    use culvert_tap_inject::device::Tap;
    use operation::Verb::{Create, Delete, Update};

    use super::*;
    use crate::run::namespace::Namespace;
    use crate::run::ntp::Chronyd;
    use crate::run::root::Root;

    fn operation(verb: operation::Verb, key: &str, kind: Option<value::Kind>) -> bus::Operation {
        bus::Operation {
            verb: verb.into(),
            key: key.to_owned(),
            value: kind.map(|kind| bus::Value { kind: Some(kind) }),
        }
    }

    fn link(mtu: u32) -> value::Kind {
        value::Kind::LinuxLink(bus::LinuxLink {
            tap: "wan".into(),
            mtu,
            interface: "wan".into(),
            ..bus::LinuxLink::default()
        })
    }

    fn address(text: &str) -> value::Kind {
        value::Kind::LinuxAddress(bus::LinuxAddress {
            tap: "wan".into(),
            address: Some(text.parse::<IpNet>().unwrap().into()),
            obtained: false,
        })
    }

    fn route(destination: &str, gateway: &str) -> value::Kind {
        value::Kind::LinuxRoute(bus::LinuxRoute {
            destination: Some(destination.parse::<IpNet>().unwrap().into()),
            gateway: Some(gateway.parse::<IpAddr>().unwrap().into()),
            tap: "wan".into(),
            obtained: false,
        })
    }

    fn errors(results: &[bus::OperationResult]) -> Vec<bool> {
        results
            .iter()
            .map(|result| result.error.is_some())
            .collect()
    }

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_is_applied_is_read_back_and_what_someone_removed_is_not() {
        Namespace::quiet()
            .unwrap()
            .run(async || {
                let folder = tempfile::tempdir().unwrap();
                let _tap = Tap::create("wan".parse().unwrap()).unwrap();
                let root = Root::prepare(folder.path()).unwrap();
                let ntp = NtpFile::of(&root, &Chronyd::of_machine(true));
                let host_name = HostName::of_its_own().unwrap();
                let resolver = ResolverFile::at(root.resolver());
                let mut linux = Linux::open(resolver, ntp, host_name).unwrap();
                linux.set_macs([("wan".parse().unwrap(), [2, 0, 0, 0, 0, 9])].into());
                let results = linux
                    .apply(&[
                        operation(Create, "l", Some(link(1400))),
                        operation(Create, "a", Some(address("192.0.2.1/24"))),
                        operation(Create, "b", Some(address("2001:db8::1/64"))),
                        operation(Create, "r", Some(route("10.0.0.0/8", "192.0.2.2"))),
                        operation(Create, "no", Some(route("10.9.0.0/16", "198.51.100.1"))),
                        operation(Create, "empty", None),
                    ])
                    .await;
                assert_eq!(errors(&results), [false, false, false, false, true, true]);
                assert!(results[4].error.as_ref().unwrap().retriable);
                assert!(!results[5].error.as_ref().unwrap().retriable);
                assert!(ip("link show wan").contains("02:00:00:00:00:09"));
                let keys = |values: Vec<bus::KeyedValue>| {
                    values
                        .into_iter()
                        .map(|value| value.key)
                        .collect::<Vec<_>>()
                };
                assert_eq!(keys(linux.retrieve().await.unwrap()), ["a", "b", "l", "r"]);

                ip("address del 2001:db8::1/64 dev wan");
                assert_eq!(keys(linux.retrieve().await.unwrap()), ["a", "l", "r"]);

                let results = linux
                    .apply(&[
                        operation(Update, "r", Some(route("10.0.0.0/8", "192.0.2.3"))),
                        operation(Update, "l", Some(link(1300))),
                        operation(Delete, "b", None),
                    ])
                    .await;
                assert_eq!(errors(&results), [false; 3]);
                assert!(ip("link show wan").contains("mtu 1300"));
                let routes = ip("route show proto 213");
                assert!(
                    routes.contains("192.0.2.3") && !routes.contains("192.0.2.2"),
                    "{routes}"
                );
                let values = linux.retrieve().await.unwrap();
                assert!(values.iter().any(|value| {
                    value.value.as_ref().unwrap().kind == Some(route("10.0.0.0/8", "192.0.2.3"))
                }));

                let results = linux.apply(&[operation(Delete, "a", None)]).await;
                assert_eq!(errors(&results), [false]);
                // Linux removed the route with the address that led to its gateway.
                assert_eq!(keys(linux.retrieve().await.unwrap()), ["l"]);
            })
            .unwrap();
    }
}
