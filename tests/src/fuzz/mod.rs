//! Everything that takes bytes from outside, each as one function from bytes to nothing.
//!
//! ```text
//!   tests/corpora/NAME/*  --\
//!   the same, damaged     ---+--> TARGETS --> parser, or frames into the whole graph
//!   libFuzzer (tests/fuzz) -/
//! ```
//!
//! A target panics when what it feeds breaks a promise: when it panics itself, loses a buffer, or lets out what must
//! not leave. `make test` replays the corpora and a fixed number of damaged copies; `tests/fuzz/run.sh` looks for more.

mod bus;
mod dhcp;
mod fragments;
mod parsers;
mod set_lines;
mod setting;
mod whole_graph;

/// What is fed.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its folder in `tests/corpora`.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub feed: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "bus",
        feed: bus::feed,
    },
    Target {
        name: "configuration-json",
        feed: parsers::configuration_json,
    },
    Target {
        name: "configuration-binary",
        feed: parsers::configuration_binary,
    },
    Target {
        name: "dhcp",
        feed: dhcp::feed,
    },
    Target {
        name: "filter",
        feed: parsers::filter,
    },
    Target {
        name: "fragments",
        feed: fragments::feed,
    },
    Target {
        name: "packet-headers",
        feed: parsers::packet_headers,
    },
    Target {
        name: "plugin-wire",
        feed: parsers::plugin_wire,
    },
    Target {
        name: "set-lines",
        feed: set_lines::feed,
    },
    Target {
        name: "text",
        feed: parsers::text,
    },
    Target {
        name: "vici",
        feed: parsers::vici,
    },
    Target {
        name: "vici-packet",
        feed: parsers::vici_packet,
    },
    Target {
        name: "whole-graph",
        feed: whole_graph::feed,
    },
    Target {
        name: "whole-graph-features",
        feed: whole_graph::feed_everything,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
