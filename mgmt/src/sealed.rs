//! A configuration with its secrets as text that may lie anywhere: sealed with a passphrase.
//!
//! ```text
//!   passphrase, salt ── Argon2id ──> key ─┐
//!   head: version, costs, salt, nonce ────┼─ AES-256-GCM ──> head | sealed | tag ── base64 ──> -----BEGIN ... -----END
//!   configuration as JSON ────────────────┘
//! ```
//!
//! Nothing of it belongs to one box: no key of a store is part of it. Costs are those of RFC 9106 section 4, its second
//! recommendation, and stand in the head, so that they can be raised. Whoever wrote a text chose its costs: those that
//! would keep a box busy are refused before anything is computed.
//!
//! RustCrypto's `aes-gcm` is used for the same reason as in the store: it wipes its expanded key.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use pem_rfc7468::LineEnding;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// What stands behind BEGIN and END.
const LABEL: &str = "CULVERT SEALED CONFIGURATION";
const VERSION: u8 = 1;
/// A configuration that is longer would, sealed, be longer than a text that is loaded.
const MOST_CLEAR: usize = 11 << 20;
/// Of a sealed text, in base64 with line ends.
const MOST_SEALED: usize = 16 << 20;
/// Characters of a passphrase: NIST SP 800-63B asks for 8 of those that nobody can try offline; these can be.
const SHORTEST: usize = 12;
const LONGEST: usize = 1024;

const SALT: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
const HEAD: usize = 1 + 3 * 4 + SALT + NONCE;

/// What deriving the key costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Costs {
    /// KiB of memory.
    memory: u32,
    /// Passes over it.
    passes: u32,
    /// Lanes in it.
    lanes: u32,
}

impl Costs {
    /// RFC 9106 section 4: where there are not 2 GiB to spare.
    const TODAY: Self = Self {
        memory: 64 << 10,
        passes: 3,
        lanes: 4,
    };
    /// What a box does for a text that somebody else may have written: seconds, and what it can spare.
    const MOST: Self = Self {
        memory: 256 << 10,
        passes: 16,
        lanes: 16,
    };
    /// KiB times passes: both at their most would take too long.
    const MOST_WORK: u32 = 1 << 20;

    fn bearable(self) -> bool {
        self.memory <= Self::MOST.memory
            && self.passes <= Self::MOST.passes
            && self.lanes <= Self::MOST.lanes
            && self.memory * self.passes <= Self::MOST_WORK
    }
}

/// Why a text is not sealed, or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too easy to guess.
    #[error("a passphrase has at least {SHORTEST} characters")]
    ShortPassphrase,
    /// Too long.
    #[error("a passphrase has at most {LONGEST} bytes")]
    LongPassphrase,
    /// Too much to be sealed in one piece.
    #[error("{bytes} bytes of configuration are more than the {MOST_CLEAR} that can be sealed")]
    TooLarge {
        /// How much it is.
        bytes: usize,
    },
    /// Not what sealing gives.
    #[error("this is no sealed configuration: {0}")]
    Malformed(&'static str),
    /// A newer Culvert wrote it.
    #[error("the configuration was sealed by a newer version ({0}); this one knows {VERSION}")]
    Newer(u8),
    /// It would take too much.
    #[error(
        "opening this sealed configuration would take {memory} KiB of memory and {passes} passes over it in {lanes} \
         lanes, more than a gateway does"
    )]
    Costly {
        /// KiB.
        memory: u32,
        /// How often.
        passes: u32,
        /// At a time.
        lanes: u32,
    },
    /// The tag does not fit: there is no telling the two apart.
    #[error("the passphrase is wrong, or the sealed configuration was changed")]
    Unopened,
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel")]
    Random,
}

