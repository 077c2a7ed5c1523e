//! Why a message is taken no notice of: each reason is counted.

/// See each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// The checksum of the IP header or of UDP is wrong.
    #[error("bad checksum")]
    Checksum,
    /// It ends too early, or an option does.
    #[error("malformed")]
    Malformed,
    /// BOOTP, or no message type that a server sends.
    #[error("not of a DHCP server")]
    NotOfServer,
    /// It is for another Ethernet address.
    #[error("other client")]
    OtherClient,
    /// It answers nothing that was asked now.
    #[error("other transaction")]
    OtherTransaction,
    /// It does not say which server it is from, or not from the one that was asked.
    #[error("other server")]
    OtherServer,
    /// A message that nobody waits for in this state.
    #[error("unexpected")]
    Unexpected,
    /// It lends an address that no interface can have, or another than was asked for.
    #[error("bad address")]
    BadAddress,
    /// The mask is none, or leaves no address.
    #[error("bad mask")]
    BadMask,
    /// No lease time, or one too short to be renewed.
    #[error("bad lease time")]
    BadTime,
}
