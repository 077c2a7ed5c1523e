//! Whether the text of one leaf is what its type says.

use std::net::IpAddr;

use base64ct::{Base64, Encoding};
use ipnet::IpNet;

use super::error::Reason;
use crate::options::FieldType;
use crate::rules::Rules;

/// Checks type, length and pattern of a text.
pub(crate) fn check_text(rules: &Rules, text: &str) -> Result<(), Reason> {
    if text.len() > rules.max_length() {
        return Err(Reason::TooLong {
            length: text.len(),
            max: rules.max_length(),
        });
    }
    let (right, expected) = match rules.field.r#type() {
        FieldType::Name => (
            is_name(text),
            "a name: letters, digits, '-', '_' and '.', beginning with a letter or digit",
        ),
        FieldType::InterfaceName => (
            is_name(text) && text.len() <= 15,
            "the name of an interface: letters, digits, '-', '_' and '.', at most 15",
        ),
        FieldType::HostName => (
            is_host_name(text),
            "a host name such as gateway-a.example.com",
        ),
        FieldType::Ip => (
            text.parse::<IpAddr>().is_ok(),
            "an address such as 192.0.2.1 or 2001:db8::1",
        ),
        FieldType::Prefix => match text.parse::<IpNet>() {
            Ok(prefix) if prefix.trunc() != prefix => {
                return Err(Reason::HostBits {
                    given: shortened(text),
                    network: prefix.trunc().to_string(),
                });
            }
            other => (
                other.is_ok(),
                "a network such as 192.0.2.0/24 or 2001:db8::/32",
            ),
        },
        FieldType::InterfaceAddress => (
            text.parse::<IpNet>().is_ok(),
            "an address with the length of its network, such as 192.0.2.1/24",
        ),
        FieldType::Peer => (
            text == "%any"
                || text.parse::<IpAddr>().is_ok()
                || text.parse::<IpNet>().is_ok()
                || is_named_host(text),
            "an address, a name, a network or %any",
        ),
        FieldType::Selector => (
            is_selector(text),
            "a selector such as 10.1.0.0/24, 10.1.0.5-10.1.0.20[tcp/443] or dynamic",
        ),
        FieldType::Proposal => (
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()),
            "a proposal such as aes128gcm16-prfsha256-ecp256",
        ),
        FieldType::Identity => (
            is_identity(text),
            "an identity such as gateway-a.example.com, 192.0.2.1 or \"C=CH, CN=gateway-a\"",
        ),
        FieldType::Text => (is_text(text), "text without control characters"),
        FieldType::Pem => (
            text.contains("-----BEGIN "),
            "in PEM: -----BEGIN ... -----END",
        ),
        FieldType::File => (
            !text.is_empty() && !text.contains('\0'),
            "the path of a file",
        ),
        FieldType::KeyText => (
            key_bytes(text).is_some(),
            "a secret: text, 0x and an even number of hexadecimal digits, or 0s and base64",
        ),
        FieldType::Mac => (
            is_mac(text),
            "an Ethernet address such as 02:00:00:00:00:01",
        ),
        FieldType::Host => (
            text.parse::<IpAddr>().is_ok() || is_named_host(text),
            "the name or address of a host, such as ntp.example.com or 192.0.2.1",
        ),
        FieldType::Unspecified | FieldType::Duration | FieldType::Number => (true, ""),
    };
    if !right {
        return Err(Reason::Malformed {
            given: (!rules.field.secret).then(|| shortened(text)),
            expected,
        });
    }
    match &rules.pattern {
        Some(pattern) if !pattern.is_match(text) => Err(Reason::Pattern {
            given: (!rules.field.secret).then(|| shortened(text)),
            pattern: rules.field.pattern.clone(),
        }),
        _ => Ok(()),
    }
}

fn is_identity(text: &str) -> bool {
    let hidden = |letter: char| letter.is_control() || turns(letter);
    !text.trim().is_empty() && !text.chars().any(hidden)
}

fn is_text(text: &str) -> bool {
    let hidden =
        |letter: char| letter.is_control() && letter != '\n' && letter != '\t' || turns(letter);
    !text.chars().any(hidden)
}

