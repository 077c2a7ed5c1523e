//! The schema as released, and whether today's still keeps its promises.
//!
//! ```text
//! descriptors --render--> text, one line a name      schemas/0.1.txt, schemas/api/0.1.txt   (written once, never changed)
//!                            \                           |
//!                             +------- breaches ---------+--> what would misread an old configuration
//! ```
//!
//! A stored configuration of an old release is read by its numbers, files by their names: neither may come to
//! mean something else. A field that goes leaves its number and its name reserved.
//!
//! ```text
//! message culvert.config.v1.Vrf
//!   1 name optional string key
//!   reserved 2 description
//! enum culvert.config.v1.Driver
//!   1 DRIVER_AF_PACKET af-packet
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind};

use crate::rules;

/// Packages that are released together: a file in `schemas` for each release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is stored and what is read: messages that outlive a release.
    Configuration,
    /// What is asked, with its services: a client and a gateway may be of different releases. It grows faster than the
    /// configuration does, so it has files of its own.
    Api,
}

impl Part {
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Configuration => &["culvert.types.v1", "culvert.config.v1", "culvert.state.v1"],
            Self::Api => &["culvert.api.v1"],
        }
    }
}

/// A released part of a schema as text.
pub fn render(pool: &DescriptorPool, part: Part) -> String {
    let released = part.packages();
    let mut blocks = BTreeMap::new();
    for service in pool.services() {
        if !released.contains(&service.package_name()) {
            continue;
        }
        let mut text = String::new();
        for method in service.methods() {
            let stream = |streams| if streams { " stream" } else { "" };
            let _ = writeln!(
                text,
                "  {} {}{} {}{}",
                method.name(),
                method.input().full_name(),
                stream(method.is_client_streaming()),
                method.output().full_name(),
                stream(method.is_server_streaming()),
            );
        }
        blocks.insert(format!("service {}", service.full_name()), text);
    }
    for message in pool.all_messages() {
        if !released.contains(&message.package_name()) {
            continue;
        }
        let mut text = String::new();
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in &fields {
            render_field(&mut text, field);
        }
        for range in message.reserved_ranges() {
            for number in range {
                let _ = writeln!(text, "  reserved {number}");
            }
        }
        for name in message.reserved_names() {
            let _ = writeln!(text, "  reserved {name}");
        }
        blocks.insert(format!("message {}", message.full_name()), text);
    }
    for item in pool.all_enums() {
        if !released.contains(&item.package_name()) {
            continue;
        }
        let mut text = String::new();
        for value in item.values() {
            let keyword = rules::keyword(&value).unwrap_or_default();
            let line = format!("  {} {} {keyword}", value.number(), value.name());
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for range in item.reserved_ranges() {
            for number in range {
                let _ = writeln!(text, "  reserved {number}");
            }
        }
        for name in item.reserved_names() {
            let _ = writeln!(text, "  reserved {name}");
        }
        blocks.insert(format!("enum {}", item.full_name()), text);
    }
    let mut text = String::new();
    for (head, members) in blocks {
        let _ = writeln!(text, "{head}");
        text.push_str(&members);
    }
    text
}

fn render_field(text: &mut String, field: &FieldDescriptor) {
    let cardinality = match field.cardinality() {
        Cardinality::Repeated => "repeated",
        _ if field.supports_presence() => "optional",
        _ => "implicit",
    };
    let kind = match field.kind() {
        Kind::Message(inner) => inner.full_name().to_owned(),
        Kind::Enum(inner) => inner.full_name().to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    };
    let rules = &rules::of(field).field;
    let mut line = format!("  {} {} {cardinality} {kind}", field.number(), field.name());
    let oneof = field.containing_oneof();
    if let Some(oneof) = oneof.filter(|oneof| !oneof.is_synthetic()) {
        let _ = write!(line, " in {}", oneof.name());
    }
    for (said, word) in [
        (rules.key, " key"),
        (rules.secret, " secret"),
        (rules.ordered_by_user, " ordered"),
    ] {
        if said {
            line.push_str(word);
        }
    }
    // A key that is not written has its default: another one would make it another item.
    if let (true, Some(default)) = (rules.key, &rules.default_value) {
        let _ = write!(line, " default {default}");
    }
    let _ = writeln!(text, "{line}");
}

/// A message or enum as rendered.
#[derive(Default)]
struct Block<'a> {
    /// What is behind each number.
    members: BTreeMap<&'a str, Member<'a>>,
    /// Numbers and names.
    reserved: BTreeSet<&'a str>,
}

#[derive(PartialEq)]
struct Member<'a> {
    name: &'a str,
    rest: Vec<&'a str>,
}

