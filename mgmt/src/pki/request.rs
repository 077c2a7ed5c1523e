//! Certificate requests (PKCS#10, RFC 2986).

use std::net::IpAddr;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, SanType};

use super::PkiError;
use super::key;

/// What a certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whose it is: `CN=branch.example.com, O=Example`.
    pub subject: String,
    /// Other names of the same: host names, addresses, mail addresses.
    pub alternative_names: Vec<String>,
}

/// A request signed by a key in DER, as PEM.
pub fn request(key: &[u8], wish: &Wish) -> Result<String, PkiError> {
    let key = key::read(key)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = distinguished_name(&wish.subject)?;
    parameters.subject_alt_names = wish
        .alternative_names
        .iter()
        .map(|name| alternative_name(name))
        .collect::<Result<_, _>>()?;
    Ok(parameters.serialize_request(&key)?.pem()?)
}

/// `CN=a, O=b` (RFC 4514, first part first); a backslash takes a comma for what it is.
fn distinguished_name(text: &str) -> Result<DistinguishedName, PkiError> {
    let wrong = |given: &str, expected| PkiError::Name {
        given: given.to_owned(),
        expected,
    };
    let mut name = DistinguishedName::new();
    for part in parts(text) {
        let (kind, value) = part
            .split_once('=')
            .map(|(kind, value)| (kind.trim(), value.trim()))
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| wrong(&part, "a part of a name such as CN=branch.example.com"))?;
        let text = || DnValue::Utf8String(value.to_owned());
        let (kind, value) = match kind.to_ascii_uppercase().as_str() {
            "CN" => (DnType::CommonName, text()),
            "O" => (DnType::OrganizationName, text()),
            "OU" => (DnType::OrganizationalUnitName, text()),
            "L" => (DnType::LocalityName, text()),
            "ST" => (DnType::StateOrProvinceName, text()),
            "C" => {
                let country = PrintableString::try_from(value)
                    .ok()
                    .filter(|_| value.len() == 2)
                    .ok_or_else(|| wrong(value, "a country of two letters"))?;
                (DnType::CountryName, DnValue::PrintableString(country))
            }
            _ => return Err(wrong(kind, "one of CN, O, OU, L, ST and C")),
        };
        if name.get(&kind).is_some() {
            return Err(wrong(&part, "the only part of its kind"));
        }
        name.push(kind, value);
    }
    if name.iter().next().is_none() {
        return Err(wrong(
            text,
            "a name such as CN=branch.example.com, O=Example",
        ));
    }
    Ok(name)
}

/// What stands between commas.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ',' => parts.push(String::new()),
            letter => {
                let letter = if letter == '\\' {
                    letters.next()
                } else {
                    Some(letter)
                };
                if let Some(part) = parts.last_mut() {
                    part.extend(letter);
                }
            }
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn alternative_name(text: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let name = || Ia5String::try_from(text).ok();
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte))
    };
    let made = match text.split_once('@') {
        Some((person, host)) if !person.is_empty() && plain(host) => {
            name().map(SanType::Rfc822Name)
        }
        None if plain(text) => name().map(SanType::DnsName),
        _ => None,
    };
    made.ok_or_else(|| PkiError::Name {
        given: text.to_owned(),
        expected: "a host name, an address or a mail address",
    })
}
