//! ESP cipher engines: what turns a payload into an ESP packet's ciphertext and back.
//!
//! A [`Suite`] says which algorithms and how long everything is, a [`SaKey`] holds the keys of
//! one SA, expanded once, and an [`Engine`] seals and opens *batches* of packets in place:
//!
//! ```text
//!              SealOp / OpenOp: one contiguous slice for each packet
//!   | SPI 4 | seq 4 | IV 8 or 16 | payload | padding | pad len | next | ICV 12-32 |
//!           `--------------' `------------ encrypted ----------------' `---------'
//!            written by seal                                         written by seal
//! ```
//!
//! Two engines exist behind the trait. [`portable`] runs on every CPU, is the reference, and takes
//! one packet after the other through ring and RustCrypto. [`wide`] takes many packets at once where
//! the CPU has AVX-512 or VAES; it gives the same bytes for the same [`SaKey`], which is why
//! operations come in batches and each carries its own key: packets of different SAs can share the
//! lanes. [`EngineChoice`] finds the better one at run time.
//!
//! [`replay`] has the anti-replay window, which decides before and after an engine whether a
//! packet is new.
//!
//! Nonces: the IV of GCM and ChaCha20-Poly1305 is the 64-bit sequence number, so it repeats only
//! if a sequence number does. Whoever calls [`Engine::seal_batch`] hands out each number once in
//! the life of a key, and never makes a second [`SaKey`] from the same material
//! ([`KeyMaterial::identity`] recognises it).

mod choice;
pub mod engine;
pub mod key;
mod mac;
pub mod portable;
pub mod replay;
pub mod suite;
#[cfg(target_arch = "x86_64")]
pub mod wide;
#[cfg(not(target_arch = "x86_64"))]
#[path = "wide/absent.rs"]
pub mod wide;

pub use choice::{ChoiceError, EngineChoice};
pub use engine::{Engine, OpenError, OpenOp, SealError, SealOp};
#[cfg(feature = "fingerprint")]
pub use key::Fingerprint;
pub use key::{IdentityKey, KeyError, KeyIdentity, KeyMaterial, SaKey};
pub use portable::Portable;
pub use replay::{ReplayWindow, Verdict};
pub use suite::{Cipher, Framing, Integrity, KeyBits, Suite, SuiteError};
pub use wide::Wide;

#[cfg(all(feature = "fingerprint", not(debug_assertions)))]
compile_error!("feature `fingerprint` shows a trace of key material and is for test builds only");
