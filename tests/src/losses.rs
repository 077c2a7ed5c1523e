//! Messages that get lost on the way: rules of nftables in the router between the gateways.
//!
//! ```text
//!   gateway-a --- wan-a [ router: drop these ] wan-b --- gateway-b
//! ```
//!
//! The capture sees a lost message still: the router receives it, and does not send it on.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::process::{Interrupt, run};

use crate::laboratory::Laboratory;

/// Which messages get lost.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// Every message of IKE from this side.
    IkeFrom(Side),
    /// Messages of this exchange from this side.
    Exchange(Side, u8),
    /// Everything from this side.
    AllFrom(Side),
}

/// Messages get lost while this lives.
pub struct Losses<'l> {
    laboratory: &'l Laboratory,
}

impl<'l> Losses<'l> {
    /// From now on.
    pub fn begin(laboratory: &'l Laboratory, lost: &[Lost]) -> anyhow::Result<Self> {
        let this = Self { laboratory };
        let mut script = String::from(
            "add table inet losses\n\
             add chain inet losses pass { type filter hook forward priority 0; }\n",
        );
        for lost in lost {
            let (Lost::IkeFrom(side) | Lost::Exchange(side, _) | Lost::AllFrom(side)) = *lost;
            let from = side.addresses().gateway_wan(Family::V4).addr();
            // Behind the UDP header on 4500 is the marker of four zero bytes, then the IKE header, in which the
            // exchange is the byte at 18.
            let rules = match lost {
                Lost::AllFrom(_) => vec![String::new()],
                Lost::IkeFrom(_) => {
                    vec![
                        "udp dport 500".to_owned(),
                        "udp dport 4500 @th,64,32 0".to_owned(),
                    ]
                }
                Lost::Exchange(_, exchange) => vec![
                    format!("udp dport 500 @th,208,8 {exchange}"),
                    format!("udp dport 4500 @th,64,32 0 @th,240,8 {exchange}"),
                ],
            };
            for rule in rules {
                writeln!(
                    script,
                    "add rule inet losses pass ip saddr {from} {rule} counter drop"
                )?;
            }
        }
        this.nft(&script)?;
        Ok(this)
    }

    /// How many have been lost so far.
    pub fn count(&self) -> anyhow::Result<u64> {
        let text = self.nft("list table inet losses\n")?;
        Ok(text
            .split("packets ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    fn nft(&self, script: &str) -> anyhow::Result<String> {
        let path = self.laboratory.folder().join("losses.nft");
        std::fs::write(&path, script)?;
        Ok(run(
            &self.laboratory.open(Place::Wan),
            Command::new("nft").arg("-f").arg(path),
            &[],
            Duration::from_secs(10),
            &Interrupt::default(),
        )?)
    }
}

impl Drop for Losses<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.nft("delete table inet losses\n") {
            eprintln!("messages get lost still: {error}");
        }
    }
}
