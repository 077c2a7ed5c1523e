//! Why an operation was refused.

use culvert_model::convert::ConvertError;
use culvert_net::{MtuError, PrefixError};
use thiserror::Error;

use crate::fib::PoolExhausted;
use crate::sa::SpecError;
use crate::vlan::NoVlan;

/// Why an operation was refused. Nothing of it has been done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ApplyError {
    /// A create or update without a value, or with one of no kind.
    #[error("{0}: the operation carries no value")]
    NoValue(String),
    /// Neither create, update nor delete.
    #[error("{0}: neither create, update nor delete")]
    NoVerb(String),
    /// The value belongs to another part.
    #[error("{0}: no value of the dataplane")]
    NotOurs(String),
    /// An address or prefix is no such thing.
    #[error("{0}")]
    Convert(#[from] ConvertError),
    /// A prefix is too long.
    #[error("{0}")]
    Prefix(#[from] PrefixError),
    /// The number of a VLAN is out of range.
    #[error("{0}")]
    Vlan(#[from] NoVlan),
    /// An MTU is out of range.
    #[error("{0}")]
    Mtu(#[from] MtuError),
    /// A field of a tunnel's outer headers is out of range.
    #[error("{key}: {value} is no {field}")]
    OuterHeader {
        /// Of the tunnel.
        key: String,
        /// Which field.
        field: &'static str,
        /// As it came.
        value: u32,
    },
    /// A name is empty.
    #[error("{0}: the name is empty")]
    NoName(String),
    /// The VRF is not there yet.
    #[error("VRF {0} does not exist")]
    UnknownVrf(String),
    /// The interface is not there yet.
    #[error("interface {0} does not exist")]
    UnknownInterface(String),
    /// The name is taken by an interface of the other kind.
    #[error("{0} exists as an interface of another kind")]
    OtherKind(String),
    /// Two tunnels with one binding.
    #[error("if_id {if_id} is that of tunnel {tunnel} already")]
    IfIdTaken {
        /// The binding.
        if_id: u32,
        /// Who has it.
        tunnel: String,
    },
    /// Two tunnels whose packets nobody could tell apart.
    #[error("tunnel {tunnel} has the same ends, mode and key, towards {remote}")]
    EndsTaken {
        /// The other end.
        remote: std::net::IpAddr,
        /// Who has it.
        tunnel: String,
    },
    /// Linux has no such device, or it has no MAC address.
    #[error("Linux has no Ethernet device {0}")]
    NoDevice(String),
    /// Other values need it still.
    #[error("{what} is in use by {by}")]
    InUse {
        /// What was to be deleted.
        what: String,
        /// By what.
        by: String,
    },
    /// A policy that makes no sense.
    #[error(transparent)]
    Policy(#[from] SpecError),
    /// A next hop of the other family.
    #[error("route {0}: destination and gateway are of different families")]
    Family(String),
    /// An address that no interface can have.
    #[error("{0} cannot be the address of an interface")]
    BadAddress(String),
    /// All interface indexes are taken.
    #[error("no more than {0} interfaces are possible")]
    TooManyInterfaces(u32),
    /// All places for VRFs are taken.
    #[error("no more than {0} VRFs are possible")]
    TooManyVrfs(u32),
    /// The forwarding tables are full.
    #[error(transparent)]
    Full(#[from] PoolExhausted),
}

impl ApplyError {
    /// The same operation may succeed later without a change of configuration.
    pub const fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::UnknownVrf(_)
                | Self::UnknownInterface(_)
                | Self::NoDevice(_)
                | Self::InUse { .. }
                | Self::IfIdTaken { .. }
                | Self::EndsTaken { .. }
                | Self::Full(_)
        )
    }

    /// The fields of the value that are refused; none: it is not the value that is wrong.
    pub fn fields(&self) -> Vec<&'static str> {
        match self {
            Self::Vlan(_) => vec!["vlan"],
            Self::Mtu(_) => vec!["mtu"],
            Self::NoName(_) => vec!["name"],
            Self::Prefix(_) | Self::BadAddress(_) => vec!["address"],
            Self::Policy(_) => vec!["local", "remote"],
            Self::Family(_) => vec!["destination", "next_hops"],
            Self::OuterHeader { field, .. } => vec![field],
            _ => Vec::new(),
        }
    }
}
