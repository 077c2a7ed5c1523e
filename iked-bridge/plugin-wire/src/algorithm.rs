//! Transform identifiers as charon hands them to its IPsec backend.
//!
//! Encryption is IKEv2 transform type 1 (RFC 7296 section 3.3.2, IANA registry), integrity is type 3. AEAD algorithms
//! come with [`AUTH_UNDEFINED`]. The key lengths beside them are what a message carries: the salt of a counter-mode
//! algorithm is the last four bytes of its key.

/// AES-CBC (RFC 3602): 16, 24 or 32 bytes.
pub const ENCR_AES_CBC: u32 = 12;
/// AES-CTR (RFC 3686): 20, 28 or 36 bytes.
pub const ENCR_AES_CTR: u32 = 13;
/// NULL (RFC 2410): no key.
pub const ENCR_NULL: u32 = 11;
/// AES-GCM with an 8-byte ICV (RFC 4106): 20, 28 or 36 bytes.
pub const ENCR_AES_GCM_8: u32 = 18;
/// AES-GCM with a 12-byte ICV (RFC 4106): 20, 28 or 36 bytes.
pub const ENCR_AES_GCM_12: u32 = 19;
/// AES-GCM with a 16-byte ICV (RFC 4106): 20, 28 or 36 bytes.
pub const ENCR_AES_GCM_16: u32 = 20;
/// AES-GMAC (RFC 4543), which encrypts nothing: 20, 28 or 36 bytes.
pub const ENCR_NULL_AUTH_AES_GMAC: u32 = 21;
/// ChaCha20-Poly1305 (RFC 7634): 36 bytes.
pub const ENCR_CHACHA20_POLY1305: u32 = 28;

/// HMAC-SHA1-96 (RFC 2404): 20 bytes.
pub const AUTH_HMAC_SHA1_96: u32 = 2;
/// HMAC-SHA2-256-128 (RFC 4868): 32 bytes.
pub const AUTH_HMAC_SHA2_256_128: u32 = 12;
/// HMAC-SHA2-384-192 (RFC 4868): 48 bytes.
pub const AUTH_HMAC_SHA2_384_192: u32 = 13;
/// HMAC-SHA2-512-256 (RFC 4868): 64 bytes.
pub const AUTH_HMAC_SHA2_512_256: u32 = 14;
/// No integrity algorithm of its own: the encryption authenticates (charon's private number).
pub const AUTH_UNDEFINED: u32 = 1024;

/// IP protocol number of ESP.
pub const PROTO_ESP: u32 = 50;
/// IP protocol number of AH.
pub const PROTO_AH: u32 = 51;
