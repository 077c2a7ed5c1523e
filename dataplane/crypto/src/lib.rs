//! culvert-crypto
