//! The vector packet processor of a gateway.
//!
//! ```text
//!            control thread (bus: apply, retrieve, SAs, show)
//!                 | publishes Tables            ^ Events
//!                 v                             |
//!   worker 0..N:  ports --rx--> graph of nodes, 256 packets at a time --tx--> ports
//! ```
//!
//! A worker takes up to 256 packets from a port and runs each node of the graph over all of them before the next
//! node ([`graph`]). Packets lie in buffers of one region ([`buffer`]). What nodes look up is published by the control
//! thread and read without locks ([`tables`], [`fib`]). What becomes of a packet on its way can be looked at while it runs
//! ([`observe`]).
//!
//! # What makes it fast
//!
//! A packet of 64 bytes is forwarded in fewer clocks than one miss to memory takes. So what costs is waiting: for memory,
//! for instructions, for another core. Three ideas keep it out of the way of packets.
//!
//! ```text
//!   one packet after the other      a vector of them
//!
//!   a1 wait b1 wait c1              a1 a2 a3 a4 a5 ... a256      code of node a in the cache once for all
//!   a2 wait b2 wait c2                 :..:..: lines of packet n + 4 asked for while n is worked on
//!   a3 wait b3 wait c3              b1 ... b256                  one batch for the cipher kernels
//!                                   c1 ... c256                  one hand-over to the driver
//! ```
//!
//! **Vectors hide waiting.** While a node works on one packet, header and metadata of the one four places behind are on
//! their way into the cache, and the lookups of a whole vector are under way at the same time: their misses overlap
//! instead of adding up. A cipher kernel that is given all packets at once fills its registers with several of them.
//!
//! **Runs, not packets.** Packets that follow each other mostly go the same way, so what holds for a run is done once for
//! it: the next node is chosen for the vector, which is handed on whole; adjacency, interface and SA are looked up when
//! they change; counters are added to at the end. One atomic addition reserves the sequence numbers
//! of all of an SA's packets in a run, and its replay window is locked for the run, not for the packet: several workers
//! can share one SA. A packet that differs breaks the run and nothing else.
//!
//! **Decided when written, remembered when read.** Next hops are resolved, headers laid out and keys expanded when the
//! control thread writes them; whether anything needs a feature (policies, reverse-path checks, tags, clamping) is one flag
//! a vector, and packets that need none pass by its node. Between a route into a tunnel and the SA's packets on the wire lie
//! a dozen lines of memory: a worker remembers the outcome in half a line, until anything changes that it came from.
//!
//! ```text
//!   adjacency -> interface -> policies -> SA -> route to the peer -> its adjacency      the first time
//!        '------------------------- remembered way -------------------> esp-encrypt     then, until something changes
//! ```
//!
//! When nothing comes a worker sleeps in `poll` until a frame, a command or the next tick ([`worker`]); while packets come
//! it never does.
//!
//! What each node and each table costs, beside a yardstick: `cargo bench -p culvert-dataplane`.

pub mod buffer;
pub mod chunked;
pub mod clock;
pub mod control;
pub mod counters;
pub mod driver;
pub mod drop_reason;
pub mod encapsulation;
pub mod event;
pub mod fib;
pub mod graph;
mod mapping;
pub mod nodes;
pub mod observe;
pub mod path_mtu;
pub mod port;
mod prefetch;
pub mod process;
pub mod reassembly;
pub mod sa;
pub mod sharded;
pub mod tables;
pub mod vlan;
pub mod worker;
