//! One more LAN of a gateway, with one host: several may have the same addresses.
//!
//! ```text
//!   culvert-test-host-a-red    eth0 10.1.0.10 ------- lan-red  --+
//!                                                                +-- gateway-a
//!   culvert-test-host-a-blue   eth0 10.1.0.10 ------- lan-blue --+
//! ```

use std::process::Command;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::Namespace;
use culvert_netlab::netlink::{VethEnd, add_veth};
use culvert_netlab::offload;
use culvert_netlab::process::{Interrupt, run};
use culvert_netlab::topology::MTU;

use crate::laboratory::Laboratory;

const PATIENCE: Duration = Duration::from_secs(10);

/// The host; its namespace and the LAN go with it.
pub struct LanHost {
    /// Where it is.
    pub namespace: Namespace,
}

impl LanHost {
    /// The host of this side once more, on a link of its own: with the same addresses and routes.
    pub fn build(laboratory: &Laboratory, side: Side, name: &str) -> anyhow::Result<Self> {
        let gateway = laboratory.open(side.gateway());
        let full = format!("culvert-test-{}-{name}", side.host().name());
        // A crash may have left it.
        drop(Namespace::ensure(&full).map(|namespace| Self { namespace }));
        let namespace = Namespace::ensure(&full)?;
        let this = Self { namespace };
        let (namespace, device) = (&this.namespace, format!("lan-{name}"));
        let far = VethEnd {
            namespace: &gateway,
            name: &device,
        };
        let near = VethEnd {
            namespace,
            name: "eth0",
        };
        add_veth(near, far, MTU)?;
        for end in [near, far] {
            end.namespace
                .enter(|| offload::switch_off_all(end.name))??;
        }
        let addresses = side.addresses();
        namespace.netlink(async |netlink| {
            netlink.set_up("lo").await?;
            netlink.set_up("eth0").await?;
            for family in Family::BOTH {
                netlink.add_address("eth0", addresses.host(family)).await?;
            }
            Ok(())
        })?;
        for family in Family::BOTH {
            let gateway = addresses.gateway_lan(family).addr();
            this.ip(&format!("route add default via {gateway}"))?;
        }
        Ok(this)
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        ip(&self.namespace, words)
    }
}

impl Drop for LanHost {
    fn drop(&mut self) {
        // Before the name: the kernel clears a namespace away in its own time, and its links with it.
        let _ = self
            .namespace
            .netlink(async |netlink| netlink.remove_link("eth0").await);
        let _ = Namespace::remove(self.namespace.name());
    }
}

/// Runs `ip` with these words in a namespace; answers what it wrote.
pub fn ip(namespace: &Namespace, words: &str) -> anyhow::Result<String> {
    Ok(run(
        namespace,
        Command::new("ip").args(words.split_whitespace()),
        &[],
        PATIENCE,
        &Interrupt::default(),
    )?)
}
