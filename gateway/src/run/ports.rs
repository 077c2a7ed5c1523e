//! What a configuration takes of the machine: NICs for the dataplane, TAPs for Linux.
//!
//! ```text
//!   plan: interface/wan (device eth0), linux/link/wan   ->   NIC eth0 moved, TAP wan with the MAC of eth0
//! ```

use std::collections::{BTreeMap, BTreeSet};

use culvert_model::bus::value::Kind;
use culvert_model::plan::Plan;
use culvert_tap_inject::device::{Tap, TapError, TapName};
use culvert_tap_inject::nodes::TUNNEL_MAC;
use nix::net::if_::if_nametoindex;
use thiserror::Error;

use super::namespace::{Namespace, NamespaceError};
use super::nics::{self, Nic, NicError};

/// Why NICs and TAPs are not as configured.
#[derive(Debug, Error)]
pub enum PortsError {
    /// A TAP cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A NIC cannot be moved.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// There is no namespace to move it to.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// What a plan asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    devices: BTreeSet<String>,
    /// By name; with what they stand for.
    taps: BTreeMap<TapName, StandsFor>,
    /// Those that IKE may use.
    underlay: BTreeSet<TapName>,
}

/// What a TAP shows Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StandsFor {
    /// An interface on this device, whose MAC address it has.
    Device(String),
    Loopback,
    Tunnel,
}

impl Wanted {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Result<Self, TapError> {
        let mut devices = BTreeMap::new();
        let mut loopbacks = BTreeSet::new();
        for planned in plan.values() {
            match &planned.value.kind {
                Some(Kind::Interface(interface)) => {
                    devices.insert(interface.name.as_str(), interface.device.clone());
                }
                Some(Kind::Loopback(loopback)) => {
                    loopbacks.insert(loopback.name.as_str());
                }
                _ => {}
            }
        }
        let mut taps = BTreeMap::new();
        let mut underlay = BTreeSet::new();
        for planned in plan.values() {
            if let Some(Kind::LinuxLink(link)) = &planned.value.kind {
                let (name, tap) = (link.interface.as_str(), link.tap.parse::<TapName>()?);
                let stands_for = match devices.get(name) {
                    Some(device) => StandsFor::Device(device.clone()),
                    None if loopbacks.contains(name) => StandsFor::Loopback,
                    None => StandsFor::Tunnel,
                };
                if link.underlay {
                    underlay.insert(tap.clone());
                }
                taps.insert(tap, stands_for);
            }
        }
        Ok(Self {
            devices: devices.into_values().collect(),
            taps,
            underlay,
        })
    }

    /// The TAPs that IKE may use. Those of tunnels lead into tunnels, and those of other VRFs are none of a peer's business:
    /// MOBIKE would tell it their addresses, and try them (RFC 4555 section 3.5).
    pub fn underlay_taps(&self) -> impl Iterator<Item = &TapName> {
        self.underlay.iter()
    }
}

/// What a gateway has of the machine.
#[derive(Debug)]
pub struct Ports {
    namespace: Namespace,
    wanted: Wanted,
    nics: Vec<Nic>,
    taps: BTreeMap<TapName, Tap>,
}

impl Ports {
    /// Nothing yet but the dataplane's namespace.
    pub fn new() -> Result<Self, PortsError> {
        Ok(Self {
            namespace: Namespace::quiet()?,
            wanted: Wanted::default(),
            nics: Vec::new(),
            taps: BTreeMap::new(),
        })
    }

    /// The dataplane's.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// All that there are.
    pub fn taps(&self) -> &BTreeMap<TapName, Tap> {
        &self.taps
    }

    /// What was asked for last.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The MAC address of each TAP.
    pub fn macs(&self) -> BTreeMap<TapName, [u8; 6]> {
        let mac_of = |device: &String| {
            let nic = self.nics.iter().find(|nic| nic.device() == device)?;
            nic.mac()
        };
        self.wanted
            .taps
            .iter()
            .filter_map(|(tap, stands_for)| {
                let mac = match stands_for {
                    StandsFor::Device(device) => mac_of(device)?,
                    StandsFor::Loopback | StandsFor::Tunnel => TUNNEL_MAC.0,
                };
                Some((tap.clone(), mac))
            })
            .collect()
    }