fn parse(text: &str) -> BTreeMap<&str, Block<'_>> {
    let mut blocks: BTreeMap<&str, Block<'_>> = BTreeMap::new();
    let mut head = "";
    for line in text.lines() {
        let Some(member) = line.strip_prefix("  ") else {
            head = line;
            blocks.entry(head).or_default();
            continue;
        };
        let block = blocks.entry(head).or_default();
        let mut words = member.split(' ');
        match (words.next(), words.next()) {
            (Some("reserved"), Some(what)) => {
                block.reserved.insert(what);
            }
            (Some(number), Some(name)) => {
                let rest = words.collect();
                block.members.insert(number, Member { name, rest });
            }
            _ => {}
        }
    }
    blocks
}

/// What in `today` would misread what was written by `released`: both as rendered. None: it may be released.
pub fn breaches(released: &str, today: &str) -> Vec<String> {
    let (released, today) = (parse(released), parse(today));
    let mut found = Vec::new();
    for (head, old) in &released {
        let Some(new) = today.get(head) else {
            found.push(format!("{head} is gone"));
            continue;
        };
        for (number, was) in &old.members {
            match new.members.get(number) {
                Some(is) if is == was => {}
                Some(is) if is.name == was.name => found.push(format!(
                    "{head}: {} was {:?} and is {:?}",
                    was.name,
                    was.rest.join(" "),
                    is.rest.join(" ")
                )),
                Some(is) => found.push(format!(
                    "{head}: number {number} was {} and is {}",
                    was.name, is.name
                )),
                None => {
                    for what in [number, was.name] {
                        if !new.reserved.contains(what) {
                            found.push(format!("{head}: {} is gone, reserve {what}", was.name));
                        }
                    }
                }
            }
        }
        for what in &old.reserved {
            if !new.reserved.contains(what) {
                found.push(format!("{head}: {what} was reserved and is so no longer"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn a_schema_keeps_its_own_promises() {
        let today = render(schema::pool(), Part::Configuration);
        assert!(today.contains(
            "message culvert.config.v1.Route\n  1 vrf optional string key default default\n  2 destination optional string key\n"
        ), "{today}");
        assert!(!today.contains("culvert.bus") && !today.contains("culvert.api"));
        let api = render(schema::pool(), Part::Api);
        assert!(
            api.contains("  Commit culvert.api.v1.CommitRequest culvert.api.v1.CommitReply\n"),
            "{api}"
        );
        assert_eq!(breaches(&api, &api), Vec::<String>::new());
        // A method that goes, or takes something else.
        for (from, to) in [
            (
                "  Commit culvert.api.v1.CommitRequest",
                "  Commit culvert.api.v1.OpenRequest",
            ),
            ("  Commit ", "  Do "),
            ("CommitReply\n", "CommitReply stream\n"),
        ] {
            assert!(!breaches(&api, &api.replace(from, to)).is_empty(), "{to}");
        }
        assert_eq!(breaches(&today, &today), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_breach_is_found() {
        let released = "\
enum E
  0 E_UNSPECIFIED
  1 E_ONE one
message M
  1 name optional string key
  2 size optional uint32
  reserved 3
  reserved third
";
        let more = released.replace("  2 size", "  4 more optional bool\n  2 size");
        assert_eq!(breaches(released, &more), Vec::<String>::new(), "additions");
        for (from, to, expected) in [
            (
                "2 size optional uint32",
                "2 size optional uint64",
                "message M: size was \"optional uint32\" and is \"optional uint64\"",
            ),
            (
                "2 size optional uint32",
                "2 size repeated uint32",
                "message M: size was \"optional uint32\" and is \"repeated uint32\"",
            ),
            (
                "optional string key",
                "optional string",
                "message M: name was \"optional string key\" and is \"optional string\"",
            ),
            (
                "2 size",
                "2 length",
                "message M: number 2 was size and is length",
            ),
            (
                "  2 size optional uint32\n",
                "  reserved 2\n",
                "message M: size is gone, reserve size",
            ),
            (
                "  2 size optional uint32\n",
                "  reserved size\n",
                "message M: size is gone, reserve 2",
            ),
            ("2 size", "5 size", "message M: size is gone, reserve 2"),
            (
                "  reserved 3\n",
                "  3 other optional bool\n",
                "message M: 3 was reserved and is so no longer",
            ),
            (
                "  reserved third\n",
                "",
                "message M: third was reserved and is so no longer",
            ),
            (
                "1 E_ONE one",
                "1 E_ONE first",
                "enum E: E_ONE was \"one\" and is \"first\"",
            ),
            (
                "1 E_ONE one",
                "2 E_ONE one",
                "enum E: E_ONE is gone, reserve 1",
            ),
            ("message M", "message N", "message M is gone"),
        ] {
            let today = released.replace(from, to);
            assert_ne!(today, released);
            let found = breaches(released, &today);
            assert!(
                found.contains(&expected.to_owned()),
                "{expected}: {found:?}"
            );
        }
        let right = released.replace(
            "  2 size optional uint32\n",
            "  reserved 2\n  reserved size\n",
        );
        assert_eq!(
            breaches(released, &right),
            Vec::<String>::new(),
            "removed in order"
        );
    }
}
