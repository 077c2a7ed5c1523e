//! Forwarding tables: longest-prefix match that workers read while the control thread writes.

/// IPv4: address to adjacency index.
#[derive(Default)]
pub struct Fib4;

/// IPv6: address to adjacency index.
#[derive(Default)]
pub struct Fib6;