    /// Whether all that is asked for can be had, before anything is changed for it.
    pub fn check(&self, wanted: &Wanted) -> Result<(), PortsError> {
        let have = |device: &str| self.nics.iter().any(|nic| nic.device() == device);
        // A TAP of ours may be called as a NIC that we hold; it is none itself.
        let is_tap = |device: &str| self.taps.keys().any(|tap| tap.as_str() == device);
        let missing: Vec<String> = wanted
            .devices
            .iter()
            .filter(|device| !have(device))
            .filter(|device| is_tap(device) || if_nametoindex(device.as_str()).is_err())
            .cloned()
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(NicError::Missing(missing).into())
        }
    }

    /// Takes and makes what is missing, gives back and removes what is too much. To be called while no dataplane runs:
    /// it holds the TAPs it inherited.
    ///
    /// After an error everything that was there before is still there or given back.
    pub async fn change(&mut self, wanted: Wanted) -> Result<(), PortsError> {
        self.taps.retain(|name, _| wanted.taps.contains_key(name));
        let (kept, unwanted): (Vec<Nic>, Vec<Nic>) = std::mem::take(&mut self.nics)
            .into_iter()
            .partition(|nic| wanted.devices.contains(nic.device()));
        self.nics = kept;
        nics::give_back(&unwanted, &self.namespace).await?;
        let missing: Vec<String> = wanted
            .devices
            .iter()
            .filter(|device| !self.nics.iter().any(|nic| nic.device() == *device))
            .cloned()
            .collect();
        // Before the TAPs: a TAP may be called as the NIC it stands for.
        self.nics
            .extend(nics::take(&missing, &self.namespace).await?);
        for name in wanted.taps.keys() {
            if !self.taps.contains_key(name) {
                self.taps.insert(name.clone(), Tap::create(name.clone())?);
            }
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Leaves the machine as it was.
    pub async fn release(mut self) -> Result<(), PortsError> {
        self.taps.clear();
        nics::give_back(&self.nics, &self.namespace).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::Command;

    use culvert_model::decode;
    use culvert_model::plan::{DigestKey, plan};

    use super::*;

    fn wanted(config: &str) -> Wanted {
        let config = decode::config_from_json(config.as_bytes()).unwrap();
        Wanted::of(&plan(&config, &DigestKey::new([0; 32])).unwrap()).unwrap()
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
    fn tunnels_and_loopbacks_have_taps_without_a_device_and_ike_uses_those_of_loopbacks() {
        let wanted = wanted(
            r#"{"vrfs": [{"name": "red"}],
                "interfaces": [{"name": "wan", "device": "eth7"},
                               {"name": "quiet", "device": "eth8", "self_traffic": false}],
                "loopbacks": [{"name": "lo0", "addresses": [{"address": "10.0.0.9/32"}]},
                              {"name": "lo1", "vrf": "red", "addresses": [{"address": "10.0.0.8/32"}]}],
                "tunnels": [{"name": "ipsec0", "if_id": 1, "addresses": [{"address": "10.0.0.1/30"}]},
                            {"name": "ipsec1", "if_id": 2}]}"#,
        );
        let taps: Vec<&str> = wanted.taps.keys().map(TapName::as_str).collect();
        assert_eq!(taps, ["ipsec0", "lo0", "lo1", "wan"]);
        let underlay: Vec<&str> = wanted.underlay_taps().map(TapName::as_str).collect();
        assert_eq!(underlay, ["lo0", "wan"]);
        assert_eq!(wanted.devices, ["eth7", "eth8"].map(str::to_owned).into());
    }

    #[test]
    fn another_configuration_takes_what_is_new_and_gives_back_what_is_not_used() {
        Namespace::quiet()
            .unwrap()
            .run(async || {
                for number in [7, 8] {
                    ip(&format!("link add eth{number} type veth peer name far{number}"));
                    ip(&format!("link set eth{number} address 02:00:00:00:00:0{number}"));
                }
                let mut ports = Ports::new().unwrap();
                // The TAP has the name of the NIC it stands for.
                ports
                    .change(wanted(r#"{"interfaces": [{"name": "eth7"}]}"#))
                    .await
                    .unwrap();
                assert!(ip("-d link show eth7").contains("tun type tap"));
                let macs = ports.macs();
                assert_eq!(macs[&"eth7".parse().unwrap()], [2, 0, 0, 0, 0, 7]);

                let missing = ports.check(&wanted(r#"{"interfaces": [{"name": "eth9"}]}"#));
                assert_eq!(missing.unwrap_err().to_string(), "there is no device eth9");
                ports
                    .change(wanted(
                        r#"{"interfaces": [{"name": "eth8"}], "tunnels": [{"name": "ipsec0", "if_id": 1,
                            "addresses": [{"address": "10.0.0.1/30"}]}]}"#,
                    ))
                    .await
                    .unwrap();
                assert!(!ip("-d link show eth7").contains("tun type tap"));
                assert!(ip("-d link show eth8").contains("tun type tap"));
                assert_eq!(ports.macs()[&"ipsec0".parse().unwrap()], TUNNEL_MAC.0);

                ports.release().await.unwrap();
                let left = ip("-d link show");
                assert!(!left.contains("tun type tap"), "{left}");
                assert_eq!(left.matches("eth7@far7").count(), 1);
                assert_eq!(left.matches("eth8@far8").count(), 1);
            })
            .unwrap();
    }
}
