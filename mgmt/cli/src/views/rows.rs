//! Lists of the state as tables: which columns there are, and how a value stands in one.

use culvert_model::schema;
use culvert_model::state::State;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage as _, Value};

use super::Topic;
use super::json::{Message, keyword};

/// A list of the state.
struct View {
    /// Its field.
    list: &'static str,
    columns: &'static [Column],
    /// Rows of which this is zero are shown when all are.
    counts: Option<&'static str>,
    /// What is worked out, by name.
    derived: &'static [(&'static str, Derive)],
}

type Derive = fn(&DynamicMessage) -> Option<f64>;

/// A heading, and what stands below. Headings that begin with `#` are of numbers, which stand to the right.
struct Column(&'static str, Cell);

enum Cell {
    Field(&'static str),
    /// The states of next hops.
    Hops,
    Derived(Derive),
}

const fn column(heading: &'static str, field: &'static str) -> Column {
    Column(heading, Cell::Field(field))
}

const fn view(list: &'static str, columns: &'static [Column]) -> View {
    View {
        list,
        columns,
        counts: None,
        derived: &[],
    }
}

static INTERFACES: View = view(
    "interfaces",
    &[
        column("interface", "name"),
        column("state", "state"),
        column("addresses", "addresses"),
        column("mac", "mac"),
        column("#mtu", "mtu"),
        column("#rx packets", "rx_packets"),
        column("#rx bytes", "rx_bytes"),
        column("#tx packets", "tx_packets"),
        column("#tx bytes", "tx_bytes"),
        column("#drops", "drops"),
        column("driver", "driver"),
    ],
);
static ROUTES: View = view(
    "routes",
    &[
        column("vrf", "vrf"),
        column("destination", "destination"),
        column("source", "source"),
        column("active", "active"),
        column("via", "via"),
        Column("state", Cell::Hops),
    ],
);
static NEIGHBOURS: View = view(
    "neighbours",
    &[
        column("interface", "interface"),
        column("address", "address"),
        column("mac", "mac"),
        column("state", "state"),
        column("#age s", "age_s"),
    ],
);
static IKE: View = view(
    "ikes",
    &[
        column("connection", "connection"),
        column("#id", "unique_id"),
        column("state", "state"),
        column("local", "local"),
        column("remote", "remote"),
        column("proposal", "proposal"),
        column("#age s", "established_s"),
        column("initiator", "initiator"),
    ],
);
static CHILDREN: View = view(
    "children",
    &[
        column("connection", "connection"),
        column("child", "name"),
        column("state", "state"),
        column("in", "spi_in"),
        column("out", "spi_out"),
        column("proposal", "proposal"),
        column("local", "local_selectors"),
        column("remote", "remote_selectors"),
    ],
);
static SAS: View = view(
    "sas",
    &[
        column("spi", "spi"),
        column("direction", "direction"),
        column("source", "source"),
        column("destination", "destination"),
        column("algorithm", "algorithm"),
        column("esn", "esn"),
        column("udp", "udp"),
        column("#from port", "source_port"),
        column("#to port", "destination_port"),
        column("#if_id", "if_id"),
        column("#packets", "packets"),
        column("#bytes", "bytes"),
        column("#replayed", "replayed"),
        column("#late", "late"),
        column("#lost", "lost"),
        column("#bad icv", "bad_icv"),
    ],
);
static POLICIES: View = view(
    "policies",
    &[
        column("direction", "direction"),
        column("#if_id", "if_id"),
        column("source", "source"),
        column("destination", "destination"),
        column("action", "action"),
        column("#priority", "priority"),
        column("spi", "spi"),
    ],
);
static REASSEMBLY: View = view(
    "reassembly",
    &[
        column("#worker", "worker"),
        column("#packets", "packets"),
        column("#of", "most_packets"),
        column("#fragments", "fragments"),
        column("#of", "most_fragments"),
        column("#timeout ms", "timeout_ms"),
        column("#of IPv6 ms", "timeout6_ms"),
        column("#put together", "reassembled"),
        column("#looked at", "ports_packets"),
        column("#awaiting ports", "ports_fragments"),
    ],
);
static PATHS: View = view(
    "paths",
    &[
        column("vrf", "vrf"),
        column("peer", "peer"),
        column("#mtu", "mtu"),
        column("#age s", "age_s"),
    ],
);
static DHCP: View = view(
    "dhcp_clients",
    &[
        column("interface", "interface"),
        column("state", "state"),
        column("address", "address"),
        column("server", "server"),
        column("routes", "routes"),
        column("name servers", "dns_servers"),
        column("#renew s", "renew_s"),
        column("#expire s", "expire_s"),
        column("refused", "refused"),
    ],
);
static TOO_BIG: View = view(
    "too_big",
    &[
        column("outcome", "outcome"),
        column("#messages", "messages"),
        column("meaning", "meaning"),
    ],
);
static DROPS: View = View {
    counts: Some("packets"),
    ..view(
        "drops",
        &[
            column("reason", "reason"),
            column("#packets", "packets"),
            column("meaning", "meaning"),
        ],
    )
};
static NODES: View = View {
    counts: Some("packets"),
    derived: &[
        ("packets_per_vector", packets_per_vector),
        ("clocks_per_packet", clocks_per_packet),
    ],
    ..view(
        "nodes",
        &[
            column("node", "name"),
            column("#worker", "worker"),
            column("#vectors", "vectors"),
            column("#packets", "packets"),
            Column("#packets/vector", Cell::Derived(packets_per_vector)),
            Column("#clocks/packet", Cell::Derived(clocks_per_packet)),
        ],
    )
};
static PROCESSES: View = view(
    "processes",
    &[
        column("process", "name"),
        column("state", "state"),
        column("#pid", "pid"),
        column("#restarts", "restarts"),
    ],
);

fn view_of(topic: Topic) -> &'static View {
    match topic {
        Topic::System | Topic::Version | Topic::Clock => &PROCESSES,
        Topic::Interfaces => &INTERFACES,
        Topic::Routes => &ROUTES,
        Topic::Neighbours => &NEIGHBOURS,
        Topic::Ike => &IKE,
        Topic::Children => &CHILDREN,
        Topic::Sas => &SAS,
        Topic::Policies => &POLICIES,
        Topic::Reassembly => &REASSEMBLY,
        Topic::Paths => &PATHS,
        Topic::TooBig => &TOO_BIG,
        Topic::Drops => &DROPS,
        Topic::Nodes => &NODES,
        Topic::Dhcp => &DHCP,
    }
}

fn packets_per_vector(row: &DynamicMessage) -> Option<f64> {
    share(row, "packets", "vectors")
}

fn clocks_per_packet(row: &DynamicMessage) -> Option<f64> {
    share(row, "clocks", "packets")
}

fn share(row: &DynamicMessage, of: &str, by: &str) -> Option<f64> {
    let (of, by) = (number(row, of)?, number(row, by)?);
    (by > 0).then(|| of as f64 / by as f64)
}

fn number(row: &DynamicMessage, field: &str) -> Option<u64> {
    row.get_field_by_name(field)?.as_u64()
}

/// To be walked by names.
pub(super) fn dynamic(state: &State) -> Option<DynamicMessage> {
    let mut message = DynamicMessage::new(schema::message("culvert.state.v1.State")?);
    message.transcode_from(state).ok()?;
    Some(message)
}

/// The rows of a list.
fn rows(view: &View, of: &DynamicMessage, all: bool) -> Vec<DynamicMessage> {
    let Some(list) = of.get_field_by_name(view.list) else {
        return Vec::new();
    };
    let items = list.as_list().unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_message)
        .filter(|row| {
            all || view
                .counts
                .is_none_or(|field| number(row, field) != Some(0))
        })
        .cloned()
        .collect()
}

