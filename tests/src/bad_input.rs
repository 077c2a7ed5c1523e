//! What is wrong with a configuration, once for every entrance by which one comes in.
//!
//! ```text
//!   BAD ──┬─ json ───> culvert run --config, load over the API, load at the command line
//!         └─ lines ──> set over the API, load of lines over the API, lines at the command line
//! ```
//!
//! By each of them the error says the same words, and where; and nothing is changed.

/// When it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As soon as it is written.
    Edit,
    /// By the commit: while it is written it may be half done.
    Commit,
}

/// Something wrong.
pub struct Bad {
    /// What it is called here.
    pub name: &'static str,
    /// As a document.
    pub json: fn() -> Vec<u8>,
    /// As set lines without their verb; none: they cannot say it. The last one is wrong.
    pub lines: fn() -> Vec<String>,
    /// Where it is, as documents write it; and as lines do: the words before the wrong one.
    pub place: (&'static str, &'static str),
    /// What every error says.
    pub words: &'static str,
    /// When it says it.
    pub when: When,
}

fn no_lines() -> Vec<String> {
    Vec::new()
}

/// A document of an interface with one more field.
macro_rules! interface {
    ($field:literal) => {
        || concat!(r#"{"interfaces": [{"name": "wan", "#, $field, "}]}").into()
    };
}

macro_rules! lines {
    ($($line:expr),+) => {
        || vec![$($line.to_string()),+]
    };
}

/// All of it.
pub const BAD: &[Bad] = &[
    Bad {
        name: "an unknown field",
        json: interface!(r#""mut": 1400"#),
        lines: lines!("interfaces wan mut 1400"),
        place: ("interfaces[wan].mut", "interfaces wan"),
        words: "\"mtu\" meant",
        when: When::Edit,
    },
    Bad {
        name: "a number out of range",
        json: interface!(r#""mtu": 9217"#),
        lines: lines!("interfaces wan mtu 9217"),
        place: ("interfaces[wan].mtu", "interfaces wan mtu"),
        words: "9217 is not between 576 and 9216 bytes",
        when: When::Edit,
    },
    Bad {
        name: "a number larger than any",
        json: interface!(r#""mtu": 99999999999999999999999"#),
        lines: lines!("interfaces wan mtu 99999999999999999999999"),
        place: ("interfaces[wan].mtu", "interfaces wan mtu"),
        words: "whole number",
        when: When::Edit,
    },
    Bad {
        name: "a unit where a number belongs",
        json: interface!(r#""mtu": "1400b""#),
        lines: lines!("interfaces wan mtu 1400b"),
        place: ("interfaces[wan].mtu", "interfaces wan mtu"),
        words: "whole number",
        when: When::Edit,
    },
    Bad {
        name: "a value that is none of an enumeration",
        json: || br#"{"system": {"users": [{"name": "bob", "role": "boss"}]}}"#.to_vec(),
        lines: lines!("system users bob role boss"),
        place: ("system.users[bob].role", "system users bob role"),
        words: "is not one of read-only, operator, admin",
        when: When::Edit,
    },
    Bad {
        name: "a number that an enumeration does not have",
        json: || br#"{"system": {"users": [{"name": "bob", "role": 77}]}}"#.to_vec(),
        lines: lines!("system users bob role 77"),
        place: ("system.users[bob].role", "system users bob role"),
        words: "\"77\" is not one of read-only, operator, admin",
        when: When::Edit,
    },
    Bad {
        name: "an address without the length of its network",
        json: interface!(r#""addresses": [{"address": "192.0.2.1"}]"#),
        lines: lines!("interfaces wan addresses 192.0.2.1"),
        place: ("interfaces[wan].addresses", "interfaces wan addresses"),
        words: "such as 192.0.2.1/24",
        when: When::Edit,
    },
    Bad {
        name: "an address of something else",
        json: interface!(r#""addresses": [{"address": "192.0.2.300/24"}]"#),
        lines: lines!("interfaces wan addresses 192.0.2.300/24"),
        place: ("interfaces[wan].addresses", "interfaces wan addresses"),
        words: "such as 192.0.2.1/24",
        when: When::Edit,
    },
    Bad {
        name: "a network with bits beyond its length",
        json: || br#"{"routes": [{"destination": "10.1.2.3/8"}]}"#.to_vec(),
        lines: lines!("routes 10.1.2.3/8"),
        place: ("routes[default,10.1.2.3/8].destination", "routes"),
        words: "has bits beyond its length; the network is 10.0.0.0/8",
        when: When::Edit,
    },
    Bad {
        name: "a name that an account cannot have",
        json: || br#"{"system": {"users": [{"name": "Root", "role": "admin"}]}}"#.to_vec(),
        lines: lines!("system users Root role admin"),
        place: ("system.users[Root].name", "system users"),
        words: "does not match [a-z][a-z0-9_-]*",
        when: When::Edit,
    },
    Bad {
        name: "a text that is too long",
        json: || {
            let banner = "x".repeat(5000);
            format!(r#"{{"system": {{"login": {{"banner": "{banner}"}}}}}}"#).into_bytes()
        },
        lines: || vec![format!("system login banner {}", "x".repeat(5000))],
        place: ("system.login.banner", "system login banner"),
        words: "5000 bytes; at most 4096 are taken",
        when: When::Edit,
    },
    Bad {
        name: "a control character",
        json: interface!(r#""description": "a\u001b[31mb""#),
        lines: lines!("interfaces wan description \"a\u{1b}[31mb\""),
        place: ("interfaces[wan].description", "interfaces wan description"),
        words: "text without control characters",
        when: When::Edit,
    },
    Bad {
        name: "a character that turns the text behind it",
        json: interface!(r#""description": "a\u202eb""#),
        lines: lines!("interfaces wan description \"a\u{202e}b\""),
        place: ("interfaces[wan].description", "interfaces wan description"),
        words: "text without control characters",
        when: When::Edit,
    },
    Bad {
        name: "more items than are taken",
        json: || {
            let servers =
                ["1", "2", "3", "4"].map(|last| format!(r#"{{"address": "192.0.2.{last}"}}"#));
            format!(
                r#"{{"system": {{"dns_servers": [{}]}}}}"#,
                servers.join(",")
            )
            .into_bytes()
        },
        lines: lines!(
            "system dns_servers 192.0.2.1",
            "system dns_servers 192.0.2.2",
            "system dns_servers 192.0.2.3",
            "system dns_servers 192.0.2.4"
        ),
        place: ("system.dns_servers", ""),
        words: "4 items; at most 3 are taken",
        when: When::Edit,
    },
    Bad {
        name: "a digest of nothing",
        json: || secret(&format!("$digest:{}", "ab".repeat(32))),
        lines: || {
            let digest = "ab".repeat(32);
            vec![format!(
                "credentials pre_shared_keys hq secret $digest:{digest}"
            )]
        },
        place: ("", "credentials pre_shared_keys hq secret"),
        words: "the secret itself",
        when: When::Edit,
    },
    Bad {
        name: "a secret that is none",
        json: || secret("0xabc"),
        lines: lines!("credentials pre_shared_keys hq secret 0xabc"),
        place: (
            "credentials.pre_shared_keys[hq].secret",
            "credentials pre_shared_keys hq secret",
        ),
        words: "an even number of hexadecimal digits",
        when: When::Edit,
    },
    Bad {
        name: "a reference to nothing",
        json: interface!(r#""vrf": "nowhere""#),
        lines: lines!("interfaces wan vrf nowhere"),
        place: ("interfaces[wan]", "interfaces[wan]"),
        words: "nowhere",
        when: When::Commit,
    },
    Bad {
        name: "something missing",
        json: || br#"{"system": {"users": [{"name": "bob"}]}}"#.to_vec(),
        lines: lines!("system users bob"),
        place: ("system.users[bob].role", "system.users[bob].role"),
        words: "missing; it must be given",
        when: When::Commit,
    },
    Bad {
        name: "a field given twice",
        json: || br#"{"system": {"host_name": "a", "host_name": "b"}}"#.to_vec(),
        lines: no_lines,
        place: ("system.host_name", ""),
        words: "given twice; write it once",
        when: When::Edit,
    },
    Bad {
        name: "a field in another spelling",
        json: || br#"{"system": {"hostName": "a"}}"#.to_vec(),
        lines: no_lines,
        place: ("system.hostName", ""),
        words: "host_name",
        when: When::Edit,
    },
    Bad {
        name: "both spellings of a field",
        json: || br#"{"system": {"host_name": "a", "hostName": "b"}}"#.to_vec(),
        lines: no_lines,
        place: ("system.hostName", ""),
        words: "host_name",
        when: When::Edit,
    },
    Bad {
        name: "an item given twice",
        json: || br#"{"interfaces": [{"name": "wan"}, {"name": "wan"}]}"#.to_vec(),
        lines: no_lines,
        place: ("interfaces[wan]", ""),
        words: "each may stand once",
        when: When::Edit,
    },
    Bad {
        name: "null",
        json: interface!(r#""mtu": null"#),
        lines: no_lines,
        place: ("interfaces[wan].mtu", ""),
        words: "null where",
        when: When::Edit,
    },
    Bad {
        name: "too deep",
        json: || format!("{}1{}", r#"{"system":"#.repeat(100), "}".repeat(100)).into_bytes(),
        lines: no_lines,
        place: ("", ""),
        words: "nested deeper than 32 levels",
        when: When::Edit,
    },
    Bad {
        name: "far too deep",
        json: || format!(r#"{{"interfaces": {}"#, "[".repeat(100_000)).into_bytes(),
        lines: no_lines,
        place: ("", ""),
        words: "nested deeper than",
        when: When::Edit,
    },
    Bad {
        name: "too large",
        json: || {
            let name = "x".repeat(16 << 20);
            format!(r#"{{"system": {{"host_name": "{name}"}}}}"#).into_bytes()
        },
        lines: no_lines,
        place: ("", ""),
        words: "at most 16777216 are taken",
        when: When::Edit,
    },
    Bad {
        name: "bytes that are no text",
        json: || b"{\"system\": {\"host_name\": \"a\xff\xc0\x80b\"}}".to_vec(),
        lines: no_lines,
        place: ("", ""),
        words: "UTF-8",
        when: When::Edit,
    },
    Bad {
        name: "half a document",
        json: || br#"{"system": {"host_name": "a"}"#.to_vec(),
        lines: no_lines,
        place: ("", ""),
        words: "not JSON: EOF while parsing an object",
        when: When::Edit,
    },
    Bad {
        name: "more behind the document",
        json: || b"{} {}".to_vec(),
        lines: no_lines,
        place: ("", ""),
        words: "not JSON: trailing characters",
        when: When::Edit,
    },
];

/// A document of a pre-shared key.
fn secret(text: &str) -> Vec<u8> {
    format!(
        r#"{{"credentials": {{"pre_shared_keys": [{{"name": "hq", "identities": [{{"identity": "a"}}], "secret": "{text}"}}]}}}}"#
    )
    .into_bytes()
}
