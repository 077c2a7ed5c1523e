//! From text to a filter: words, then recursive descent.

use culvert_net::{IpPrefix, PortRange, Protocol};

use super::{DEEPEST, Expression, FilterError, LONGEST_TEXT, MOST_TESTS, Side, Test, Transport};
use crate::observe::headers::Family;

/// What a test begins with.
const TEST: &str = "a test (such as host, net, port, ip, tcp, esp, spi)";

pub(super) fn parse(text: &str) -> Result<Option<Expression>, FilterError> {
    if text.len() > LONGEST_TEXT {
        return Err(FilterError::TooLong(text.len()));
    }
    let mut parser = Parser {
        words: words(text),
        at: 0,
        tests: 0,
        last: None,
    };
    if parser.words.is_empty() {
        return Ok(None);
    }
    let expression = parser.expression(0)?;
    match parser.next() {
        None => Ok(Some(expression)),
        Some(found) => Err(unexpected(found, "and, or, or the end")),
    }
}

/// Parentheses and exclamation marks stand for themselves; everything else is divided by blanks.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for mut chunk in text.split_whitespace() {
        while let Some(at) = chunk.find(['(', ')', '!']) {
            let (before, rest) = chunk.split_at(at);
            let (mark, behind) = rest.split_at(1);
            words.extend([before, mark].into_iter().filter(|word| !word.is_empty()));
            chunk = behind;
        }
        if !chunk.is_empty() {
            words.push(chunk);
        }
    }
    words
}

fn unexpected(found: &str, wanted: &'static str) -> FilterError {
    FilterError::Unexpected {
        found: found.to_owned(),
        wanted,
    }
}

struct Parser<'t> {
    words: Vec<&'t str>,
    at: usize,
    tests: usize,
    /// Qualifiers of the test before, for a value that stands alone.
    last: Option<Qualifiers>,
}

/// What stands before a value.
#[derive(Clone, Copy, Default)]
struct Qualifiers {
    subject: Option<Subject>,
    side: Option<Side>,
    kind: Option<Kind>,
}

/// The protocol word before a value.
#[derive(Clone, Copy)]
enum Subject {
    Family(Family),
    Transport(Transport),
    /// A protocol that has neither addresses nor ports of its own.
    Other(Option<Family>, Protocol),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "host" => Self::Host,
            "net" => Self::Net,
            "port" => Self::Port,
            "portrange" => Self::PortRange,
            _ => return None,
        })
    }
}

impl Subject {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ip" => Self::Family(Family::Ip4),
            "ip6" => Self::Family(Family::Ip6),
            "arp" => Self::Family(Family::Arp),
            "tcp" => Self::Transport(Transport::Tcp),
            "udp" => Self::Transport(Transport::Udp),
            "sctp" => Self::Transport(Transport::Sctp),
            "icmp" => Self::Other(Some(Family::Ip4), Protocol::ICMP),
            "icmp6" => Self::Other(Some(Family::Ip6), Protocol::ICMPV6),
            "esp" => Self::Other(None, Protocol::ESP),
            "ah" => Self::Other(None, Protocol::AH),
            "gre" => Self::Other(None, Protocol(47)),
            _ => return None,
        })
    }

    fn alone(self) -> Test {
        match self {
            Self::Family(family) => Test::Family(family),
            Self::Transport(transport) => Test::Protocol(None, transport.protocol()),
            Self::Other(family, protocol) => Test::Protocol(family, protocol),
        }
    }
}