/// Seals a configuration; gives lines of printable characters.
pub fn seal(clear: &str, passphrase: &str) -> Result<String, SealError> {
    if passphrase.chars().count() < SHORTEST {
        return Err(SealError::ShortPassphrase);
    }
    if clear.len() > MOST_CLEAR {
        return Err(SealError::TooLarge { bytes: clear.len() });
    }
    let mut drawn = [0; SALT + NONCE];
    SystemRandom::new()
        .fill(&mut drawn)
        .map_err(|_| SealError::Random)?;
    let costs = Costs::TODAY;
    // At its full size at once: no clear text stays behind in a buffer that moved.
    let mut whole = Zeroizing::new(Vec::with_capacity(HEAD + clear.len() + TAG));
    whole.push(VERSION);
    for cost in [costs.memory, costs.passes, costs.lanes] {
        whole.extend_from_slice(&cost.to_be_bytes());
    }
    whole.extend_from_slice(&drawn);
    whole.extend_from_slice(clear.as_bytes());
    let (head, text) = whole.split_at_mut(HEAD);
    let (salt, nonce) = drawn.split_at(SALT);
    let nonce: [u8; NONCE] = nonce
        .try_into()
        .map_err(|_| SealError::Malformed("its head"))?;
    let tag = cipher(passphrase, salt, costs)?
        .encrypt_inout_detached(&Nonce::from(nonce), head, text.into())
        .map_err(|_| SealError::TooLarge { bytes: clear.len() })?;
    whole.extend_from_slice(&tag);
    pem_rfc7468::encode_string(LABEL, LineEnding::LF, &whole)
        .map_err(|_| SealError::TooLarge { bytes: clear.len() })
}

/// Opens what [`seal`] gave; what is pasted may have blanks and other line ends around its lines.
pub fn open(text: &str, passphrase: &str) -> Result<Zeroizing<String>, SealError> {
    if passphrase.len() > LONGEST {
        return Err(SealError::LongPassphrase);
    }
    if text.len() > MOST_SEALED {
        return Err(SealError::Malformed("it is too long"));
    }
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        lines.push_str(line);
        lines.push('\n');
    }
    let (label, whole) = pem_rfc7468::decode_vec(lines.as_bytes())
        .map_err(|_| SealError::Malformed("it is cut off or was changed"))?;
    if label != LABEL {
        return Err(SealError::Malformed("it is something else in PEM"));
    }
    let too_short = || SealError::Malformed("it is too short");
    let (version, _) = whole.split_first().ok_or_else(too_short)?;
    if *version != VERSION {
        return Err(SealError::Newer(*version));
    }
    let (head, rest) = whole.split_at_checked(HEAD).ok_or_else(too_short)?;
    let (sealed, tag) = rest.split_last_chunk::<TAG>().ok_or_else(too_short)?;
    let (costs, salt, nonce) = parts(head).ok_or_else(too_short)?;
    if !costs.bearable() {
        return Err(SealError::Costly {
            memory: costs.memory,
            passes: costs.passes,
            lanes: costs.lanes,
        });
    }
    let mut clear = Zeroizing::new(sealed.to_vec());
    cipher(passphrase, salt, costs)?
        .decrypt_inout_detached(
            &Nonce::from(nonce),
            head,
            clear.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .map_err(|_| SealError::Unopened)?;
    String::from_utf8(std::mem::take(&mut *clear))
        .map(Zeroizing::new)
        .map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            SealError::Malformed("it is no text")
        })
}

fn parts(head: &[u8]) -> Option<(Costs, &[u8], [u8; NONCE])> {
    let (_, rest) = head.split_first()?;
    let (memory, rest) = rest.split_first_chunk()?;
    let (passes, rest) = rest.split_first_chunk()?;
    let (lanes, rest) = rest.split_first_chunk()?;
    let (salt, nonce) = rest.split_at_checked(SALT)?;
    let costs = Costs {
        memory: u32::from_be_bytes(*memory),
        passes: u32::from_be_bytes(*passes),
        lanes: u32::from_be_bytes(*lanes),
    };
    Some((costs, salt, nonce.try_into().ok()?))
}