/// As a table.
pub(super) fn table(topic: Topic, state: &State, all: bool) -> String {
    let view = view_of(topic);
    let rows = dynamic(state).map(|state| rows(view, &state, all));
    render(view, &rows.unwrap_or_default())
}

/// The processes of the gateway, as a table.
pub(super) fn processes(state: &State) -> String {
    let system = dynamic(state).and_then(|state| {
        let system = state.get_field_by_name("system")?;
        system.as_message().cloned()
    });
    let rows = system.map(|system| rows(&PROCESSES, &system, true));
    render(&PROCESSES, &rows.unwrap_or_default())
}

/// As a list of objects.
pub(super) fn json(topic: Topic, state: &State, all: bool) -> String {
    let view = view_of(topic);
    let rows = dynamic(state).map(|state| rows(view, &state, all));
    let rows = rows.unwrap_or_default();
    let objects: Vec<_> = rows
        .iter()
        .map(|message| Message {
            message,
            derived: view
                .derived
                .iter()
                .map(|(name, derive)| (*name, derive(message)))
                .collect(),
        })
        .collect();
    // Maps with text keys can be written.
    serde_json::to_string_pretty(&objects).unwrap_or_default()
}

/// A line of headings, numbers to the right, two blanks between columns; what is empty is said to be.
fn render(view: &View, rows: &[DynamicMessage]) -> String {
    if rows.is_empty() {
        return "nothing\n".to_owned();
    }
    let headings = view.columns.iter().map(|Column(heading, _)| *heading);
    let right: Vec<bool> = headings.clone().map(|name| name.starts_with('#')).collect();
    let mut lines = vec![
        headings
            .map(|name| name.trim_start_matches('#').to_owned())
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        let cells = view.columns.iter().map(|Column(_, cell)| shown(cell, row));
        lines.push(cells.collect());
    }
    let mut widths = vec![0; right.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut whole = String::new();
        for ((cell, width), right) in line.iter().zip(&widths).zip(&right) {
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            if *right {
                whole.push_str(&blanks);
                whole.push_str(cell);
            } else {
                whole.push_str(cell);
                whole.push_str(&blanks);
            }
            whole.push_str("  ");
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

fn shown(cell: &Cell, row: &DynamicMessage) -> String {
    let absent = || "-".to_owned();
    match cell {
        Cell::Derived(derive) => derive(row).map_or_else(absent, |value| format!("{value:.1}")),
        Cell::Hops => {
            let hops = row.get_field_by_name("next_hops");
            let hops = hops.as_deref().and_then(Value::as_list).unwrap_or_default();
            let states = hops.iter().filter_map(Value::as_message).map(|hop| {
                let text = |name: &str| {
                    let present = hop.has_field_by_name(name);
                    let value = hop.get_field_by_name(name).filter(|_| present)?;
                    value.as_str().map(str::to_owned)
                };
                let state = text("state").unwrap_or_default();
                match text("mac") {
                    Some(mac) => format!("{state} ({mac})"),
                    None => state,
                }
            });
            states.collect::<Vec<_>>().join(", ")
        }
        Cell::Field(name) => {
            let Some(field) = row.descriptor().get_field_by_name(name) else {
                return absent();
            };
            if !field.is_list() && !row.has_field(&field) {
                return absent();
            }
            match row.get_field(&field).as_ref() {
                Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
                Value::U32(value) => value.to_string(),
                Value::U64(value) => value.to_string(),
                Value::String(value) => value.clone(),
                Value::EnumNumber(number) => match field.kind() {
                    Kind::Enum(of) => keyword(&of, *number),
                    _ => absent(),
                },
                Value::List(items) => {
                    let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                    texts.join(" ")
                }
                _ => absent(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::state::{DropState, NextHopState, NodeState, RouteState};

    use super::*;

    /// Every view names fields that there are.
    #[test]
    fn columns_are_fields_of_their_list() {
        let state = schema::message("culvert.state.v1.State").unwrap();
        let system = schema::message("culvert.state.v1.SystemState").unwrap();
        let views = [
            &INTERFACES,
            &ROUTES,
            &NEIGHBOURS,
            &IKE,
            &CHILDREN,
            &SAS,
            &POLICIES,
            &REASSEMBLY,
            &PATHS,
            &TOO_BIG,
            &DROPS,
            &NODES,
            &DHCP,
        ];
        for (view, owner) in views
            .into_iter()
            .map(|view| (view, &state))
            .chain([(&PROCESSES, &system)])
        {
            let list = owner.get_field_by_name(view.list).unwrap();
            let Kind::Message(item) = list.kind() else {
                panic!("{}", view.list);
            };
            for Column(heading, cell) in view.columns {
                if let Cell::Field(name) = cell {
                    let found = item.get_field_by_name(name);
                    assert!(found.is_some(), "{}: {heading}", view.list);
                }
            }
        }
    }

    fn route(active: bool, via: &[&str], hops: &[(&str, Option<&str>)]) -> RouteState {
        RouteState {
            vrf: Some("default".to_owned()),
            destination: Some("10.2.0.0/16".to_owned()),
            source: Some("configured".to_owned()),
            active: Some(active),
            via: via.iter().map(|&way| way.to_owned()).collect(),
            next_hops: hops
                .iter()
                .map(|(state, mac)| NextHopState {
                    state: Some((*state).to_owned()),
                    mac: mac.map(str::to_owned),
                    ..NextHopState::default()
                })
                .collect(),
        }
    }

    #[test]
    fn a_route_says_by_whom_and_why_not() {
        let state = State {
            routes: vec![
                route(
                    true,
                    &["192.0.2.1%wan", "192.0.2.9%wan"],
                    &[
                        ("resolved", Some("02:02:02:02:02:02")),
                        ("unresolved", None),
                    ],
                ),
                route(false, &["vrf:blue"], &[("lookup", None)]),
            ],
            ..State::default()
        };
        assert_eq!(
            table(Topic::Routes, &state, false),
            "vrf      destination  source      active  via                          state\n\
             default  10.2.0.0/16  configured  yes     192.0.2.1%wan 192.0.2.9%wan  resolved (02:02:02:02:02:02), unresolved\n\
             default  10.2.0.0/16  configured  no      vrf:blue                     lookup\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&super::json(Topic::Routes, &state, false)).unwrap();
        assert_eq!(json[1]["via"], serde_json::json!(["vrf:blue"]));
        assert_eq!(json[1]["active"], false);
        assert_eq!(json[0]["next_hops"][1]["mac"], serde_json::Value::Null);
    }

    #[test]
    fn rows_of_zero_are_shown_when_all_are_and_numbers_stand_to_the_right() {
        let drop = |reason: &str, packets| DropState {
            reason: Some(reason.to_owned()),
            packets: Some(packets),
            meaning: Some("why".to_owned()),
        };
        let state = State {
            drops: vec![drop("no-route", 1200), drop("ttl", 0)],
            nodes: vec![NodeState {
                name: Some("punt".to_owned()),
                worker: Some(0),
                vectors: Some(4),
                packets: Some(10),
                clocks: Some(25),
            }],
            ..State::default()
        };
        assert_eq!(
            table(Topic::Drops, &state, false),
            "reason    packets  meaning\nno-route     1200  why\n"
        );
        assert_eq!(table(Topic::Drops, &state, true).lines().count(), 3);
        assert_eq!(table(Topic::Sas, &state, true), "nothing\n");
        assert_eq!(super::json(Topic::Sas, &state, true), "[]");
        assert!(table(Topic::Nodes, &state, false).contains("2.5            2.5"));
        assert!(super::json(Topic::Nodes, &state, false).contains("\"clocks_per_packet\": 2.5"));
    }
}