impl<'t> Parser<'t> {
    fn peek(&self, ahead: usize) -> Option<&'t str> {
        self.words.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Option<&'t str> {
        let word = self.peek(0)?;
        self.at += 1;
        Some(word)
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.term(depth)?;
        loop {
            let make = match self.peek(0) {
                Some("and" | "&&") => Expression::And,
                Some("or" | "||") => Expression::Or,
                _ => return Ok(left),
            };
            self.at += 1;
            left = make(Box::new(left), Box::new(self.term(depth)?));
        }
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth >= DEEPEST {
            return Err(FilterError::TooComplex);
        }
        match self.peek(0).ok_or(FilterError::Ends(TEST))? {
            "not" | "!" => {
                self.at += 1;
                Ok(Expression::Not(Box::new(self.term(depth + 1)?)))
            }
            "(" => {
                self.at += 1;
                let inner = self.expression(depth + 1)?;
                match self.next() {
                    Some(")") => Ok(inner),
                    Some(found) => Err(unexpected(found, "and, or, or a closing parenthesis")),
                    None => Err(FilterError::Ends("a closing parenthesis")),
                }
            }
            _ => {
                self.tests += 1;
                if self.tests > MOST_TESTS {
                    return Err(FilterError::TooComplex);
                }
                self.test().map(Expression::Is)
            }
        }
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        let word = self.peek(0).ok_or(FilterError::Ends(TEST))?;
        match word {
            "spi" => {
                self.at += 1;
                return self.number("an SPI").map(Test::Spi);
            }
            "less" => {
                self.at += 1;
                return self.number("a length in bytes").map(Test::Less);
            }
            "greater" => {
                self.at += 1;
                return self.number("a length in bytes").map(Test::Greater);
            }
            _ => {}
        }
        let mut said = Qualifiers::default();
        if let Some(subject) = Subject::of(word) {
            self.at += 1;
            said.subject = Some(subject);
        }
        if self.peek(0) == Some("proto") {
            self.at += 1;
            let family = match said.subject {
                None => None,
                Some(Subject::Family(family @ (Family::Ip4 | Family::Ip6))) => Some(family),
                Some(_) => return Err(mismatch(word, "proto")),
            };
            return self.protocol().map(|found| Test::Protocol(family, found));
        }
        said.side = self.side();
        if let Some(kind) = self.peek(0).and_then(Kind::of) {
            self.at += 1;
            said.kind = Some(kind);
        }
        if said.side.is_none() && said.kind.is_none() {
            match said.subject {
                Some(subject) => {
                    self.last = None;
                    return Ok(subject.alone());
                }
                None => said = self.inherited(word)?,
            }
        }
        // An address without a word before it may have a length.
        let kind = said.kind.unwrap_or(Kind::Net);
        self.last = Some(Qualifiers {
            kind: Some(kind),
            ..said
        });
        self.value(said, kind)
    }

    /// What a value that stands alone means: as the one before, or an address.
    fn inherited(&self, word: &str) -> Result<Qualifiers, FilterError> {
        let is_address = word.parse::<IpPrefix>().is_ok();
        let of_address =
            |said: &Qualifiers| matches!(said.kind, Some(Kind::Host | Kind::Net)) == is_address;
        match self.last.filter(of_address) {
            Some(last) => Ok(last),
            None if is_address => Ok(Qualifiers {
                kind: Some(Kind::Net),
                ..Qualifiers::default()
            }),
            None => Err(unexpected(word, TEST)),
        }
    }

    fn side(&mut self) -> Option<Side> {
        let (side, words) = match (self.peek(0)?, self.peek(1), self.peek(2)) {
            ("src", Some("or"), Some("dst")) | ("dst", Some("or"), Some("src")) => {
                (Side::Either, 3)
            }
            ("src", Some("and"), Some("dst")) | ("dst", Some("and"), Some("src")) => {
                (Side::Both, 3)
            }
            ("src", ..) => (Side::Source, 1),
            ("dst", ..) => (Side::Destination, 1),
            _ => return None,
        };
        self.at += words;
        Some(side)
    }

    fn value(&mut self, said: Qualifiers, kind: Kind) -> Result<Test, FilterError> {
        let side = said.side.unwrap_or(Side::Either);
        match kind {
            Kind::Host | Kind::Net => {
                let family = match said.subject {
                    None => None,
                    Some(Subject::Family(family)) => Some(family),
                    Some(Subject::Transport(transport)) => {
                        return Err(mismatch(transport.word(), "an address"));
                    }
                    Some(Subject::Other(_, protocol)) => {
                        return Err(mismatch(&protocol.to_string(), "an address"));
                    }
                };
                let prefix = self.prefix(kind)?;
                let possible = match family {
                    Some(Family::Ip4 | Family::Arp) => matches!(prefix, IpPrefix::V4(_)),
                    Some(Family::Ip6) => matches!(prefix, IpPrefix::V6(_)),
                    None => true,
                };
                if !possible {
                    let first = family.map_or("", super::family_word);
                    return Err(mismatch(first, &prefix.to_string()));
                }
                Ok(Test::Net(family, side, prefix))
            }
            Kind::Port | Kind::PortRange => {
                let transport = match said.subject {
                    None => None,
                    Some(Subject::Transport(transport)) => Some(transport),
                    Some(Subject::Family(family)) => {
                        return Err(mismatch(super::family_word(family), "a port"));
                    }
                    Some(Subject::Other(_, protocol)) => {
                        return Err(mismatch(&protocol.to_string(), "a port"));
                    }
                };
                let range = self.ports(kind)?;
                Ok(Test::Port(transport, side, range))
            }
        }
    }

    fn prefix(&mut self, kind: Kind) -> Result<IpPrefix, FilterError> {
        let wanted = match kind {
            Kind::Host => "an address",
            _ => "a network (such as 10.1.0.0/16)",
        };
        let word = self.next().ok_or(FilterError::Ends(wanted))?;
        let prefix: IpPrefix = word.parse().map_err(|_| unexpected(word, wanted))?;
        if kind == Kind::Host && word.contains('/') {
            return Err(unexpected(word, "an address without a length (or net)"));
        }
        Ok(prefix)
    }

    fn ports(&mut self, kind: Kind) -> Result<PortRange, FilterError> {
        let wanted = match kind {
            Kind::PortRange => "a range of ports (such as 8000-8080)",
            _ => "a port",
        };
        let word = self.next().ok_or(FilterError::Ends(wanted))?;
        let port = |digits: &str| decimal::<u16>(digits).ok_or_else(|| unexpected(word, wanted));
        match word.split_once('-') {
            Some((first, last)) if kind == Kind::PortRange => {
                PortRange::new(port(first)?, port(last)?).map_err(|_| unexpected(word, wanted))
            }
            _ => port(word).map(PortRange::one),
        }
    }

    fn protocol(&mut self) -> Result<Protocol, FilterError> {
        let wanted = "a protocol's name or number";
        let word = self.next().ok_or(FilterError::Ends(wanted))?;
        // pcap-filter wants names escaped that are words of the language as well.
        let name = word.strip_prefix('\\').unwrap_or(word);
        match Subject::of(name) {
            Some(Subject::Transport(transport)) => Ok(transport.protocol()),
            Some(Subject::Other(_, protocol)) => Ok(protocol),
            _ => decimal::<u8>(name)
                .map(Protocol)
                .ok_or_else(|| unexpected(word, wanted)),
        }
    }

    fn number(&mut self, wanted: &'static str) -> Result<u32, FilterError> {
        let word = self.next().ok_or(FilterError::Ends(wanted))?;
        let number = match word.strip_prefix("0x") {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            _ => decimal(word),
        };
        number.ok_or_else(|| unexpected(word, wanted))
    }
}

fn mismatch(first: &str, second: &str) -> FilterError {
    FilterError::Mismatch {
        first: first.to_owned(),
        second: second.to_owned(),
    }
}

/// Digits only: the standard library's numbers may have a sign.
fn decimal<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}