fn cipher(passphrase: &str, salt: &[u8], costs: Costs) -> Result<Aes256Gcm, SealError> {
    if passphrase.len() > LONGEST {
        return Err(SealError::LongPassphrase);
    }
    let mut key = Zeroizing::new([0; 32]);
    let costs = Params::new(costs.memory, costs.passes, costs.lanes, Some(key.len()))
        .map_err(|_| SealError::Malformed("its costs are none"))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, costs)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| SealError::Malformed("its costs are none"))?;
    Ok(Aes256Gcm::new((&*key).into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const PASSPHRASE: &str = "correct horse battery";
    const CLEAR: &str = r#"{"system": {"host_name": "canary-in-the-clear"}}"#;

    /// The bytes of a sealed text, changed.
    fn changed(text: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let (_, mut whole) = pem_rfc7468::decode_vec(text.as_bytes()).unwrap();
        change(&mut whole);
        pem_rfc7468::encode_string(LABEL, LineEnding::LF, &whole).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_passphrase_alone() {
        let sealed = seal(CLEAR, PASSPHRASE).unwrap();
        assert!(sealed.starts_with(culvert_mgmt_api::SEALED));
        let (_, whole) = pem_rfc7468::decode_vec(sealed.as_bytes()).unwrap();
        assert!(!whole.windows(6).any(|window| window == b"canary"));
        assert_eq!(open(&sealed, PASSPHRASE).unwrap().as_str(), CLEAR);
        // As a terminal or a mail leaves it.
        let pasted = format!("\n  {}\r\n \r\n", sealed.trim().replace('\n', "  \r\n"));
        assert_eq!(open(&pasted, PASSPHRASE).unwrap().as_str(), CLEAR);
        assert_eq!(
            open(&sealed, "correct horse battery ").unwrap_err(),
            SealError::Unopened
        );
        assert_ne!(seal(CLEAR, PASSPHRASE).unwrap(), sealed, "salt and nonce");
    }

    #[test]
    fn every_part_is_bound() {
        let sealed = seal(CLEAR, PASSPHRASE).unwrap();
        // Salt, nonce, text and tag; costs that are borne, too.
        for at in [13, 13 + SALT, HEAD, HEAD + 10, HEAD + CLEAR.len() + 3] {
            let text = changed(&sealed, |whole| whole[at] ^= 1);
            assert_eq!(
                open(&text, PASSPHRASE).unwrap_err(),
                SealError::Unopened,
                "{at}"
            );
        }
        let cheap = changed(&sealed, |whole| whole[8] = 1);
        assert_eq!(open(&cheap, PASSPHRASE).unwrap_err(), SealError::Unopened);
        let cut = changed(&sealed, |whole| whole.truncate(HEAD + 2));
        assert!(matches!(
            open(&cut, PASSPHRASE),
            Err(SealError::Malformed(_))
        ));
        let newer = changed(&sealed, |whole| whole[0] = 2);
        assert_eq!(open(&newer, PASSPHRASE).unwrap_err(), SealError::Newer(2));
        let half = &sealed[..sealed.len() / 2];
        assert!(matches!(
            open(half, PASSPHRASE),
            Err(SealError::Malformed(_))
        ));
        let other = sealed.replace("CULVERT SEALED CONFIGURATION", "PRIVATE KEY");
        assert!(matches!(
            open(&other, PASSPHRASE),
            Err(SealError::Malformed(_))
        ));
    }

    #[test]
    fn costs_that_would_keep_a_box_busy_are_refused_at_once() {
        let sealed = seal(CLEAR, PASSPHRASE).unwrap();
        let begin = std::time::Instant::now();
        for (memory, passes, lanes) in [
            (u32::MAX, 3, 4),
            (257 << 10, 1, 1),
            (64 << 10, 17, 1),
            (64 << 10, u32::MAX, 1),
            (128 << 10, 16, 1),
            (64 << 10, 3, 17),
        ] {
            let text = changed(&sealed, |whole| {
                whole[1..5].copy_from_slice(&u32::to_be_bytes(memory));
                whole[5..9].copy_from_slice(&u32::to_be_bytes(passes));
                whole[9..13].copy_from_slice(&u32::to_be_bytes(lanes));
            });
            let expected = SealError::Costly {
                memory,
                passes,
                lanes,
            };
            assert_eq!(open(&text, PASSPHRASE).unwrap_err(), expected);
        }
        assert!(begin.elapsed().as_secs() < 5, "nothing was computed");
        for (memory, passes, lanes) in [(0, 3, 4), (64, 0, 4), (64, 3, 0), (8, 1, 16)] {
            let text = changed(&sealed, |whole| {
                whole[1..5].copy_from_slice(&u32::to_be_bytes(memory));
                whole[5..9].copy_from_slice(&u32::to_be_bytes(passes));
                whole[9..13].copy_from_slice(&u32::to_be_bytes(lanes));
            });
            assert!(matches!(
                open(&text, PASSPHRASE),
                Err(SealError::Malformed(_))
            ));
        }
    }

    #[test]
    fn passphrases_have_bounds() {
        assert_eq!(
            seal(CLEAR, "short").unwrap_err(),
            SealError::ShortPassphrase
        );
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(seal(CLEAR, &long).unwrap_err(), SealError::LongPassphrase);
        let much = "x".repeat(MOST_CLEAR + 1);
        assert!(matches!(
            seal(&much, PASSPHRASE),
            Err(SealError::TooLarge { .. })
        ));
    }
}
