//! How the values are called that others than the plan speak of, too.

use ipnet::IpNet;

use super::Key;

/// Of where names are looked up.
pub const RESOLVER: &str = "linux/resolver";
/// Of the servers that the clock is set by.
pub const NTP: &str = "linux/ntp";

/// Of an Ethernet interface in the dataplane.
pub fn interface_key(name: &str) -> Key {
    Key::from(format!("interface/{name}"))
}

/// Of an address of the dataplane.
pub fn address_key(port: &str, prefix: IpNet) -> Key {
    Key::from(format!("address/{port}/{prefix}"))
}

/// Of a TAP.
pub fn link_key(tap: &str) -> Key {
    Key::from(format!("linux/link/{tap}"))
}

/// Of an address of a TAP.
pub fn linux_address_key(tap: &str, prefix: IpNet) -> Key {
    Key::from(format!("linux/address/{tap}/{prefix}"))
}

/// Of a route of Linux.
pub fn linux_route_key(destination: IpNet) -> Key {
    Key::from(format!("linux/route/{destination}"))
}

/// Of the client that asks for an address on an interface.
pub fn dhcp_client_key(interface: &str) -> Key {
    Key::from(format!("dhcp_client/{interface}"))
}