/// Turns the direction of the text behind it (Unicode TR 9, explicit formatting characters): what is read is not what is
/// written, here and in the rest of the line.
fn turns(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What the digest of a secret begins with, where it stands for the secret.
pub(crate) const DIGEST_PREFIX: &str = "$digest:";

/// The digest that a text stands for; `None`: it is a secret itself, or means to be a digest and is none.
pub(crate) fn digest(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(DIGEST_PREFIX)?.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let high = char::from(*high).to_digit(16)?;
        let low = char::from(*low).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(digest)
}

/// Checks a secret, or the digest that stands for one where that is taken.
pub(crate) fn check_secret(rules: &Rules, text: &str, digests: bool) -> Result<(), Reason> {
    if !text.starts_with(DIGEST_PREFIX) {
        return check_text(rules, text);
    }
    if !digests {
        return Err(Reason::DigestOfSecret);
    }
    digest(text).map(|_| ()).ok_or(Reason::Malformed {
        given: None,
        expected: "a digest: $digest: and 64 hexadecimal digits",
    })
}

/// Checks the range of a number.
pub(crate) fn check_number(rules: &Rules, number: u64, type_max: u64) -> Result<(), Reason> {
    let min = rules.field.min.unwrap_or(0);
    let max = rules.field.max.unwrap_or(type_max);
    if (min..=max).contains(&number) {
        Ok(())
    } else {
        Err(Reason::OutOfRange {
            given: number,
            min,
            max,
            unit: rules.field.unit.clone(),
        })
    }
}

/// One spelling for all texts that mean the same.
pub(crate) fn normalised(kind: FieldType, text: &str) -> String {
    let parsed = match kind {
        FieldType::Ip => text.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
        FieldType::Host => Some(match text.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => text.to_ascii_lowercase(),
        }),
        FieldType::Prefix | FieldType::InterfaceAddress => {
            text.parse::<IpNet>().ok().map(|prefix| prefix.to_string())
        }
        FieldType::Peer => normal_network(text).or_else(|| Some(text.to_ascii_lowercase())),
        FieldType::Selector => {
            let end = text.find('[').unwrap_or(text.len());
            let (network, rest) = text.split_at(end);
            let network = match network.split_once('-') {
                Some((first, last)) => normal_network(first)
                    .zip(normal_network(last))
                    .map(|(first, last)| format!("{first}-{last}")),
                None => normal_network(network),
            };
            network.map(|network| network + rest)
        }
        FieldType::HostName | FieldType::Mac => Some(text.to_ascii_lowercase()),
        _ => None,
    };
    parsed.unwrap_or_else(|| text.to_owned())
}

fn normal_network(text: &str) -> Option<String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_string());
    address
        .or_else(|_| text.parse::<IpNet>().map(|prefix| prefix.to_string()))
        .ok()
}

/// The bytes that the text of a pre-shared key stands for.
pub fn key_bytes(text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let bytes = if let Some(digits) = text.strip_prefix("0x") {
        let digits = digits.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let mut bytes = Vec::with_capacity(digits.len() / 2);
        for pair in digits.chunks_exact(2) {
            let [high, low] = pair else { return None };
            let high = char::from(*high).to_digit(16)?;
            let low = char::from(*low).to_digit(16)?;
            bytes.push((high << 4 | low) as u8);
        }
        bytes
    } else if let Some(base64) = text.strip_prefix("0s") {
        Base64::decode_vec(base64).ok()?
    } else {
        text.as_bytes().to_vec()
    };
    (!bytes.is_empty()).then(|| zeroize::Zeroizing::new(bytes))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// A host name that cannot be meant as an address.
fn is_named_host(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or(text);
    is_host_name(text) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_mac(text: &str) -> bool {
    text.split(':').count() == 6
        && text
            .split(':')
            .all(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The first and the last address of `10.1.0.1`, `10.1.0.0/24` or `10.1.0.5-10.1.0.20`.
pub(crate) fn address_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, address));
    }
    let network = text.parse::<IpNet>().ok()?;
    (network.trunc() == network).then(|| (network.network(), network.broadcast()))
}

fn is_selector(text: &str) -> bool {
    let (network, rest) = match text.split_once('[') {
        Some((network, rest)) => (network, Some(rest)),
        None => (text, None),
    };
    let network_right = network == "dynamic" || address_range(network).is_some();
    let rest_right = rest.is_none_or(|rest| {
        rest.strip_suffix(']').is_some_and(|inside| {
            let (protocol, port) = inside.split_once('/').unwrap_or((inside, "any"));
            let protocol_right = ["tcp", "udp", "icmp", "ipv6-icmp", "sctp", "gre", "any"]
                .contains(&protocol)
                || protocol.parse::<u8>().is_ok();
            let port_right = port == "any"
                || port.parse::<u16>().is_ok()
                || port.split_once('-').is_some_and(|(first, last)| {
                    matches!(
                        (first.parse::<u16>(), last.parse::<u16>()),
                        (Ok(first), Ok(last)) if first <= last
                    )
                });
            protocol_right && port_right
        })
    });
    network_right && rest_right
}

/// Characters of what somebody wrote that are said back.
pub(crate) const LONGEST: usize = 64;

/// A text as an error repeats it: not so long that it hides the message.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(61).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::options::FieldRules;

    fn check(kind: FieldType, text: &str) -> Result<(), Reason> {
        let rules = Rules {
            field: FieldRules {
                r#type: kind.into(),
                ..FieldRules::default()
            },
            ..Rules::default()
        };
        check_text(&rules, text)
    }

    #[test]
    fn each_type_takes_what_is_right_and_nothing_else() {
        let table: &[(FieldType, &[&str], &[&str])] = &[
            (
                FieldType::Name,
                &["hq", "0.a-b_c"],
                &["", "-a", "a b", "ä", "a/b"],
            ),
            (
                FieldType::InterfaceName,
                &["lan0", "abcdefghijklmno"],
                &["abcdefghijklmnop", "a:b"],
            ),
            (
                FieldType::HostName,
                &["a", "gw-1.example.com"],
                &["", "-a", "a-", "a..b", "a_b"],
            ),
            (
                FieldType::Ip,
                &["192.0.2.1", "2001:db8::1"],
                &["192.0.2", "192.0.2.1/24", "01.2.3.4", "fe80::1%eth0"],
            ),
            (
                FieldType::Prefix,
                &["0.0.0.0/0", "2001:db8::/32"],
                &["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33"],
            ),
            (
                FieldType::InterfaceAddress,
                &["10.0.0.1/24"],
                &["10.0.0.1", "10.0.0.1/255.255.255.0"],
            ),
            (
                FieldType::Peer,
                &["%any", "192.0.2.1", "192.0.2.0/24", "a.example.com", "a"],
                &["%other", "192.0.2", "192.0.2.1/33", "a..b", "-a", ""],
            ),
            (
                FieldType::Selector,
                &[
                    "dynamic",
                    "10.1.0.0/24",
                    "10.1.0.1",
                    "10.1.0.0/24[tcp/443]",
                    "::/0[udp/1-9]",
                    "0.0.0.0/0[47]",
                    "10.1.0.5-10.1.0.20",
                    "2001:db8::5-2001:db8::9[udp/1-9]",
                ],
                &[
                    "",
                    "10.1.0.1/24",
                    "10.1.0.0/24[tcp/",
                    "10.1.0.0/24[foo]",
                    "10.1.0.0/24[tcp/9-1]",
                    "10.1.0.20-10.1.0.5",
                    "10.1.0.5-2001:db8::9",
                    "10.1.0.5-",
                    "10.1.0.0/24-10.2.0.0/24",
                    "x",
                ],
            ),
            (
                FieldType::Identity,
                &["C=CH, CN=a", "@a", "%any"],
                &["", " ", "a\nb"],
            ),
            (
                FieldType::KeyText,
                &["secret", "0x00ff", "0sAAEC", "ü"],
                &["", "0x0", "0xzz", "0s?", "0x", "0xü"],
            ),
            (
                FieldType::Mac,
                &["02:00:00:00:00:0a"],
                &["02:00:00:00:00", "2:0:0:0:0:0", "gg:00:00:00:00:00"],
            ),
            (
                FieldType::Host,
                &["ntp.example.com", "192.0.2.1", "2001:db8::1", "a"],
                &["192.0.2.256", "192.0.2", "a_b", "", "fe80::1%eth0"],
            ),
            (FieldType::File, &["psk.txt"], &["", "a\0b"]),
        ];
        for (kind, right, wrong) in table {
            for text in *right {
                assert_eq!(check(*kind, text), Ok(()), "{kind:?} {text:?}");
            }
            for text in *wrong {
                assert!(check(*kind, text).is_err(), "{kind:?} {text:?}");
            }
        }
    }

    #[test]
    fn host_bits_are_told_with_the_network_that_was_meant() {
        let error = check(FieldType::Prefix, "10.1.2.3/16").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.1.2.3/16\" has bits beyond its length; the network is 10.1.0.0/16"
        );
    }

    #[test]
    fn selectors_have_one_spelling() {
        for (given, normal) in [
            ("2001:DB8:0::5", "2001:db8::5"),
            ("2001:DB8:0::/64[tcp/443]", "2001:db8::/64[tcp/443]"),
            (
                "2001:db8:0::5-2001:DB8::9[udp/1-9]",
                "2001:db8::5-2001:db8::9[udp/1-9]",
            ),
            ("dynamic[gre]", "dynamic[gre]"),
        ] {
            assert_eq!(normalised(FieldType::Selector, given), normal);
        }
    }

    #[test]
    fn key_texts_become_bytes() {
        assert_eq!(key_bytes("0x00fF").unwrap().as_slice(), &[0, 255]);
        assert_eq!(key_bytes("0sAAEC").unwrap().as_slice(), &[0, 1, 2]);
        assert_eq!(key_bytes("abc").unwrap().as_slice(), b"abc");
    }
}
